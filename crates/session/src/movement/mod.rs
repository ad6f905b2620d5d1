//! Moves: things with an id that are begun, listed, followed, cancelled, reported.
//!
//! One thread per move and host. Phases are events on a [`recorder::Recorder`]; the decisions are the handover's; this
//! module carries files, state and memory between two shims. [`Movements`] is what a node holds.

mod files;
mod ground;
pub mod hold;
pub mod link;
mod memory;
pub mod node;
mod planning;
pub mod recorder;
mod registry;
pub mod request;
mod source;
mod target;

pub use node::{Node, Offer};
pub use recorder::Recorder;
pub use registry::{Move, Movements, Role, Standing};
pub use request::{CloneSpec, Request, own_mac};

use ferry_model::ids::Hash;

/// Most page streams of one move.
pub const STREAMS_MAX: u32 = 16;

/// What source and target compute alike, each from what it sent or put in place: the hash over files, state and memory.
fn receipt(bulks: &[Hash], memory: Hash) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"ferry receipt 1");
    for hash in bulks {
        hasher.update(&hash.0);
    }
    hasher.update(&memory.0);
    Hash(*hasher.finalize().as_bytes())
}
