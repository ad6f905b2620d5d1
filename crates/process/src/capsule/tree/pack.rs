//! Reading a tree into a stream. The tree must not change meanwhile: the workload is frozen.

use super::entry::{Entry, Kind, SEGMENTS_MAX};
use super::{BUFFER_BYTES, Error, Limits, MAGIC, Totals, xattr};
use minicbor::bytes::ByteVec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, fstat, openat2, readlinkat, seek,
    statat,
};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

/// Writes everything beneath `root` to `out`. Mounts within it are left out.
///
/// # Errors
/// When a file cannot be read or the stream not written, or `limits` are passed.
pub fn pack(root: impl AsFd, out: &mut dyn Write, limits: &Limits) -> Result<Totals, Error> {
    run(root, None, out, limits)
}

/// Parts of a tree: paths relative to its root, each with whether everything beneath it belongs to it.
pub type Parts = BTreeMap<Vec<u8>, bool>;

/// Writes some parts of the tree beneath `root`, with the directories that lead there. A part may be a mount point, or lie
/// beneath one; mounts within a part are left out. What is not there is left out too.
///
/// # Errors
/// As [`pack`].
pub fn pack_parts(
    root: impl AsFd,
    parts: &Parts,
    out: &mut dyn Write,
    limits: &Limits,
) -> Result<Totals, Error> {
    run(root, Some(parts), out, limits)
}

fn run(
    root: impl AsFd,
    parts: Option<&Parts>,
    out: &mut dyn Write,
    limits: &Limits,
) -> Result<Totals, Error> {
    let totals = Totals::default();
    let mut packer = Packer { out, limits, totals, first_names: HashMap::new(), buffer: Vec::new(), parts };
    packer.put(MAGIC)?;
    let root =
        open(root.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY, false).map_err(at("open", b""))?;
    let stat = fstat(&root).map_err(|error| at("look at", b"")(error.into()))?;
    let entry = describe(root.as_fd(), b"", b"", &stat, Kind::Directory)?;
    packer.entry(&entry)?;
    packer.directory(root, &mut Vec::new(), 0)?;
    let totals = packer.totals;
    packer.put(&0u32.to_le_bytes())?;
    packer.put(&totals.entries.to_le_bytes())?;
    packer.put(&totals.bytes.to_le_bytes())?;
    Ok(totals)
}

fn at(doing: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Error {
    let path = String::from_utf8_lossy(path).into_owned();
    move |source| Error::File { doing, path, source }
}

fn open(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags, crossing: bool) -> io::Result<OwnedFd> {
    let stay = if crossing { ResolveFlags::empty() } else { ResolveFlags::NO_XDEV };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | stay;
    Ok(openat2(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

struct Packer<'a> {
    out: &'a mut dyn Write,
    limits: &'a Limits,
    totals: Totals,
    /// First name of every file that has several, by device and inode.
    first_names: HashMap<(u64, u64), ByteVec>,
    buffer: Vec<u8>,
    parts: Option<&'a Parts>,
}

/// Whether `path` belongs to `parts` or leads to one; and whether a mount may be entered there.
fn choice(parts: &Parts, path: &[u8]) -> Option<bool> {
    if parts.contains_key(path) {
        return Some(true);
    }
    let within = |(at, byte): (usize, &u8)| *byte == b'/' && parts.get(&path[..at]) == Some(&true);
    if path.iter().enumerate().any(within) {
        return Some(false);
    }
    let beneath = [path, b"/"].concat();
    let leads = parts.range(beneath.clone()..).next().is_some_and(|(part, _)| part.starts_with(&beneath));
    leads.then_some(true)
}

impl Packer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::Stream)
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        self.totals.entries += 1;
        self.totals.bytes += entry.content_bytes();
        if self.totals.entries > self.limits.entries_max {
            return Err(Error::TooLarge(format!("{} entries", self.limits.entries_max)));
        }
        if self.totals.bytes > self.limits.bytes_max {
            return Err(Error::TooLarge(format!("{} bytes", self.limits.bytes_max)));
        }
        entry.check(self.limits.depth_max)?;
        let bytes = minicbor::to_vec(entry).map_err(|error| Error::Refused(error.to_string()))?;
        self.put(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.put(&bytes)
    }

    fn directory(&mut self, directory: OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
        if depth > self.limits.depth_max {
            return Err(Error::TooLarge(format!("{} levels", self.limits.depth_max)));
        }
        let mut names: Vec<Vec<u8>> = Dir::read_from(&directory)
            .and_then(|entries| {
                entries.map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec())).collect()
            })
            .map_err(|error| at("read", path)(error.into()))?;
        names.retain(|name| name != b"." && name != b"..");
        // In order of names: the same tree gives the same stream.
        names.sort_unstable();
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
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            result => result.map_err(|error| at("look at", path)(error.into()))?,
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharacterDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Unknown => {
                return Err(Error::Refused(format!("{:?} is of no known kind", lossy(path))));
            }
        };
        let opened = match kind {
            Kind::File | Kind::Directory => {
                match open(parent, name, OFlags::RDONLY | OFlags::NONBLOCK, crossing) {
                    // A mount: what stands there is not of this tree, and the place is made when it is mounted again.
                    Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => None,
                    result => Some(result.map_err(at("open", path))?),
                }
            }
            _ => None,
        };
        if opened.is_none() && matches!(kind, Kind::File | Kind::Directory) {
            return Ok(());
        }
        if kind != Kind::Directory && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.first_names.get(&key).cloned() {
                let entry = Entry { kind: Kind::HardLink, link: first, ..place(path) };
                return self.entry(&entry);
            }
            self.first_names.insert(key, path.clone().into());
        }
        let mut entry = describe(parent, name, path, &stat, kind)?;
        match (kind, opened) {
            (Kind::Symlink, _) => {
                let target =
                    readlinkat(parent, name, Vec::new()).map_err(|error| at("read", path)(error.into()))?;
                entry.link = target.into_bytes().into();
                self.entry(&entry)
            }
            (Kind::File, Some(file)) => {
                entry.segments = segments(&file, entry.size).map_err(at("read", path))?;
                self.entry(&entry)?;
                self.content(&File::from(file), &entry, path)
            }
            (Kind::Directory, Some(directory)) => {
                self.entry(&entry)?;
                self.directory(directory, path, depth + 1)
            }
            _ => self.entry(&entry),
        }
    }

    fn content(&mut self, file: &File, entry: &Entry, path: &[u8]) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BUFFER_BYTES, 0);
        let mut hasher = blake3::Hasher::new();
        for (offset, length) in &entry.segments {
            let mut done = 0;
            while done < *length {
                let part = usize::try_from(*length - done).unwrap_or(usize::MAX).min(BUFFER_BYTES);
                file.read_exact_at(&mut buffer[..part], offset + done).map_err(at("read", path))?;
                hasher.update(&buffer[..part]);
                self.put(&buffer[..part])?;
                done += part as u64;
            }
        }
        self.buffer = buffer;
        self.put(hasher.finalize().as_bytes())
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// An entry of which nothing is known but where it is.
fn place(path: &[u8]) -> Entry {
    Entry {
        path: path.to_vec().into(),
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_s: 0,
        mtime_ns: 0,
        device: (0, 0),
        link: ByteVec::from(Vec::new()),
        xattrs: Vec::new(),
        size: 0,
        segments: Vec::new(),
    }
}

fn describe(
    parent: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
    stat: &Stat,
    kind: Kind,
) -> Result<Entry, Error> {
    let device = match kind {
        Kind::CharacterDevice | Kind::BlockDevice => {
            (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
        }
        _ => (0, 0),
    };
    Ok(Entry {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_s: stat.st_mtime,
        mtime_ns: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        device,
        xattrs: xattr::read(parent, name).map_err(at("read the attributes of", path))?,
        size: if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        ..place(path)
    })
}

/// Where a file has data.
fn segments(file: &OwnedFd, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut from = 0;
    while from < size {
        let start = match seek(file, SeekFrom::Data(from)) {
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(vec![(0, size)]),
            result => result?,
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        if found.len() == SEGMENTS_MAX {
            // So many holes are not worth their description: the rest is data.
            if let Some(last) = found.last_mut() {
                last.1 = size - last.0;
            }
            break;
        }
        found.push((start, end - start));
        from = end;
    }
    Ok(found)
}
