//! What can go wrong with a capsule.

use ferry_model::error::{Error as Public, Kind};
use std::io;

/// An error of the capsule.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a step.
    #[error("Could not {doing}")]
    Kernel {
        /// The step, in words that follow "could not".
        doing: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// This host cannot do it.
    #[error("{what}")]
    Unable {
        /// What is missing, as a sentence.
        what: String,
        /// What the user can do.
        hint: String,
    },
    /// The capsule does not exist (any more).
    #[error("The capsule in {0} is gone")]
    Gone(String),
    /// Something that came from outside is not as it must be.
    #[error("{0}")]
    Invalid(String),
    /// The workload has something that cannot be rebuilt elsewhere.
    #[error("{what}")]
    Refused {
        /// What it is, by name.
        what: String,
        /// What lifts it.
        lifted_by: String,
    },
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for Public {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Kernel { .. } | Error::Unable { .. } => Kind::Unable,
            Error::Gone(_) => Kind::Usage,
            Error::Invalid(_) | Error::Refused { .. } => Kind::Refused,
        };
        let public = Self::from_source(kind, &error);
        match error {
            Error::Unable { hint, .. } | Error::Refused { lifted_by: hint, .. } => public.hint(hint),
            _ => public,
        }
    }
}

/// Gives an I/O result the step at which it failed.
pub(crate) trait Doing<T> {
    /// `what` follows "could not".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Kernel { doing: what(), source: error.into() })
    }
}
