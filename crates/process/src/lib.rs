//! Capture and restore of process trees: one file per kernel object, and the capsule that they live in.
//!
//! `records` is what a captured tree is as data; `capture` fills it from a stopped tree, `restore` builds a tree
//! from it, and `inspect` looks without stopping anything. Memory's content never passes through the records: it
//! is read and written by `PageSource` and `PageSink` of the transfer crate.

// Who says something must not die when nobody can hear it: `ferry_sys::say`.
#![cfg_attr(not(test), warn(clippy::print_stderr))]

pub mod adoption;
pub mod capsule;
pub mod capture;
mod clock;
pub mod inspect;
pub mod layout;
pub mod live;
pub mod nursery;
pub mod records;
pub mod restore;
mod terminal;
pub mod vdso;
