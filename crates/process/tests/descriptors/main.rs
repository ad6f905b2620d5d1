//! Descriptors captured from a process that holds them and made again here, object by object.
//!
//! The holder is `sleep` with the descriptors that a test leaves to it; it is killed before they are made again, so what
//! works afterwards was rebuilt and not kept.

mod event;
mod file;
mod holder;
mod inventory;
mod pipe;
mod tcp;
mod terminal;
mod udp;
mod unix;
