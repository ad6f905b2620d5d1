//! What is on disk about an adopted tree: who is its root, and where each process came from.

use crate::capsule::error::{Doing, Error, Result};
use ferry_sys::replace::{beside, replace_durably};
use minicbor::{Decode, Encode};
use std::fs;
use std::io;
use std::path::Path;

const FILE: &str = "adoption.cbor";
const BYTES_MAX: u64 = 64 << 20;

/// A process and the cgroup that it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Home {
    /// Its id on this host.
    #[n(0)]
    pub(super) pid: i32,
    /// When it started, in clock ticks since boot: with the id it names one process.
    #[n(1)]
    pub(super) started: u64,
    /// Directory of the cgroup.
    #[n(2)]
    pub(super) cgroup: String,
}

/// An adopted tree as it is known on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Note {
    /// Process id of the root.
    #[n(0)]
    pub(super) root: i32,
    /// When the root started, in clock ticks since boot.
    #[n(1)]
    pub(super) started: u64,
    /// The host's boot.
    #[n(2)]
    pub(super) boot: String,
    /// Directory of the cgroup that was made for it.
    #[n(3)]
    pub(super) cgroup: String,
    /// Where everybody came from who was moved.
    #[n(4)]
    pub(super) homes: Vec<Home>,
}

impl Note {
    /// Writes it into `directory`: whole or not at all, and durably.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let write = || -> io::Result<()> {
            replace_durably(&directory.join(FILE), &minicbor::to_vec(self).map_err(io::Error::other)?)
        };
        write().doing(|| format!("write {}", directory.join(FILE).display()))
    }

    pub(super) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Gone(directory.display().to_string()));
            }
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                return Err(Error::Invalid(format!("{} is too large", path.display())));
            }
            _ => {}
        }
        let bytes = fs::read(&path).doing(|| format!("read {}", path.display()))?;
        minicbor::decode(&bytes).map_err(|_| Error::Invalid(format!("{} is damaged", path.display())))
    }

    pub(super) fn remove(directory: &Path) -> Result<()> {
        let path = directory.join(FILE);
        for path in [&path, &beside(&path)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).doing(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether an adopted tree is noted in `directory`.
#[must_use]
pub fn left_in(directory: &Path) -> bool {
    directory.join(FILE).exists()
}
