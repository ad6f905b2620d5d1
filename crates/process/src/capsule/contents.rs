//! What is in a capsule's memory file systems and System V segments, as one stream; and the same back again.
//!
//! While it runs, memory file systems can be sent one by one, and what changed in them later ([`Memory`], with
//! [`tree::pack_changes`]).
//!
//! What the workload wrote to disks is apart: it lies in the upper directory, can be copied before the freeze, and must
//! be in place before a capsule is made ([`pack_upper`], [`unpack_upper`]).

use super::error::{Doing, Error, Result};
use super::note::Note;
use super::{Capsule, ipc, mounts, tree, within};
use crate::records::capsule::Capsule as Record;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Most memory file systems of one capsule.
const TMPFS_MAX: usize = 1000;

impl Capsule {
    /// Writes the contents of all tmpfs and segments that `record` names. The workload is frozen. Without `files` of the segments only:
    /// those of the tmpfs travel by themselves.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn pack_contents(&self, record: &Record, files: bool, out: &mut dyn Write) -> Result<tree::Totals> {
        let mut totals = tree::Totals::default();
        let mut add = |more: tree::Totals| {
            totals.entries += more.entries;
            totals.bytes += more.bytes;
        };
        for point in &record.tmpfs {
            if !files {
                add(tree::pack_nothing(out)?);
                continue;
            }
            let directory = self.open_directory(point)?;
            add(tree::pack(&directory, out, &tree::Limits::default())?);
        }
        if !record.ipc.segments.is_empty() {
            add(ipc::pack(self, &record.ipc, out)?);
        }
        Ok(totals)
    }

    /// Reads what [`Self::pack_contents`] wrote for the same `record` into this capsule, which was made by
    /// `Spec::restored`. Makes the System V objects and applies the settings too: all that a restored capsule needs
    /// before its tasks.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a stream that does not fit or was altered. Then the capsule is to be destroyed.
    pub fn restore_contents(&self, record: &Record, input: &mut dyn Read) -> Result<()> {
        if record.tmpfs.len() > TMPFS_MAX {
            return Err(Error::Invalid(format!("More than {TMPFS_MAX} memory file systems are described")));
        }
        self.restore_settings(&record.settings)?;
        let present: Vec<String> =
            self.compare_mounts()?.tmpfs.iter().map(|point| point.to_string_lossy().into_owned()).collect();
        for point in &record.tmpfs {
            // Only into memory file systems that stand here: never into the overlay or the host's own.
            if !present.contains(point) {
                return Err(Error::Invalid(format!(
                    "There is no memory file system at {point} in the capsule"
                )));
            }
            tree::unpack(self.open_directory(point)?, input, &tree::Limits::default())?;
        }
        ipc::restore(self, &record.ipc)?;
        if !record.ipc.segments.is_empty() {
            ipc::unpack(self, &record.ipc, input)?;
        }
        Ok(())
    }

    fn open_directory(&self, point: &str) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = within::open(self.root.as_fd(), Path::new(point), flags)
            .doing(|| format!("open {point} in the capsule"))?;
        Ok(directory.into())
    }
}

/// The memory file systems of a capsule, as it has them when this is made: its mount table is read once for all of them.
#[derive(Debug)]
pub struct Memory {
    root: OwnedFd,
    points: Vec<PathBuf>,
}

impl Memory {
    /// Those of the capsule in `directory`, whoever runs that, but for what was given to it.
    ///
    /// # Errors
    /// When there is no capsule.
    pub fn of(directory: &Path) -> Result<Self> {
        let note = Note::read(directory)?;
        let init = format!("/proc/{}", note.init);
        let table =
            ferry_sys::mountinfo::read(Path::new(&init)).doing(|| "read the capsule's mount table".into())?;
        let mut points = mounts::compare(&table, &note.own_mounts.iter().map(PathBuf::from).collect()).tmpfs;
        points.retain(|point| !note.with.iter().any(|with| point.starts_with(&with.path)));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, format!("{init}/root"), flags, Mode::empty())
            .doing(|| "open the capsule's root".into())?;
        Ok(Self { root, points })
    }

    /// Opens that at `point`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when nothing of the kind stands there: neither the overlay nor anything of the host's is ever opened.
    pub fn open(&self, point: &str) -> Result<File> {
        if !self.points.iter().any(|own| own == Path::new(point)) {
            return Err(Error::Invalid(format!("There is no memory file system at {point} in the capsule")));
        }
        let opened = within::open(self.root.as_fd(), Path::new(point), OFlags::RDONLY | OFlags::DIRECTORY)
            .doing(|| format!("open {point} in the capsule"))?;
        Ok(opened.into())
    }
}

/// Writes what a tree outside of any capsule uses of its host's memory file systems, in the form of [`Capsule::pack_contents`]: for
/// each mount point the paths beneath it. `pid` is a process of the tree.
///
/// # Errors
/// When something cannot be read or written.
pub fn pack_used(pid: i32, used: &[(String, tree::Parts)], out: &mut dyn Write) -> Result<tree::Totals> {
    let mut totals = tree::Totals::default();
    for (point, parts) in used {
        let path = format!("/proc/{pid}/root{point}");
        let opened = File::open(&path).doing(|| format!("open {path}"))?;
        let more = tree::pack_parts(&opened, parts, out, &tree::Limits::default())?;
        totals.entries += more.entries;
        totals.bytes += more.bytes;
    }
    Ok(totals)
}

/// Writes what a workload wrote to its root: the upper directory in `directory`.
///
/// # Errors
/// When something cannot be read or written.
pub fn pack_upper(directory: &Path, out: &mut dyn Write) -> Result<tree::Totals> {
    let upper = directory.join("upper");
    let opened = File::open(&upper).doing(|| format!("open {}", upper.display()))?;
    Ok(tree::pack(&opened, out, &tree::Limits::default())?)
}

/// Fills the upper directory in `directory` before a capsule is made there.
///
/// # Errors
/// [`Error::Invalid`] for a stream that was altered or tries to reach beyond the directory.
pub fn unpack_upper(directory: &Path, input: &mut dyn Read) -> Result<tree::Totals> {
    let upper = directory.join("upper");
    fs::create_dir_all(&upper).doing(|| format!("make {}", upper.display()))?;
    let opened = File::open(&upper).doing(|| format!("open {}", upper.display()))?;
    Ok(tree::unpack(&opened, input, &tree::Limits::default())?)
}
