//! Post-copy, the target's side: pages that are not there yet are asked for when they are touched, and follow in the background.
//!
//! ```text
//! the workload touches a page ─► fault ─► wanted at once ─┐
//!                        nothing touched it ─► background ─┴─► the source ─► arrive ─► placed, who waits goes on
//! ```
//!
//! Nothing here knows what a process is, or a link: [`Resident`] is an address space in which pages are missing, what is wanted is
//! returned as ranges, and what comes is handed in. What it promises: a page is never zero because it was late. Each page that was
//! missing at the beginning is [`Absent`] until it was placed, given back by the workload, or unmapped; only what is not absent is
//! filled with zeros. A page may come twice, and after a lost link all that is still absent is wanted again.
//!
//! A workload goes on living meanwhile: it gives memory back, moves mappings, has children. Each of these is an event that is taken in
//! before another page is placed, in the order in which the kernel tells them.

pub mod absent;
pub mod pages;
pub mod resident;
pub mod serve;

pub use absent::{Absent, Piece};
pub use pages::Pages;
pub use resident::{Happening, Placed, Resident};
pub use serve::{PREFETCH_BYTES, Pager, Wanted};
