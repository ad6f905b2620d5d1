//! The daemon of a host: the API, the peers, the trust between them, and the workloads and moves behind them.
//!
//! The node decides nothing that must survive it by itself: workloads live in their shims, moves in their journals. Kill it
//! at any time; the next one finds everything again.

// Who says something must not die when nobody can hear it: `ferry_sys::say`.
#![cfg_attr(not(test), warn(clippy::print_stderr))]

pub mod api;
#[cfg(test)]
mod attacks;
pub mod audit;
pub mod doctor;
mod faults;
mod files;
mod frame;
mod images;
mod journals;
mod moves;
mod node;
mod passing;
pub mod peers;
mod policy;
mod recovery;
pub mod remote;
pub mod trust;
mod up;
mod workloads;

pub use up::{Config, up};
