//! The shim: one small, single-threaded process per workload and host that outlives the node.
//!
//! It is the parent of the capsule's init, the ptracer, the freezer, the holder of the terminal. Whatever binds to a thread
//! (ptrace) or forks happens here and never in the node. Bulk memory does not pass through it: it hands out
//! [`ferry_transfer::access::SpaceAccess`].

mod adopt;
mod answer;
mod beside;
mod capture;
pub mod client;
pub(crate) mod clone;
mod connection;
pub mod envelope;
mod exec;
mod freeze;
mod furniture;
mod ground;
mod inspect;
mod lock;
mod missing;
mod network;
mod orphans;
mod packets;
mod pager;
pub mod protocol;
mod rebuild;
pub mod record;
mod run;
pub mod spec;
pub mod stream;
mod terminal;
mod throttle;
mod track;
mod unsent;
mod workload;

pub(crate) use capture::CONTENTS;
pub use client::Client;
pub use lock::lock_name;
pub use run::run;
pub use spec::{ExecSpec, Network, Size, Spec, With};

/// Name of the socket in a workload's state directory.
pub const SOCKET: &str = "shim.sock";

/// Name of a shim's record in a workload's state directory.
pub const RECORD: &str = "shim.cbor";

/// Name of what connections are still to be given, in a workload's state directory.
pub(crate) const CONNECTIONS: &str = "connections.cbor";

/// Name of the log file in a workload's state directory.
pub const LOG: &str = "log";
