//! The kernel: the only place with `unsafe`. One file per kernel facility.

pub mod cgroup;
pub mod fork;
pub mod mapped;
pub mod mountinfo;
pub mod mounts;
pub mod process_vm;
pub mod remote;
pub mod unshare;
