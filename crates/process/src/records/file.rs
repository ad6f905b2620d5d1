//! Open file descriptions, and the tables that name them.

use minicbor::{Decode, Encode};

/// All descriptions and tables of a tree.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Files {}
