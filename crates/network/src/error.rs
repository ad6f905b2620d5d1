//! What can go wrong with the network.

use ferry_model::error::{Error as Public, Kind};
use std::io;

/// An error of the network.
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
    /// The bridge that workloads shall be ports of does not exist.
    #[error("There is no bridge {0} on this host")]
    NoBridge(String),
    /// The workload's network has something that cannot be rebuilt.
    #[error("{0}")]
    Refused(String),
    /// Not an address, a name, a number that it should be.
    #[error("{0}")]
    Invalid(String),
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for Public {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Kernel { .. } | Error::NoBridge(_) => Kind::Unable,
            Error::Refused(_) => Kind::Refused,
            Error::Invalid(_) => Kind::Usage,
        };
        let public = Self::from_source(kind, &error);
        match error {
            Error::NoBridge(name) => public.hint(format!(
                "ip link add {name} type bridge && ip link set {name} up && ip link set DEVICE master {name}"
            )),
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
