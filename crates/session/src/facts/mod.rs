//! What this host says of itself for a plan, and what it has of what a plan asks about.
//!
//! The one module that looks at the machine for planning; the decision itself is `ferry_model::planning`. Facts can be
//! replaced by a file, so that a test can show what happens between hosts that do not fit each other.

mod hashes;
mod holdings;
mod host;
mod shared;

pub use hashes::FileHashes;
pub use holdings::{Place, answer};
pub use host::{OVERRIDES, gather};
pub use shared::{MARKER, identity as shared_identity};
