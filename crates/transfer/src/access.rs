//! How to reach a space from another process: plain data, so that the shim (which holds the tasks) can tell the mover threads
//! (which live in the node) where the memory is.
//!
//! A private address space is reached by the pid of a task in it; memory that several spaces share, by a path that opens it
//! (`/proc/PID/map_files/..`, `/proc/PID/fd/N`). Neither needs a ptrace attachment, only the right to have one.

use crate::space::{Range, SpaceId};
use minicbor::{Decode, Encode};

/// One space, how to reach it, and which ranges of it may be touched.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SpaceAccess {
    /// Which.
    #[n(0)]
    pub space: SpaceId,
    /// How to reach it.
    #[n(1)]
    pub via: Via,
    /// At a source: the ranges that hold content. At a target: those that may be written. Ascending and disjoint.
    #[cbor(n(2), with = "crate::packed")]
    pub ranges: Vec<Range>,
}

/// The way to a space.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Via {
    /// The address space of this task: its pid as this host's `/proc` has it. Addresses are virtual addresses.
    #[n(0)]
    Task {
        /// The pid.
        #[n(0)]
        pid: i32,
    },
    /// A file: addresses are offsets into it.
    #[n(1)]
    File {
        /// Path that opens it for reading (source) or reading and writing (target).
        #[n(0)]
        path: String,
    },
}

/// Pages of one space that a target begins without: they follow while the workload runs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Missing {
    /// Which space.
    #[n(0)]
    pub space: SpaceId,
    /// Which pages: ascending, disjoint, not empty.
    #[cbor(n(1), with = "crate::packed")]
    pub ranges: Vec<Range>,
}
