//! One per move: phases, execution of the plan, journal; and the shim with its protocol.

pub mod shim;
