//! The kernel: the only place with `unsafe`. One file per kernel facility.

pub mod cgroup;
pub mod cpu;
pub mod fork;
pub mod kcmp;
pub mod mapped;
pub mod mountinfo;
pub mod mounts;
pub mod netdevice;
pub mod pagemap;
pub mod pidfd;
pub mod proc;
pub mod process_vm;
pub mod ptrace;
pub mod remote;
pub mod schedule;
pub mod scm;
pub mod sysv;
pub mod timens;
pub mod unshare;
