//! What can go wrong when descriptors are made again.

use ferry_model::error::Kind;
use std::io;

/// An error of the restore of descriptors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The records contradict themselves or what is here.
    #[error("{0}")]
    Broken(String),
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
    pub(crate) fn broken(what: impl Into<String>) -> Self {
        Self::Broken(what.into())
    }

    /// Wraps what the kernel said to an attempt to do `what`.
    pub(crate) fn kernel<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Kernel { what, source: source.into() }
    }
}

impl From<Error> for ferry_model::error::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Broken(_) => Kind::Refused,
            Error::Kernel { .. } => Kind::Unable,
        };
        Self::from_source(kind, &error)
    }
}
