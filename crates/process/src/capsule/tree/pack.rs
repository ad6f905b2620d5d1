//! Reading a tree into a stream. Either the tree does not change meanwhile, because the workload is frozen; or what is missed
//! is noticed and sent again ([`super::index`]).

use super::entry::{Entry, Kind, SEGMENTS_MAX};
use super::index::identity;
use super::{BUFFER_BYTES, Error, Limits, MAGIC, Totals, xattr};
use ferry_model::ids::Hash;
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

/// Parts of a tree: paths relative to its root, each with whether everything beneath it belongs to it. The empty path is the root.
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

/// Writes a tree of which nothing is said: whoever unpacks it leaves everything as it is.
///
/// # Errors
/// When the stream cannot be written.
pub fn pack_nothing(out: &mut dyn Write) -> Result<Totals, Error> {
    Packer::begin(out, &Limits::default(), false)?.end()
}

fn run(
    root: impl AsFd,
    parts: Option<&Parts>,
    out: &mut dyn Write,
    limits: &Limits,
) -> Result<Totals, Error> {
    let mut packer = Packer::begin(out, limits, false)?;
    packer.parts = parts;
    let root =
        open(root.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY, false).map_err(at("open", b""))?;
    packer.root(root.as_fd())?;
    packer.directory(root, &mut Vec::new(), 0)?;
    packer.end()
}

pub(super) fn at(doing: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Error {
    let path = String::from_utf8_lossy(path).into_owned();
    move |source| Error::File { doing, path, source }
}

pub(super) fn open(
    directory: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    crossing: bool,
) -> io::Result<OwnedFd> {
    let stay = if crossing { ResolveFlags::empty() } else { ResolveFlags::NO_XDEV };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | stay;
    Ok(openat2(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Writes a stream, entry by entry.
pub(super) struct Packer<'a> {
    out: &'a mut dyn Write,
    limits: &'a Limits,
    totals: Totals,
    /// First name of every file that has several, by device and inode.
    first_names: HashMap<(u64, u64), ByteVec>,
    buffer: Vec<u8>,
    parts: Option<&'a Parts>,
    /// The tree is in use: what vanishes between two looks is left out, and what is cut short is filled with zeros.
    in_use: bool,
    /// Which file the latest entry is of ([`identity`]).
    pub(super) latest: (u64, u64, i128),
}

/// What became of one name.
pub(super) enum One {
    /// It is not there any more, or a mount stands there.
    Left,
    /// It is in the stream; with what was sent of its content.
    Sent(Option<Hash>),
    /// As that, and this is the directory.
    Directory(OwnedFd),
}

/// What kind of entry a file is.
pub(super) fn kind_of(stat: &Stat, path: &[u8]) -> Result<Kind, Error> {
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return Err(Error::Refused(format!("{:?} is of no known kind", lossy(path)))),
    })
}

/// Whether an error says that a name has gone, or has become something else, since it was looked at.
pub(super) fn has_vanished(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NXIO, Errno::STALE, Errno::ISDIR];
    gone.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The names in a directory, in order: the same tree gives the same stream.
pub(super) fn names_in(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names: Vec<Vec<u8>> = Dir::read_from(directory).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec())).collect()
    })?;
    names.retain(|name| name != b"." && name != b"..");
    names.sort_unstable();
    Ok(names)
}

/// Whether `path` belongs to `parts` or leads to one; and whether a mount may be entered there.
pub(super) fn choice(parts: &Parts, path: &[u8]) -> Option<bool> {
    if parts.contains_key(path) {
        return Some(true);
    }
    let within = |(at, byte): (usize, &u8)| *byte == b'/' && parts.get(&path[..at]) == Some(&true);
    if parts.get(&b""[..]) == Some(&true) || path.iter().enumerate().any(within) {
        return Some(false);
    }
    let beneath = [path, b"/"].concat();
    let leads = parts.range(beneath.clone()..).next().is_some_and(|(part, _)| part.starts_with(&beneath));
    leads.then_some(true)
}

impl<'a> Packer<'a> {
    /// A stream to `out`.
    pub(super) fn begin(out: &'a mut dyn Write, limits: &'a Limits, in_use: bool) -> Result<Self, Error> {
        let (totals, first_names) = (Totals::default(), HashMap::new());
        let (buffer, latest) = (Vec::new(), (0, 0, 0));
        let mut packer = Self { out, limits, totals, first_names, buffer, parts: None, in_use, latest };
        packer.put(MAGIC)?;
        Ok(packer)
    }

    /// Writes the entry of the tree's root itself.
    pub(super) fn root(&mut self, root: BorrowedFd<'_>) -> Result<(), Error> {
        let stat = fstat(root).map_err(|error| at("look at", b"")(error.into()))?;
        let entry = describe(root, b"", b"", &stat, Kind::Directory)?;
        self.entry(&entry)
    }

    /// Says that what was at `path` has gone.
    pub(super) fn gone(&mut self, path: &[u8]) -> Result<(), Error> {
        self.entry(&Entry { kind: Kind::Gone, ..Entry::at(path) })
    }

    /// Ends the stream.
    pub(super) fn end(mut self) -> Result<Totals, Error> {
        let totals = self.totals;
        self.put(&0u32.to_le_bytes())?;
        self.put(&totals.entries.to_le_bytes())?;
        self.put(&totals.bytes.to_le_bytes())?;
        Ok(totals)
    }

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
        let names = names_in(&directory).map_err(at("read", path))?;
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
        match self.one(parent, name, path, crossing)? {
            One::Directory(directory) => self.directory(directory, path, depth + 1),
            One::Left | One::Sent(_) => Ok(()),
        }
    }

    /// Writes one entry, without what is beneath it.
    pub(super) fn one(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        crossing: bool,
    ) -> Result<One, Error> {
        match self.try_one(parent, name, path, crossing) {
            Err(Error::File { source, .. }) if self.in_use && has_vanished(&source) => Ok(One::Left),
            result => result,
        }
    }

    /// As [`Self::one`]; fails, with nothing written yet, where what is there vanishes meanwhile.
    fn try_one(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        crossing: bool,
    ) -> Result<One, Error> {
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(One::Left),
            result => result.map_err(|error| at("look at", path)(error.into()))?,
        };
        let kind = kind_of(&stat, path)?;
        let opened = match kind {
            Kind::File | Kind::Directory => {
                match open(parent, name, OFlags::RDONLY | OFlags::NONBLOCK, crossing) {
                    // A mount: what stands there is not of this tree, and the place is made when it is mounted again.
                    Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => {
                        return Ok(One::Left);
                    }
                    result => Some(result.map_err(at("open", path))?),
                }
            }
            _ => None,
        };
        self.latest = identity(&stat);
        if let Some(opened) = &opened {
            let now = fstat(opened).map_err(|error| at("look at", path)(error.into()))?;
            if kind_of(&now, path)? != kind {
                return Err(at("open", path)(Errno::NOENT.into()));
            }
            self.latest = identity(&now);
        }
        let key = (stat.st_dev, stat.st_ino);
        let several = kind != Kind::Directory && stat.st_nlink > 1;
        if several && let Some(first) = self.first_names.get(&key).cloned() {
            let entry = Entry { kind: Kind::HardLink, link: first, ..Entry::at(path) };
            self.entry(&entry)?;
            return Ok(One::Sent(None));
        }
        let mut entry = describe(parent, name, path, &stat, kind)?;
        if kind == Kind::Symlink {
            let target = readlinkat(parent, name, Vec::new());
            let target = target.map_err(|error| at("read", path)(error.into()))?;
            entry.link = target.into_bytes().into();
        }
        if several {
            self.first_names.insert(key, path.to_vec().into());
        }
        match (kind, opened) {
            (Kind::File, Some(file)) => {
                entry.segments = segments(&file, entry.size).map_err(at("read", path))?;
                self.entry(&entry)?;
                let content = self.content(&File::from(file), &entry)?;
                Ok(One::Sent(Some(content)))
            }
            (Kind::Directory, Some(directory)) => self.entry(&entry).map(|()| One::Directory(directory)),
            _ => self.entry(&entry).map(|()| One::Sent(None)),
        }
    }

    /// Passes the content of a file on. Returns what tells it from any other ([`digest`]).
    fn content(&mut self, file: &File, entry: &Entry) -> Result<Hash, Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let in_use = self.in_use;
        let data = each_part(file, entry, in_use, &mut buffer, &mut |part| self.put(part))?;
        self.buffer = buffer;
        self.put(&data.0)?;
        Ok(layout(data, entry))
    }
}

/// Reads the data of a file part by part; returns the hash of all of them.
fn each_part(
    file: &File,
    entry: &Entry,
    in_use: bool,
    buffer: &mut Vec<u8>,
    use_part: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<Hash, Error> {
    buffer.resize(BUFFER_BYTES, 0);
    let mut hasher = blake3::Hasher::new();
    for (offset, length) in &entry.segments {
        let mut done = 0;
        while done < *length {
            let part = usize::try_from(*length - done).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            let part = &mut buffer[..part];
            match file.read_exact_at(part, offset + done) {
                // Cut short since it was described. It has changed, so it is sent again.
                Err(error) if in_use && error.kind() == io::ErrorKind::UnexpectedEof => part.fill(0),
                result => result.map_err(at("read", &entry.path))?,
            }
            hasher.update(part);
            use_part(part)?;
            done += part.len() as u64;
        }
    }
    Ok(Hash(*hasher.finalize().as_bytes()))
}

/// What tells the content of a file from any other: its data, its size and where its holes are.
fn layout(data: Hash, entry: &Entry) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&data.0);
    hasher.update(&entry.size.to_le_bytes());
    for (offset, length) in &entry.segments {
        hasher.update(&offset.to_le_bytes());
        hasher.update(&length.to_le_bytes());
    }
    Hash(*hasher.finalize().as_bytes())
}

/// What [`Packer::one`] would return for the content of this file now.
pub(super) fn digest(file: OwnedFd, path: &[u8], buffer: &mut Vec<u8>) -> Result<Hash, Error> {
    let stat = fstat(&file).map_err(|error| at("look at", path)(error.into()))?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let segments = segments(&file, size).map_err(at("read", path))?;
    let entry = Entry { kind: Kind::File, size, segments, ..Entry::at(path) };
    let data = each_part(&File::from(file), &entry, true, buffer, &mut |_| Ok(()))?;
    Ok(layout(data, &entry))
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
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
        ..Entry::at(path)
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
