//! Remote system calls: what only a task itself can say or do, done from outside.
//!
//! A lone call costs 35-46 µs, one in a batch 0.12-0.7 µs: the batch is the unit of work. A [`Program`] is laid out for an area
//! of the task's memory, loaded by [`Reach`], run by a [`Machine`] and read back. The code that runs is in [`code`].

pub mod area;
pub mod call;
pub mod code;
pub mod machine;
pub mod program;
pub mod tail;

pub use area::{Reach, SharedMemory};
pub use call::{Argument, RemoteCall};
pub use machine::{Machine, Site, Stats, Tracee};
pub use program::{Layout, Program};

use std::io;

/// Why a remote call could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ptrace failed.
    #[error("Cannot trace task {tid}")]
    Trace {
        /// The thread.
        tid: i32,
        /// Why.
        source: io::Error,
    },
    /// The call was made and failed.
    #[error(transparent)]
    Call(CallFailed),
    /// The thread ended meanwhile.
    #[error("Task {tid} ended while it was being looked at (wait status {status:#x})")]
    Gone {
        /// The thread.
        tid: i32,
        /// Its wait status.
        status: i32,
    },
    /// The thread took a fault in the middle of a batch.
    #[error("Task {tid} took signal {signal} at {at:#x} in the middle of a batch")]
    Fault {
        /// The thread.
        tid: i32,
        /// The signal.
        signal: i32,
        /// Instruction pointer.
        at: u64,
    },
    /// The program does not fit into the area.
    #[error("A batch of remote calls is larger than the memory that was set aside for it")]
    TooLarge,
    /// The vDSO has no room for the code.
    #[error("The vDSO of this kernel has too few unused bytes at its end for the code of remote calls")]
    NoRoom,
    /// The area cannot be reached.
    #[error("Cannot reach the memory of a task")]
    Memory(#[from] io::Error),
}

/// A remote call that failed.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {what}")]
pub struct CallFailed {
    /// What it was to do.
    pub what: String,
    /// Why it failed.
    pub source: io::Error,
}

impl Error {
    /// The kernel's error number, where a call failed with one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Call(failed) => failed.source.raw_os_error(),
            Self::Trace { source, .. } | Self::Memory(source) => source.raw_os_error(),
            _ => None,
        }
    }
}
