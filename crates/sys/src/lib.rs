//! The kernel: the only place with `unsafe`. One file per kernel facility.

pub mod process_vm;
