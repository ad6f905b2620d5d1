//! Pre-copy over any address space: rounds of *find what was written, send it*, until the last one inside of a pause.
//!
//! ```text
//! arm ─► round ─► round ─► .. ─► (the owner stops the workload) last round ─► disarm
//!          │        └ between rounds: add, remove, allow (where the target has places), lost (what it had to let go)
//!          └ failed or cancelled: what was not delivered is still pending, call it again
//! ```
//!
//! Nothing here knows what a process is. [`TrackedSpace`] is whatever can say which of its pages were written since it was last
//! asked; [`Carrier`] brings pages to the other side; there a [`Filler`] puts them in their places. When to stop is decided by
//! `ferry_model::strategy` from what each round returns.
//!
//! What it promises: after a last round that returned `Ok`, with the source standing still since before it began, the target has every
//! byte of every space. That rests on a few sets of pages for each space ([`ledger`]): a page is taken from *pending* only when the
//! carrier has said that it is in its place.

pub mod carrier;
pub mod ledger;
pub mod range_set;
pub mod rounds;
mod send;
pub mod space;

pub use carrier::{Carrier, Filler, Local};
pub use range_set::RangeSet;
pub use rounds::{Engine, RoundError};
pub use send::BATCH_BYTES;
pub use send::is_zero;
pub(crate) use send::{without, without_zeros};
pub use space::{Found, TrackedSpace, Untracked};
