//! The error that a person sees: what kind it is, what happened, why, and what can be done about it.
//!
//! Crates have small typed errors of their own and turn them into this one at the border (the API, the CLI). It
//! crosses the wire whole: kind, chain of causes and hints are data, never one flattened sentence.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of trouble it is. Each has a prefix and an exit code of its own.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schema(as = ErrorKind)]
pub enum Kind {
    /// This host cannot: a kernel feature, a privilege, a resource is missing.
    #[n(0)]
    Unable,
    /// The command was wrong: unknown name, bad value, not found.
    #[n(1)]
    Usage,
    /// The plan or a policy refuses. Nothing was touched.
    #[n(2)]
    Refused,
    /// It failed and was rolled back: the workload still runs at the source.
    #[n(3)]
    RolledBack,
    /// The outcome is not final: in doubt, or paused.
    #[n(4)]
    NotFinal,
    /// It is done, with a named remainder.
    #[n(5)]
    Remainder,
    /// A bug in Ferry.
    #[n(6)]
    Bug,
}

impl Kind {
    /// The exit code of a command that ends with it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Unable => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::RolledBack => 4,
            Self::NotFinal => 5,
            Self::Remainder => 6,
            Self::Bug => 255,
        }
    }

    /// What stands before the message.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Unable => "Cannot",
            Self::Usage => "Usage",
            Self::Refused => "Refused",
            Self::RolledBack => "Failed and rolled back",
            Self::NotFinal => "Not final",
            Self::Remainder => "Done, but",
            Self::Bug => "Bug in Ferry",
        }
    }
}

/// An error for people and programs: sentence, causes from near to far, hints.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Error {
    /// What kind it is.
    #[n(0)]
    pub kind: Kind,
    /// One sentence, without a full stop.
    #[n(1)]
    pub message: String,
    /// Causes, the nearest first. None repeats another.
    #[n(2)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What the user can do, one line each.
    #[n(3)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hints: Vec::new() }
    }

    /// Turns a library's error, with its chain of sources, into one of `kind`. The outermost text is the message.
    pub fn from_source(kind: Kind, source: &(dyn std::error::Error + 'static)) -> Self {
        let mut error = Self::new(kind, source.to_string());
        let mut next = source.source();
        while let Some(cause) = next {
            error.causes.push(cause.to_string());
            next = cause.source();
        }
        error
    }

    /// Puts `message` in front; what was the message becomes the nearest cause.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let inner = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, inner);
        self
    }

    /// Adds a line that says what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.prefix(), self.message)
    }
}

impl std::error::Error for Error {}

/// Shorthand for results that end with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
