//! Why an image cannot be written, read or trusted. Each fault has its own variant, kind and hint.

use ferry_model::error::{Error as Seen, Kind};
use std::io;
use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with an image, or with writing one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory that should be written is there already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// Another process writes to the same place right now.
    #[error("another process is writing an image to {}", .0.display())]
    Busy(PathBuf),
    /// There is no image at this path.
    #[error("{} is not an image: it has no file named manifest", .0.display())]
    NotAnImage(PathBuf),
    /// There is no signature.
    #[error("the image is not signed: it has no file named manifest.sig")]
    Unsigned,
    /// The signature file is not one.
    #[error("manifest.sig is not a signature: {0}")]
    BadSignatureFile(&'static str),
    /// The manifest is not what was signed.
    #[error("the manifest is not what was signed: it was altered, or the signature belongs to another image")]
    ManifestAltered,
    /// Signed by a key that is neither this host's nor listed.
    #[error("the image was signed by the key {0}, which is neither this host's nor listed as trusted")]
    ForeignKey(crate::PublicKey),
    /// Written by a later version.
    #[error("the image has format version {found}; this version of Ferry reads up to {known}")]
    NewerVersion {
        /// What the image says.
        found: u32,
        /// What this code knows.
        known: u32,
    },
    /// The manifest is signed, but says things that no image may say.
    #[error("the manifest is malformed: {0}")]
    Malformed(String),
    /// Content differs from its hash.
    #[error("{0} was altered: its content does not have the hash that the manifest names")]
    Altered(String),
    /// A file is shorter than the manifest says.
    #[error("{file} is truncated: it has {found} bytes of {expected}")]
    Truncated {
        /// Which file.
        file: String,
        /// Its length in bytes.
        found: u64,
        /// The length that the manifest names, in bytes.
        expected: u64,
    },
    /// A file is longer than the manifest or a limit says.
    #[error("{file} is oversized: it has {found} bytes, at most {limit} are allowed")]
    Oversized {
        /// Which file, or which part of the manifest.
        file: String,
        /// Its length in bytes, or the number of entries.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A name in the manifest leads out of the image.
    #[error("the name {0:?} leads out of the image")]
    Climbing(String),
    /// A file that the manifest names is not there.
    #[error("{0} is missing from the image")]
    Missing(String),
    /// Something that should be a plain file is not.
    #[error("{0} is not a regular file")]
    NotAFile(String),
    /// It was restored before.
    #[error("this image was already restored ({0})")]
    Consumed(String),
    /// A key file is unusable.
    #[error("the key file {} is unusable: {why}", .path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Memory of the workload could not be read.
    #[error("memory of space {space} at {address:#x} could not be read")]
    Source {
        /// Number of the space.
        space: u32,
        /// Where, in bytes.
        address: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Memory of the workload could not be written.
    #[error("memory of space {space} at {address:#x} could not be written")]
    Sink {
        /// Number of the space.
        space: u32,
        /// Where, in bytes.
        address: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The operating system refused something.
    #[error("could not {doing}")]
    Io {
        /// What was tried, with the path.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// Wraps an error of the system with what was tried.
    pub(crate) fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { doing: doing.into(), source: source.into() }
    }

    /// The kind that a person sees.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Exists(_) | Self::NotAnImage(_) => Kind::Usage,
            Self::Busy(_) | Self::Key { .. } | Self::Source { .. } | Self::Sink { .. } | Self::Io { .. } => {
                Kind::Unable
            }
            _ => Kind::Refused,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Exists(_) => "Name a directory that does not exist; it is made",
            Self::Busy(_) => "Wait until it is done, or name another directory",
            Self::NotAnImage(_) => "Name the directory that `ferry checkpoint` wrote",
            Self::Unsigned | Self::BadSignatureFile(_) => {
                "Copy the image again, with every file in it; an unsigned image is never restored"
            }
            Self::ManifestAltered | Self::Altered(_) | Self::Truncated { .. } | Self::Missing(_) => {
                "Copy the image again from where it was written; if it was altered there, it is lost"
            }
            Self::ForeignKey(_) => {
                "If you trust the host that made it, add the key to the list of trusted keys (trusted-image-keys in the state directory), or pass --trust-image for this one time"
            }
            Self::NewerVersion { .. } => "Restore it with the version of Ferry that wrote it, or a later one",
            Self::Consumed(_) => "To start a second copy, with an identity of its own, pass --as-clone",
            Self::Key { .. } => "Put the file right, or move it away: a new key is made on the next use",
            Self::Io { source, .. } if source.raw_os_error() == Some(28) => {
                "The file system is full: free some space, or name a directory elsewhere"
            }
            _ => return None,
        })
    }
}

impl From<Error> for Seen {
    fn from(error: Error) -> Self {
        let seen = Self::from_source(error.kind(), &error);
        match error.hint() {
            Some(hint) => seen.hint(hint),
            None => seen,
        }
    }
}
