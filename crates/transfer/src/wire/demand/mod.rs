//! Pages on demand: what the pager of a target asks for, and what its source answers.
//!
//! ```text
//! target                                     source
//!   ask (urgent?), a table of ranges ─────────►
//!   ◄───────── pages, or zeros, of these ranges: as many frames as it takes, in their order
//!   ask ..                                        (asks are not waited for: a window of them is on the way)
//!   have, a table of ranges .. ──────────────►    nothing is missing any more: what has come
//!   all in, with its hash ───────────────────►
//!   ◄─────────────────────────────── agreed
//! ```
//!
//! The frames are those of [`super::rounds::frame`]. A page may be asked for twice, on any stream and on a new one after another was lost:
//! the source stands still, so it answers the same. It answers nothing outside of what it has offered. Each side counts the frames that
//! it sends with a table, from 0.
//!
//! **The hash** ([`PageSum`]) covers every page that was delivered, with its space and address at the source: what the workload gave back
//! before it was delivered is in it on neither side. The target adds up what it has put into the pager, the source what it has answered. At
//! the end the source is told which pages the target has, and must come to the same: what it has answered in vain is taken out, and what
//! an earlier server has answered is read once more.

mod ask;
mod delivered;
mod serve;
mod sum;

pub use ask::{Answer, Asker};
pub use delivered::Delivered;
pub use serve::{Progress, serve};
pub use sum::{PageHash, PageSum, sum_of};

#[cfg(test)]
mod tests;
