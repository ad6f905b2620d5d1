//! Moving bytes: what an address space and a filler are, and the wire between them.
//!
//! Nothing outside of `linux/` knows what a process is: guest RAM and Wasm memory use the same traits.

// Who says something must not die when nobody can hear it: `ferry_sys::say`.
#![cfg_attr(not(test), warn(clippy::print_stderr))]

pub mod access;
pub mod engine;
pub mod linux;
mod packed;
pub mod pager;
pub mod space;
pub mod wire;
