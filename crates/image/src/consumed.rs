//! The durable mark of an image that was restored, for images whose checkpoint ended the workload.
//!
//! Such an image is the only copy of a workload; restoring it twice would make two. The mark is made with O_EXCL, so of
//! two that restore at once one is refused. It protects against mistakes, not against directories that were copied
//! before: where a node keeps the workload's record, that is the authority.

use crate::error::{Error, Result};
use crate::limits;
use crate::name;
use crate::place::Place;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A mark just made. It is taken back by [`Mark::undo`] when the restore fails before the workload could run.
#[derive(Debug)]
pub struct Mark {
    dir: PathBuf,
}

/// What the mark of the image at `dir` says, if it has one.
pub fn read(dir: &Path) -> Result<Option<String>> {
    match Place::open(dir)?.read_bounded(name::CONSUMED, limits::MARK_BYTES_MAX) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
        Err(Error::Missing(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Marks the image at `dir`, durably, with `note` (when, where, as what). To be done after everything that can fail and
/// before the restored workload may run.
pub fn mark(dir: &Path, note: &str) -> Result<Mark> {
    let place = Place::open(dir)?;
    let mut file = match place.create(name::CONSUMED) {
        Ok(file) => file,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::Consumed(read(dir)?.unwrap_or_default()));
        }
        Err(e) => return Err(e),
    };
    let mark = Mark { dir: dir.to_owned() };
    let written = file.write_all(format!("{note}\n").as_bytes()).and_then(|()| file.sync_all());
    if let Err(e) = written {
        mark.undo()?;
        return Err(Error::io("write the mark that the image is restored", e));
    }
    place.sync()?;
    Ok(mark)
}

impl Mark {
    /// Takes the mark back: nothing of the workload has run.
    pub fn undo(self) -> Result<()> {
        let place = Place::open(&self.dir)?;
        rustix::fs::unlinkat(place.dir(), name::CONSUMED, rustix::fs::AtFlags::empty())
            .map_err(|e| Error::io("take back the mark that the image is restored", e))?;
        place.sync()
    }
}
