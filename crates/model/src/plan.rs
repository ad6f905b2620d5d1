//! A plan: what a move will do with each resource, with the reason and the cost, and every blocker with what lifts it.

use crate::ids::{Hash, HostName, WorkloadId};
use crate::resource::{Action, Attachment, Binding};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// One resource as found on the source, before any decision.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Resource {
    /// What sort of thing it is, in the field's words: `file`, `library`, `tcp-connection`, `terminal`, `memory` ..
    #[n(0)]
    pub sort: String,
    /// Its name, as the workload knows it: a path, an address, `pipe:[123]`.
    #[n(1)]
    pub name: String,
    /// The task that holds it (as seen inside of the capsule) and the descriptor, where there is one.
    #[n(2)]
    pub holder: Option<Holder>,
    /// How the workload is bound to it.
    #[n(3)]
    pub binding: Binding,
    /// How tightly it is attached to the host.
    #[n(4)]
    pub attachment: Attachment,
    /// What its transfer costs.
    #[n(5)]
    pub bytes: u64,
    /// Content hash, where it is bound by value.
    #[n(6)]
    pub hash: Option<Hash>,
    /// Why it cannot be moved by this version at all, if so; with what the user can do.
    #[n(7)]
    pub unsupported: Option<Blocker>,
    /// Identity of the shared file system that it lies on (`nfs4 server:/export`), where it does.
    #[n(8)]
    #[serde(default)]
    pub shared: Option<String>,
}

/// Who holds a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Holder {
    /// Process id, as the workload sees it.
    #[n(0)]
    pub pid: i32,
    /// Descriptor.
    #[n(1)]
    pub fd: Option<i32>,
}

/// Something that makes a move impossible, found before anything is touched.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Blocker {
    /// What stands in the way, with pid and descriptor.
    #[n(0)]
    pub what: String,
    /// What lifts it: a flag, a command, or a sentence.
    #[n(1)]
    pub lifted_by: String,
}

/// A resource with what will be done about it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Item {
    /// The resource.
    #[n(0)]
    pub resource: Resource,
    /// What is done.
    #[n(1)]
    pub action: Action,
    /// Why.
    #[n(2)]
    pub reason: String,
    /// Bytes that cross the network for it.
    #[n(3)]
    pub bytes: u64,
}

/// What the source found: everything that a decision needs of that side.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Inventory {
    /// The workload.
    #[n(0)]
    pub workload: WorkloadId,
    /// The host that it runs on.
    #[n(1)]
    pub facts: crate::facts::HostFacts,
    /// Its resource segment.
    #[n(2)]
    pub resources: Vec<Resource>,
    /// Bytes of its execution segment's memory that would travel now.
    #[n(3)]
    pub memory_bytes: u64,
}

/// The whole plan of a move.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Plan {
    /// What is moved.
    #[n(0)]
    pub workload: WorkloadId,
    /// From here.
    #[n(1)]
    pub source: HostName,
    /// To there.
    #[n(2)]
    pub target: HostName,
    /// Every resource with its action.
    #[n(3)]
    pub items: Vec<Item>,
    /// Everything in the way. A plan with blockers is not executed.
    #[n(4)]
    pub blockers: Vec<Blocker>,
    /// Exceptions to the promise that are named before the move.
    #[n(5)]
    pub exceptions: Vec<String>,
    /// Hash of the facts of both sides that the plan was made from: a move by this plan refuses if they changed.
    #[n(6)]
    pub facts: Hash,
}
