//! Restore: from a [`State`](crate::records::State) to a tree that stands where the captured one stood.
//!
//! [`Puppets::build`] makes minimal tasks with the right ids beneath a pid namespace's init, gives them their relations, threads
//! and mappings, and can be done before the source is frozen. Memory is then filled through [`Puppets::access`], from any
//! process. [`Puppets::finish`] gives them descriptors, signals, timers, credentials and registers, and lets go. Until then a
//! puppet dies with its tracer, and dropping [`Puppets`] kills all.

pub mod births;
mod descriptors;
pub mod files;
mod finish;
mod follow;
mod grow;
mod host;
mod join;
mod mapping;
mod missing;
mod passing;
mod process;
mod puppets;
mod thread;
mod turns;

pub use descriptors::{FileSource, NoFiles};
pub use missing::Held;
pub use puppets::{Home, Puppets, Restored};

use ferry_sys::remote;
use std::io;

/// Why a tree could not be rebuilt. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A remote call failed.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// The relations of the processes cannot be built.
    #[error("Cannot rebuild the tree")]
    Births(#[from] births::Impossible),
    /// Something of this host failed.
    #[error("Cannot {what}")]
    Host {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The state asks for what this host cannot give.
    #[error("This host cannot take process {pid}: {what}")]
    Unfit {
        /// Process, as it sees itself.
        pid: i32,
        /// What does not fit.
        what: String,
    },
    /// The state contradicts itself.
    #[error("The state is damaged: {0}")]
    Damaged(String),
    /// Descriptors could not be made.
    #[error("Cannot give process {pid} its descriptors")]
    Files {
        /// Process, as it sees itself.
        pid: i32,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Host { what, source }
    }

    pub(crate) fn unfit(pid: i32, what: impl Into<String>) -> Self {
        Self::Unfit { pid, what: what.into() }
    }
}
