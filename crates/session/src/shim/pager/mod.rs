//! The pager of a workload that runs before all of its memory is there: a process of its own, and what the shim does about it.
//!
//! ```text
//! page server ══ ways (Unix sockets) ══► pager ── reads events, places pages ──► the workload's address spaces
//!                                          │ one table of descriptors, shared memory
//!                                        shim ── starts it, and another when it dies
//!                                          │ copies of the descriptors
//!                                     capsule's init ── third holder
//! ```
//!
//! A fork of the shim without an exec that shares its table of descriptors: whichever of both is killed, no userfaultfd is closed, not even
//! that of a child of which the kernel has just told. What was read stands in shared memory ([`ledger`]), so a successor knows all that its
//! predecessor knew, asks the source again for what is absent, and goes on. Placing a page twice does no harm: the kernel refuses the second.
//!
//! Nobody of Ferry's may read the workload's memory while pages are missing, neither the shim nor the pager: it would wait for itself.

mod handover;
mod hold;
mod ledger;
mod process;
mod standing;
mod ways;

pub(super) use hold::{Hold, nothing_missing};
