//! A workload that writes and checks itself, a client that times its replies, and the hosts between which it moves: what `bench live`
//! measures with.

pub mod client;
pub mod counters;
pub mod first_round;
pub mod plots;
pub mod samples;
pub mod slowdown;
pub mod soak;
pub mod stage;
pub mod table;
pub mod tls;
pub mod watcher;
pub mod writer;
