//! A directory tree as a stream: what a workload wrote to its root, and what is in its memory file systems.
//!
//! The stream is a magic number, then for each entry its description (length and CBOR) and, for a regular file, its
//! data segments and a BLAKE3 hash of them; at the end the number of entries and of content bytes. Holes stay holes,
//! hard links stay links, whiteouts and opaque directories of an overlay stay what they are. Files of any size pass
//! through a buffer of 1 MiB.
//!
//! Unpacking trusts nothing: every name is opened beneath the given directory with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`, everything is bounded, and a file counts only once its hash is right.

mod changes;
mod entry;
pub mod index;
mod pack;
mod unpack;
mod xattr;

pub use changes::pack_changes;
pub use entry::{Entry, Kind};
pub use index::{Changes, Index, Mapped};
pub use pack::{Parts, pack, pack_nothing, pack_parts};
pub use unpack::unpack;

/// Begins every stream.
const MAGIC: &[u8; 8] = b"FERRYTR1";
/// Size of the buffer through which content passes, bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// What a tree may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries_max: u64,
    /// Bytes of content, all files together, holes not counted.
    pub bytes_max: u64,
    /// Depth of directories.
    pub depth_max: usize,
}

impl Default for Limits {
    /// Ten million entries, 16 TiB, 256 levels.
    fn default() -> Self {
        Self { entries_max: 10_000_000, bytes_max: 16 << 40, depth_max: 256 }
    }
}

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// What can go wrong with a tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("Could not {doing} {path:?}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On which entry.
        path: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The stream could not be read or written.
    #[error("Could not pass the tree on")]
    Stream(#[source] std::io::Error),
    /// The stream is not what `pack` writes: cut, altered, or made to do harm.
    #[error("The tree is refused: {0}")]
    Refused(String),
    /// It is larger than allowed.
    #[error("The tree is refused: it has more than {0}")]
    TooLarge(String),
}

impl From<Error> for super::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::File { doing, path, source } => {
                Self::Kernel { doing: format!("{doing} {path:?}"), source }
            }
            Error::Stream(source) => Self::Kernel { doing: "pass a tree of files on".into(), source },
            refused => Self::Invalid(refused.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
