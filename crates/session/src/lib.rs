//! One per move: phases, execution of the plan, journal; and the shim with its protocol.

pub mod decider;
pub mod facts;
pub mod handover;
pub mod imaging;
pub mod journal;
pub mod movement;
pub mod shim;
