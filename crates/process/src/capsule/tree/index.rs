//! What a tree was like when it was last sent, so that only what has changed since has to follow.
//!
//! A tree that is in use is sent while it is in use: its index is taken *before* anything is read, so that whatever changes during
//! or after the reading differs from the index when the next one is taken. What tells a file from its former self is its inode, size,
//! mode, owner and both time stamps. Three things could change a file without a trace in these, and a file to which one of them
//! applies is *unsettled*: its content is read and compared before it counts as unchanged.
//!
//! - Time stamps are only as fine as the kernel's tick, or a whole second on some file systems: a file that was written just
//!   now may be written again under the same stamp.
//! - A store through a shared mapping changes the stamps at the first touch of a page, not at the next ones.
//! - On a memory file system such a store need not change them at all, and the mapping may be gone by the time one looks.

use super::entry::Kind;
use super::pack::{Parts, choice, digest, has_vanished, kind_of, names_in, open};
use super::{Error, Limits};
use ferry_model::ids::Hash;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, OFlags, Stat, fstat, fstatfs, statat};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

/// A change within this time after another may bear the same time stamp: ten ticks of the slowest kernel.
const TICK_NS: i128 = 100_000_000;
/// As that, on a file system that counts whole seconds (or two: FAT).
const COARSE_TICK_NS: i128 = 2_100_000_000;
/// Statfs magics of tmpfs and ramfs.
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Files that the workload has mapped shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// By path, beneath the workload's root and without the first `/`.
    pub paths: HashSet<Vec<u8>>,
    /// By inode number.
    pub inodes: HashSet<u64>,
}

/// What tells a file from what it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    kind: Kind,
    device: u64,
    inode: u64,
    size: i64,
    mode: u32,
    owner: (u32, u32),
    number: u64,
    modified_ns: i128,
    changed_ns: i128,
}

/// One name.
#[derive(Clone, Debug)]
struct Seen {
    stamp: Stamp,
    several_names: bool,
    /// No change after this look can hide behind the same stamp.
    settled: bool,
    /// Content of a regular file as it was sent.
    sent: Option<Hash>,
}

/// A tree as it was at one look.
#[derive(Clone, Debug, Default)]
pub struct Index {
    seen: BTreeMap<Vec<u8>, Seen>,
}

/// What has to be sent so that the receiver of one index has the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names that are not there any more; nothing beneath one of them is named.
    pub gone: Vec<Vec<u8>>,
    /// Names of what is new or different, and the directories that these are in.
    pub changed: BTreeSet<Vec<u8>>,
    /// Bytes of their content.
    pub bytes: u64,
}

impl Changes {
    /// Nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.changed.is_empty()
    }
}

impl Index {
    /// Looks at everything beneath `root`, or at `parts` of it ([`super::pack_parts`]), without what is named by `without` and what is
    /// beneath that.
    ///
    /// # Errors
    /// When a file cannot be looked at, or `limits` are passed.
    pub fn look(
        root: impl AsFd,
        parts: Option<&Parts>,
        without: &Parts,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let directory =
            open(root.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY, false).map_err(at("open", b""))?;
        let mut look = Look { parts, without, limits, in_memory: HashMap::new(), index: Self::default() };
        let stat = fstat(&directory).map_err(|error| at("look at", b"")(error.into()))?;
        look.note(directory.as_fd(), b"", &stat, Kind::Directory)?;
        look.directory(&directory, &mut Vec::new(), 0)?;
        Ok(look.index)
    }

    /// Notes what was mapped after the look and before anything is read: a mapping that is made later changes the stamps at its first
    /// store, and one that had gone by then stored nothing that is not read.
    pub fn unsettle(&mut self, mapped: &Mapped) {
        for (path, seen) in &mut self.seen {
            if mapped.inodes.contains(&seen.stamp.inode) || mapped.paths.contains(path) {
                seen.settled = false;
            }
        }
    }

    /// What has changed since `before`, whose content the receiver has. With `for_good` nothing changes any more, and no doubt may be
    /// left; without, what is in doubt for a reason that lasts is left to the last look.
    ///
    /// # Errors
    /// When a file that has to be compared cannot be read.
    pub fn since(
        &mut self,
        before: &Self,
        root: impl AsFd,
        crossing: bool,
        for_good: bool,
    ) -> Result<Changes, Error> {
        let mut changes = Changes::default();
        let mut buffer = Vec::new();
        // All names of a file are sent or none: a name that is sent alone would be another file.
        let mut inodes: HashSet<(u64, u64)> = HashSet::new();
        for (path, now) in &mut self.seen {
            let old = before.seen.get(path).filter(|old| old.stamp == now.stamp);
            let same = match old {
                None => false,
                Some(old) if old.settled => true,
                Some(old) if !for_good && !now.settled && now.stamp.kind == Kind::File => {
                    old.sent.is_some() || now.several_names
                }
                Some(old) => match (now.stamp.kind, old.sent) {
                    (Kind::File, Some(sent)) => {
                        content(root.as_fd(), path, crossing, &mut buffer)? == Some(sent)
                    }
                    // Another name of a file that is compared where its content was sent.
                    (Kind::File, None) => now.several_names,
                    _ => false,
                },
            };
            match old {
                Some(old) if same => now.sent = old.sent,
                _ => {
                    changes.changed.insert(path.clone());
                    if now.several_names {
                        inodes.insert((now.stamp.device, now.stamp.inode));
                    }
                }
            }
        }
        for (path, now) in &mut self.seen {
            if now.several_names && inodes.contains(&(now.stamp.device, now.stamp.inode)) {
                now.sent = None;
                changes.changed.insert(path.clone());
            }
        }
        for path in before.seen.keys().filter(|path| !self.seen.contains_key(*path)) {
            if self.seen.get(parent(path)).is_some_and(|parent| parent.stamp.kind == Kind::Directory) {
                changes.gone.push(path.clone());
            }
        }
        // What is put into a directory at the receiver changes its time stamps there: they are set again.
        let touched = changes.changed.iter().chain(&changes.gone).filter(|path| !path.is_empty());
        let directories: Vec<Vec<u8>> = touched.map(|path| parent(path).to_vec()).collect();
        changes.changed.extend(directories);
        let size = |path: &Vec<u8>| self.seen.get(path).filter(|seen| seen.stamp.kind == Kind::File);
        changes.bytes =
            changes.changed.iter().filter_map(size).map(|seen| seen.stamp.size.cast_unsigned()).sum();
        Ok(changes)
    }

    /// Notes that it is not known what is mapped.
    pub fn unsettle_all(&mut self) {
        self.seen.values_mut().for_each(|seen| seen.settled = false);
    }

    /// Whether `path` was seen, and as this.
    pub(super) fn has(&self, path: &[u8], kind: Kind) -> bool {
        self.seen.get(path).is_some_and(|seen| seen.stamp.kind == kind)
    }

    /// Notes what was sent of a name: content, and of which file ([`identity`]). Another one than was looked at has come between, and
    /// may go again without a trace.
    pub(super) fn sent(&mut self, path: &[u8], content: Option<Hash>, of: (u64, u64, i128)) {
        if let Some(seen) = self.seen.get_mut(path) {
            seen.sent = content;
            if (seen.stamp.device, seen.stamp.inode, seen.stamp.changed_ns) != of {
                seen.stamp.changed_ns = i128::MIN;
            }
        }
    }

    /// Notes that the receiver does not have a name: it had vanished.
    pub(super) fn left(&mut self, path: &[u8]) {
        self.seen.remove(path);
    }
}

/// What tells a file from another, and from its own past: device, inode, time of its last change.
pub(super) fn identity(stat: &Stat) -> (u64, u64, i128) {
    let changed_ns = i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
    (stat.st_dev, stat.st_ino, changed_ns)
}

/// The directory that a path is in; the root is in itself.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash])
}

fn at(doing: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Error {
    super::pack::at(doing, path)
}

/// The content of a file now, to be compared; none if it is no file any more.
fn content(
    root: BorrowedFd<'_>,
    path: &[u8],
    crossing: bool,
    buffer: &mut Vec<u8>,
) -> Result<Option<Hash>, Error> {
    match open(root, path, OFlags::RDONLY | OFlags::NONBLOCK, crossing) {
        Err(error) if has_vanished(&error) => Ok(None),
        Err(error) => Err(at("open", path)(error)),
        Ok(file) => {
            let stat = fstat(&file).map_err(|error| at("look at", path)(error.into()))?;
            match kind_of(&stat, path)? {
                Kind::File => digest(file, path, buffer).map(Some),
                _ => Ok(None),
            }
        }
    }
}

struct Look<'a> {
    parts: Option<&'a Parts>,
    without: &'a Parts,
    limits: &'a Limits,
    /// Whether a device is a memory file system.
    in_memory: HashMap<u64, bool>,
    index: Index,
}

impl Look<'_> {
    fn directory(&mut self, directory: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
        if depth > self.limits.depth_max {
            return Err(Error::TooLarge(format!("{} levels", self.limits.depth_max)));
        }
        let names = match names_in(directory) {
            Err(error) if has_vanished(&error) => return Ok(()),
            result => result.map_err(at("read", path))?,
        };
        for name in names {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.child(directory.as_fd(), &name, path, depth)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn child(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Error> {
        let crossing = match self.parts.map(|parts| choice(parts, path)) {
            Some(None) => return Ok(()),
            Some(Some(crossing)) => crossing,
            None => false,
        };
        if self.without.contains_key(path) {
            return Ok(());
        }
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(error) if has_vanished(&error.into()) => return Ok(()),
            result => result.map_err(|error| at("look at", path)(error.into()))?,
        };
        let kind = kind_of(&stat, path)?;
        if kind != Kind::Directory {
            return self.note(parent, path, &stat, kind);
        }
        match open(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, crossing) {
            Err(error) if has_vanished(&error) => Ok(()),
            // A mount, which is not of this tree.
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => Ok(()),
            Err(error) => Err(at("open", path)(error)),
            Ok(directory) => {
                // Of what is mounted there, not of what it is mounted on.
                let stat = fstat(&directory).map_err(|error| at("look at", path)(error.into()))?;
                self.note(directory.as_fd(), path, &stat, Kind::Directory)?;
                self.directory(&directory, path, depth + 1)
            }
        }
    }

    fn note(&mut self, near: BorrowedFd<'_>, path: &[u8], stat: &Stat, kind: Kind) -> Result<(), Error> {
        if self.index.seen.len() as u64 >= self.limits.entries_max {
            return Err(Error::TooLarge(format!("{} entries", self.limits.entries_max)));
        }
        let (device, inode, changed_ns) = identity(stat);
        let modified_ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        let stamp = Stamp {
            kind,
            device,
            inode,
            size: if kind == Kind::File { stat.st_size } else { 0 },
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
            number: stat.st_rdev,
            modified_ns,
            changed_ns,
        };
        let tick = if stat.st_ctime_nsec == 0 { COARSE_TICK_NS } else { TICK_NS };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut settled = changed_ns + tick < i128::try_from(since.as_nanos()).unwrap_or(0);
        if kind == Kind::File {
            settled = settled && !self.is_in_memory(near, stat.st_dev)?;
        }
        let several_names = kind != Kind::Directory && stat.st_nlink > 1;
        self.index.seen.insert(path.to_vec(), Seen { stamp, several_names, settled, sent: None });
        Ok(())
    }

    /// `near` is the directory in which a file of `device` was found.
    fn is_in_memory(&mut self, near: BorrowedFd<'_>, device: u64) -> Result<bool, Error> {
        if let Some(known) = self.in_memory.get(&device) {
            return Ok(*known);
        }
        let state = fstatfs(near).map_err(|error| at("look at the file system of", b"")(error.into()))?;
        #[allow(clippy::unnecessary_cast)]
        let in_memory = MEMORY_FILE_SYSTEMS.contains(&(state.f_type as i64));
        self.in_memory.insert(device, in_memory);
        Ok(in_memory)
    }
}
