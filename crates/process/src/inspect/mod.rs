//! Inspection: what a running workload holds, as resources of a plan. Nothing is stopped and nothing changes.

pub mod capsule;
pub mod files;
pub mod host;
mod internet;
pub mod tasks;
pub mod written;

pub use files::files;
pub use tasks::tasks;
