//! One per move: phases, execution of the plan, journal; and the shim with its protocol.

// Who says something must not die when nobody can hear it: `ferry_sys::say`.
#![cfg_attr(not(test), warn(clippy::print_stderr))]

pub mod decider;
pub mod facts;
pub mod handover;
pub mod imaging;
pub mod journal;
pub mod movement;
pub mod shim;
pub mod visits;
