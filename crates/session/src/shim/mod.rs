//! The shim: one small, single-threaded process per workload and host that outlives the node.
//!
//! It is the parent of the capsule's init, the ptracer, the freezer, the holder of the terminal. Whatever binds to a thread
//! (ptrace) or forks happens here and never in the node. Bulk memory does not pass through it: it hands out
//! [`ferry_transfer::access::SpaceAccess`].

pub mod client;
pub mod protocol;
pub mod spec;
pub mod stream;

pub use client::Client;
pub use spec::{ExecSpec, Network, Size, Spec, With};

/// Name of the socket in a workload's state directory.
pub const SOCKET: &str = "shim.sock";

/// Name of the log file in a workload's state directory.
pub const LOG: &str = "log";
