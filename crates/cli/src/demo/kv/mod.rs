//! A multi-threaded TCP key-value server, and clients that verify every byte of every reply.
//!
//! Plain threads and blocking sockets, because that is what gets moved: open connections with data in both directions, locks
//! and condition variables in use, a large heap. Values are incompressible and follow from key and version, so a client can
//! check a reply without keeping a copy.

pub mod client;
mod connection;
mod dialect;
pub mod protocol;
pub mod report;
pub mod server;
