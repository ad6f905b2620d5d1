//! What a host keeps of the memory of workloads that have left it: who comes back need not bring again what has not changed
//! (decision 36).
//!
//! A visit is a directory with two files: `pages`, the content of pages one after the other, and `names`, the hash of each. Nothing says
//! where a page was: it is found by what is in it. Any part of a memory will do, so a visit ends where room does.

mod keep;
#[cfg(test)]
mod tests;
mod visit;

pub use visit::Visit;

use ferry_model::ids::WorkloadId;
use ferry_transfer::access::SpaceAccess;
use ferry_transfer::space::PAGE_SIZE;
use ferry_transfer::wire::rounds::held::{NAME_BYTES, OFFER_PAGES_MAX};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Directory of all visits within a state directory.
const DIR: &str = "visits";
/// Content of the pages that are kept.
const PAGES: &str = "pages";
/// Their names.
const NAMES: &str = "names";
/// Ending of a visit that is being written.
const UNFINISHED: &str = "new";

/// Of the room on its disk, what a visit leaves to others: journals need some.
const ROOM_LEFT: u64 = 2;

/// The visits to one host.
#[derive(Clone, Debug)]
pub struct Visits {
    dir: PathBuf,
    bytes_max: u64,
}

impl Visits {
    /// Those in the state directory `state`, of at most so many bytes together; 0: nothing is kept.
    #[must_use]
    pub fn new(state: &Path, bytes_max: u64) -> Self {
        Self { dir: state.join(DIR), bytes_max }
    }

    /// Whether anything is kept.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.bytes_max > 0
    }

    /// Keeps what is in `spaces`, whose tasks stand still, in place of what was kept of this workload before: how many bytes. They are on
    /// disk some time after this; until then it is as if nothing were kept.
    ///
    /// # Errors
    /// What is in memory cannot be read, or not be written. Nothing of it is kept then.
    pub fn keep(&self, id: WorkloadId, spaces: &[SpaceAccess]) -> io::Result<u64> {
        self.forget(id)?;
        if !self.is_on() {
            return Ok(0);
        }
        let source = keep::contents(spaces)?;
        make_private(&self.dir)?;
        let free = rustix::fs::statvfs(&self.dir)?;
        let free = free.f_bavail.saturating_mul(free.f_frsize) / ROOM_LEFT;
        let each = PAGE_SIZE + NAME_BYTES as u64;
        let pages = keep::bytes(&source) / PAGE_SIZE;
        self.make_room(pages.saturating_mul(each).min(self.bytes_max))?;
        let most = pages.min(self.bytes_max.min(free) / each).min(OFFER_PAGES_MAX as u64);
        let place = self.unfinished(id);
        let written = make_private(&place).and_then(|()| keep::write(&place, &source, most));
        let (files, pages) = written.inspect_err(|_| drop(std::fs::remove_dir_all(&place)))?;
        if pages == 0 {
            std::fs::remove_dir_all(&place)?;
            return Ok(0);
        }
        let to = self.place(id);
        // Nobody waits for a disk.
        std::thread::Builder::new().name("ferry-visit".into()).spawn(move || {
            let done = files.iter().try_for_each(File::sync_all).and_then(|()| std::fs::rename(&place, &to));
            if let Err(error) = done {
                tracing::warn!(%error, place = %place.display(), "what was kept of a workload is not on disk");
                let _ = std::fs::remove_dir_all(&place);
            }
        })?;
        Ok(pages * PAGE_SIZE)
    }

    /// What is kept of this workload.
    #[must_use]
    pub fn find(&self, id: WorkloadId) -> Option<Visit> {
        if !self.is_on() {
            return None;
        }
        match Visit::open(&self.place(id)) {
            Ok(visit) => Some(visit),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, %id, "what was kept of a workload cannot be used");
                let _ = self.forget(id);
                None
            }
        }
    }

    /// Removes what is kept of this workload.
    ///
    /// # Errors
    /// Something of it is left.
    pub fn forget(&self, id: WorkloadId) -> io::Result<()> {
        remove(&self.unfinished(id))?;
        remove(&self.place(id))
    }

    /// How much is kept, bytes.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(self.all()?.iter().map(|(_, _, bytes)| bytes).sum())
    }

    /// What a node does first: nothing half written is left, and no more than is allowed.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn tidy(&self) -> io::Result<()> {
        for (place, _, _) in self.all()? {
            if place.extension().is_some_and(|ending| ending == UNFINISHED) {
                remove(&place)?;
            }
        }
        self.make_room(0)
    }

    fn place(&self, id: WorkloadId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    fn unfinished(&self, id: WorkloadId) -> PathBuf {
        self.dir.join(format!("{id}.{UNFINISHED}"))
    }

    /// Removes the oldest until `wanted` bytes more are allowed.
    fn make_room(&self, wanted: u64) -> io::Result<()> {
        let mut all = self.all()?;
        all.sort_by_key(|(_, since, _)| *since);
        let mut bytes: u64 = all.iter().map(|(_, _, bytes)| bytes).sum();
        for (place, _, own) in all {
            if bytes.saturating_add(wanted) <= self.bytes_max {
                break;
            }
            remove(&place)?;
            bytes -= own;
        }
        Ok(())
    }

    /// Every visit, with the time of its end, and its size in bytes.
    fn all(&self) -> io::Result<Vec<(PathBuf, SystemTime, u64)>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for entry in entries {
            let place = entry?.path();
            // One that is just being renamed, or removed, is not counted.
            let Ok(since) = std::fs::metadata(&place).and_then(|found| found.modified()) else { continue };
            let size = |name: &str| std::fs::metadata(place.join(name)).map_or(0, |found| found.len());
            let bytes = size(PAGES) + size(NAMES);
            all.push((place, since, bytes));
        }
        Ok(all)
    }
}

fn make_private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn remove(place: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
