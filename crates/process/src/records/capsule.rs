//! The capsule as data.

use minicbor::{Decode, Encode};

/// Namespaces and their content.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Capsule {}
