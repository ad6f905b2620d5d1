//! Capture: from a running tree to a [`State`], from outside.
//!
//! 1. [`seize()`] looks at the tree, attaches to every thread and stops it; of a tree that is frozen first, [`look`] comes before the
//!    freeze and [`seize_frozen`] after it. (Safety never rests on that: a cgroup that is frozen stays frozen when
//!    the tracer dies.)
//! 2. [`Seized::capture`] reads `/proc` and asks ptrace; what only a task itself can say is asked by one batch per thread.
//! 3. [`Seized::release`] puts everything back and lets go, or [`Seized::kill`] ends the tree.
//!
//! At no moment does a killed tracer harm the tree: see `ferry_sys::remote::code`.

pub(crate) mod advice;
pub mod files;
pub mod interrupted;
pub mod memory;
mod numbers;
mod process;
pub(crate) mod relations;
mod scope;
mod seize;
mod site;
pub(crate) mod space;
mod thread;
mod tree;
mod userfaultfd;

pub use numbers::Numbers;
pub use scope::Scope;
pub use seize::{Looked, Seized, SeizedTask, SeizedThread, TaskRef, look, seize, seize_frozen};

pub(crate) use numbers::ObjectKey;
pub(crate) use process::SpaceAnswers;
pub(crate) use scope::{is_zombie, members, scan, with_zombies};
pub(crate) use seize::seize_process;

use crate::records::State;
use ferry_sys::remote;
use ferry_transfer::access::SpaceAccess;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// A captured tree. It is still stopped.
#[derive(Debug)]
pub struct Captured {
    /// Everything but the content of memory. `files` and `capsule` are filled in by their own modules.
    pub state: State,
    /// How the content of memory is reached while the tree is stopped, from any process of this host that may.
    pub memory: Vec<SpaceAccess>,
    /// Waits with a time-out: to be given to the next capture of the same tree.
    pub waits: Vec<interrupted::KnownWait>,
    /// Remote calls that were made.
    pub stats: remote::Stats,
}

/// What a capture should know beforehand.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// What an earlier capture or restore of this tree gave as `waits`.
    pub waits: Vec<interrupted::KnownWait>,
    /// Numbers that spaces and objects have already.
    pub numbers: Numbers,
    /// Numbers of spaces whose private content somebody else knows: it is not looked for, and their ranges stay empty.
    pub tracked: BTreeSet<u32>,
    /// Whoever knows that knows their guard pages, too: none are noted.
    pub guards_known: bool,
}

/// Why a tree could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A remote call failed.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// Something could not be read.
    #[error("Cannot read {what} of task {pid}")]
    Read {
        /// What.
        what: String,
        /// Task, as this host sees it.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// A thread does not stop.
    #[error(
        "Task {tid} does not stop: it has been in an uninterruptible wait for {waited:?}; try again when its input or output is done"
    )]
    Stuck {
        /// Thread, as this host sees it.
        tid: i32,
        /// How long was waited.
        waited: Duration,
    },
    /// This version cannot move it. An inventory names the same thing before anything is touched.
    #[error("Process {pid} holds what cannot be moved: {what}")]
    Unsupported {
        /// Process, as it sees itself.
        pid: i32,
        /// What.
        what: String,
    },
    /// There is nothing to capture.
    #[error("No task is left to capture")]
    Empty,
}

impl Error {
    pub(crate) fn read(what: impl Into<String>, pid: i32) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Read { what, pid, source }
    }

    pub(crate) fn unsupported(pid: i32, what: impl Into<String>) -> Self {
        Self::Unsupported { pid, what: what.into() }
    }
}
