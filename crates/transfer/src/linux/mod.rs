//! The spaces of processes, by pid and by descriptor: what [`crate::access`] describes, opened.
//!
//! Used by mover threads while the tasks stand still; nothing here stops or attaches to anything.

mod opened;
mod sink;
mod source;

pub use sink::LinuxSink;
pub use source::LinuxSource;
