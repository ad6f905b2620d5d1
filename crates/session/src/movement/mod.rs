//! Moves: things with an id that are begun, listed, followed, cancelled, reported.
//!
//! One thread per move and host. Phases are events on a [`recorder::Recorder`]; the decisions are the handover's; this
//! module carries files, state and memory between two shims. [`Movements`] is what a node holds.

mod alone;
mod arrive;
mod captured;
mod carry;
mod choose;
mod drain;
mod estimate;
mod files;
mod ground;
mod held;
pub mod hold;
mod images;
mod incoming;
mod introduction;
pub mod link;
mod live;
mod memory;
mod missing;
pub mod node;
mod packets;
mod pause;
mod planning;
pub mod recorder;
mod registry;
pub mod request;
mod revive;
mod rounds;
mod serving;
mod source;
mod suspend;
mod taking;
mod target;
mod warm;
mod watch;

pub use node::{Node, Offer};
pub use recorder::Recorder;
pub use registry::{Move, Movements, Role, Standing};
pub use request::{CloneSpec, Request, own_mac};
pub use revive::{Restoration, Restored, workload_in};
pub use suspend::Checkpoint;

use ferry_model::ids::Hash;

/// What the node remembers of a workload, in its directory: written by the node, kept when all else there is removed.
pub const NODE_RECORD: &str = "node.cbor";

/// The image of a warm move, in the workload's directory at the source. While it is there the move is not over.
const WARM_IMAGE: &str = "warm-image";

/// The image of a warm move at its target, until memory is loaded from it.
const ARRIVING: &str = "arriving-image";

pub use ferry_model::strategy::options::STREAMS_MAX;

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
