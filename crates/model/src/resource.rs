//! The resource segment: how a workload is bound to what it holds, and how tightly that is attached to its host.
//!
//! The table (binding by attachment, after Fuggetta, Picco and Vigna, "Understanding Code Mobility", 1998) has nine
//! cells; each has a first choice and fallbacks.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// What the workload insists on when it names a resource.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Binding {
    /// Exactly this one (a file that it writes, its own address).
    #[n(0)]
    Identifier,
    /// Anything with this content (an executable, a library).
    #[n(1)]
    Value,
    /// Anything of this type (a terminal, /dev/null, a local printer).
    #[n(2)]
    Type,
}

/// How tightly a resource is attached to its host.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Attachment {
    /// Moves cheaply (a small file).
    #[n(0)]
    Unattached,
    /// Moves at a price (a large data base).
    #[n(1)]
    Fastened,
    /// Cannot move (a device, a host's port).
    #[n(2)]
    Fixed,
}

/// What is done with a resource in a move.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
pub enum Action {
    /// Move it.
    #[n(0)]
    #[serde(rename = "MV")]
    Move,
    /// Copy its value.
    #[n(1)]
    #[serde(rename = "CP")]
    Copy,
    /// Make a global reference to it.
    #[n(2)]
    #[serde(rename = "GR")]
    Reference,
    /// Bind again, to what the target has.
    #[n(3)]
    #[serde(rename = "RB")]
    Rebind,
}
