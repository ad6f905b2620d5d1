//! Rounds of memory over several streams: the [`Carrier`](crate::engine::Carrier) of a live move, and the other end.
//!
//! ```text
//! engine ─ pages ─► queue ─► thread: hash, compress?, cap ─► stream 0 ═══► thread: check, unpack, hash ─► filler
//!   (reads ahead)     └────► thread: ..                   ─► stream 1 ═══► thread: ..
//! ```
//!
//! The queue is short: when the link is slower than memory is read, the engine waits. A frame has many ranges ([`frame`]), so
//! scattered pages cost hardly more than those in a row. *Settle* is a barrier: each stream answers it when everything before is in
//! its place. Between two of them no page comes twice, so streams need no order among each other. Both sides hash what they sent or
//! put in its place ([`digest`]); the sums must agree.
//!
//! What the target [holds](held) by content is not sent: the first round looks each page up and sends its number instead.
//!
//! When one stream fails, all do: the sender is not used again, and the receiver ends every thread before it says so.

mod compress;
pub mod digest;
pub mod frame;
pub mod held;
mod queue;
mod receiver;
mod sender;

pub(super) use compress::Decider;
pub use compress::{Compression, Verdict};
pub use held::{Held, Offer, PageName};
pub use receiver::Receiver;
pub use sender::{Figures, Settings, StreamCarrier};

use std::time::Duration;

/// How long a peer that has something to do may take until it is given up. A cut link is noticed much earlier, by the kernel.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// How often a thread that waits looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(250);
