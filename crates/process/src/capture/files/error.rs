//! What can go wrong with descriptors.

use ferry_model::error::Kind;
use ferry_model::plan::Blocker;
use std::io;

/// An error of the capture of descriptors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that cannot be moved.
    #[error("{}", sentence(.0))]
    Unsupported(Vec<Blocker>),
    /// Something that may be over in a moment, such as a connection that was not accepted yet.
    #[error("{what}; let the workload run on for a moment and try again")]
    Busy {
        /// What it is, with pid and descriptor.
        what: String,
    },
    /// The kernel said no.
    #[error("Cannot {what}")]
    Kernel {
        /// What was to be done.
        what: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn busy(what: impl Into<String>) -> Self {
        Self::Busy { what: what.into() }
    }

    /// Wraps what the kernel said to an attempt to do `what`.
    pub(crate) fn kernel<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Kernel { what, source: source.into() }
    }
}

fn sentence(blockers: &[Blocker]) -> String {
    let mut text = String::from("The workload holds what cannot be moved: ");
    for (number, blocker) in blockers.iter().take(5).enumerate() {
        if number > 0 {
            text.push_str("; ");
        }
        text.push_str(&blocker.what);
    }
    if blockers.len() > 5 {
        text.push_str(&format!("; and {} more", blockers.len() - 5));
    }
    text
}

impl From<Error> for ferry_model::error::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Unsupported(_) => Kind::Refused,
            Error::Busy { .. } => Kind::RolledBack,
            Error::Kernel { .. } => Kind::Unable,
        };
        let mut out = Self::from_source(kind, &error);
        if let Error::Unsupported(blockers) = error {
            out.hints.extend(blockers.into_iter().map(|blocker| blocker.lifted_by));
            out.hints.dedup();
        }
        out
    }
}
