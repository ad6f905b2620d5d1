//! What a captured tree is, as data: field-numbered CBOR, so that old readers skip what they do not know.
//!
//! Process ids in here are ids *inside* of the capsule's pid namespace. Spaces and memory objects share one
//! numbering (`SpaceId` of the transfer crate). Nothing may be read from its order: a tree that was tracked keeps the numbers that
//! the tracking gave, and those of processes that have ended are missing.

pub mod capsule;
pub mod file;
pub mod memory;
pub mod socket;
pub mod task;

pub use capsule::Capsule;
pub use file::Files;
pub use memory::{Backing, MemoryObject, ObjectKind, Space, Vma};
pub use task::{Credentials, Task, Thread};

use minicbor::{Decode, Encode};

/// Version of these records. A reader refuses a newer major version; unknown fields are skipped.
pub const VERSION: u32 = 1;

/// Everything about a captured tree except for the content of its memory and files.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct State {
    /// [`VERSION`] of the writer.
    #[n(0)]
    pub version: u32,
    /// Every process, parents before their children.
    #[n(1)]
    pub tasks: Vec<Task>,
    /// Every address space. `Task::space` names one by its id.
    #[n(2)]
    pub spaces: Vec<Space>,
    /// Memory that more than one mapping shares, or that has no path: shared anonymous memory, memfds, deleted files.
    #[n(3)]
    pub objects: Vec<MemoryObject>,
    /// Open file descriptions and the tables that name them.
    #[n(4)]
    pub files: Files,
    /// The capsule, when the tree lived in one.
    #[n(5)]
    pub capsule: Option<Capsule>,
}

impl State {
    /// The state as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to a vector cannot fail.
        let _ = minicbor::encode(self, &mut bytes);
        bytes
    }

    /// Reads what [`State::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, minicbor::decode::Error> {
        let state: Self = minicbor::decode(bytes)?;
        if state.version > VERSION {
            return Err(minicbor::decode::Error::message(
                "the state was written by a newer version of Ferry",
            ));
        }
        Ok(state)
    }
}
