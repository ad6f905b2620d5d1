//! Building a tree from a stream, beneath one directory and nowhere else.

use super::entry::{ENTRY_BYTES_MAX, Entry, Kind};
use super::{BUFFER_BYTES, Error, Limits, MAGIC, Totals, xattr};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat,
    chownat, fstat, ftruncate, linkat, makedev, mkdirat, mknodat, openat2, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Reads a stream that `pack` wrote and makes what it describes beneath `root`. Directories that are there already
/// are used, other things of the same name replaced. What is not named by the stream stays, so that a stream of changes may
/// follow one of everything.
///
/// # Errors
/// [`Error::Refused`] for a stream that is cut, altered or tries to reach beyond `root`, [`Error::TooLarge`] beyond
/// `limits`. What had been made until then stays: the caller removes the whole directory.
pub fn unpack(root: impl AsFd, input: &mut dyn Read, limits: &Limits) -> Result<Totals, Error> {
    let mut magic = [0; MAGIC.len()];
    read(input, &mut magic)?;
    if &magic != MAGIC {
        return Err(Error::Refused("it does not begin as a tree".into()));
    }
    let mut unpacker = Unpacker {
        root: root.as_fd(),
        limits,
        totals: Totals::default(),
        times: Vec::new(),
        buffer: Vec::new(),
    };
    loop {
        let mut length = [0; 4];
        read(input, &mut length)?;
        let length = u32::from_le_bytes(length);
        if length == 0 {
            break;
        }
        if length > ENTRY_BYTES_MAX {
            return Err(Error::Refused("an entry is too long".into()));
        }
        let bytes = read_some(input, length as usize)?;
        let entry: Entry = minicbor::decode(&bytes)
            .map_err(|error| Error::Refused(format!("an entry is damaged: {error}")))?;
        unpacker.entry(&entry, input)?;
    }
    let mut totals = [0; 16];
    read(input, &mut totals)?;
    let (entries, bytes) = totals.split_at(8);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
    if (number(entries), number(bytes)) != (unpacker.totals.entries, unpacker.totals.bytes) {
        return Err(Error::Refused("its end does not match its content".into()));
    }
    unpacker.directory_times()?;
    Ok(unpacker.totals)
}

fn read(input: &mut dyn Read, buffer: &mut [u8]) -> Result<(), Error> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Refused("it is cut off".into()),
        _ => Error::Stream(error),
    })
}

/// Reads `length` bytes, taking memory only as they arrive.
fn read_some(input: &mut dyn Read, length: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    input.take(length as u64).read_to_end(&mut bytes).map_err(Error::Stream)?;
    if bytes.len() == length { Ok(bytes) } else { Err(Error::Refused("it is cut off".into())) }
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    limits: &'a Limits,
    totals: Totals,
    /// Times of directories, set at the end: making what is in them changes them.
    times: Vec<(Vec<u8>, i64, u32)>,
    buffer: Vec<u8>,
}

fn at(doing: &'static str, entry: &Entry) -> impl FnOnce(io::Error) -> Error {
    let path = entry.name();
    move |source| match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => {
            Error::Refused(format!("{path:?} lies behind something that is not a directory of this tree"))
        }
        _ => Error::File { doing, path, source },
    }
}

fn at_errno(doing: &'static str, entry: &Entry) -> impl FnOnce(Errno) -> Error {
    let convert = at(doing, entry);
    move |error| convert(error.into())
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, input: &mut dyn Read) -> Result<(), Error> {
        entry.check(self.limits.depth_max)?;
        self.totals.entries += 1;
        self.totals.bytes = self.totals.bytes.saturating_add(entry.content_bytes());
        if self.totals.entries > self.limits.entries_max {
            return Err(Error::TooLarge(format!("{} entries", self.limits.entries_max)));
        }
        if self.totals.bytes > self.limits.bytes_max {
            return Err(Error::TooLarge(format!("{} bytes", self.limits.bytes_max)));
        }
        if entry.kind == Kind::Gone {
            return self.gone(entry);
        }
        let (parent, name) = self.parent(entry, &entry.path)?;
        let parent = parent.as_fd();
        if entry.kind == Kind::HardLink {
            return self.hard_link(entry, parent, name);
        }
        if entry.kind != Kind::Directory {
            remove(parent, name, self.limits.depth_max).map_err(at("replace", entry))?;
        }
        self.make(entry, parent, name, input)?;
        self.attributes(entry, parent, name)
    }

    /// The directory that an entry is in, and its name there.
    fn parent<'p>(&self, entry: &Entry, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Error> {
        let (directory, name) = split(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok((self.open(directory, flags).map_err(at("open the directory of", entry))?, name))
    }

    fn open(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(self.root, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)?)
    }

    fn make(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        input: &mut dyn Read,
    ) -> Result<(), Error> {
        let private = Mode::from_raw_mode(0o600);
        let node =
            |kind: FileType| mknodat(parent, name, kind, private, makedev(entry.device.0, entry.device.1));
        let made = match entry.kind {
            Kind::File => return self.file(entry, parent, name, input),
            Kind::Directory => match mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
                Err(Errno::EXIST) => self.existing_directory(parent, name),
                result => result,
            },
            Kind::Symlink => symlinkat(&entry.link[..], parent, name),
            Kind::Fifo => node(FileType::Fifo),
            Kind::Socket => node(FileType::Socket),
            Kind::CharacterDevice => node(FileType::CharacterDevice),
            Kind::BlockDevice => node(FileType::BlockDevice),
            Kind::HardLink | Kind::Gone => Ok(()),
        };
        made.map_err(at_errno("make", entry))
    }

    /// Removes what an earlier stream has made. What is not there any more, or never was, is gone too.
    fn gone(&self, entry: &Entry) -> Result<(), Error> {
        let (directory, name) = split(&entry.path);
        let parent = match self.open(directory, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if super::pack::has_vanished(&error) => return Ok(()),
            result => result.map_err(at("open the directory of", entry))?,
        };
        remove(parent.as_fd(), name, self.limits.depth_max).map_err(at("remove", entry))
    }

    /// A directory that is there is used, anything else of that name replaced.
    fn existing_directory(&self, parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(());
        }
        unlinkat(parent, name, AtFlags::empty())?;
        mkdirat(parent, name, Mode::from_raw_mode(0o700))
    }

    fn file(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        input: &mut dyn Read,
    ) -> Result<(), Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
            .map_err(at_errno("make", entry))?;
        ftruncate(&file, entry.size).map_err(at_errno("size", entry))?;
        let file = File::from(file);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BUFFER_BYTES, 0);
        let mut hasher = blake3::Hasher::new();
        for (offset, length) in &entry.segments {
            let mut done = 0;
            while done < *length {
                let part = usize::try_from(*length - done).unwrap_or(usize::MAX).min(BUFFER_BYTES);
                read(input, &mut buffer[..part])?;
                hasher.update(&buffer[..part]);
                file.write_all_at(&buffer[..part], offset + done).map_err(at("write", entry))?;
                done += part as u64;
            }
        }
        self.buffer = buffer;
        let mut hash = [0; 32];
        read(input, &mut hash)?;
        if hash == *hasher.finalize().as_bytes() {
            Ok(())
        } else {
            Err(Error::Refused(format!("the content of {:?} was altered", entry.name())))
        }
    }

    fn hard_link(&self, entry: &Entry, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Error> {
        let (first_parent, first) = self.parent(entry, &entry.link)?;
        remove(parent, name, self.limits.depth_max).map_err(at("replace", entry))?;
        linkat(&first_parent, first, parent, name, AtFlags::empty()).map_err(at_errno("link", entry))
    }

    /// Owner first (a change of it clears set-user-id and capabilities), then mode, attributes, times.
    fn attributes(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Error> {
        let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(at_errno("give away", entry))?;
        if entry.kind != Kind::Symlink {
            // The name is one that was just made here, and no link.
            chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(at_errno("set the mode of", entry))?;
        }
        if entry.kind == Kind::Directory {
            // It may have been there before, with attributes that it has lost since.
            xattr::remove_others(parent, name, &entry.xattrs).map_err(at("remove attributes of", entry))?;
        }
        xattr::write(parent, name, &entry.xattrs).map_err(at("set the attributes of", entry))?;
        if entry.kind == Kind::Directory {
            self.times.push((entry.path.to_vec(), entry.mtime_s, entry.mtime_ns));
            return Ok(());
        }
        utimensat(parent, name, &times(entry.mtime_s, entry.mtime_ns), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at_errno("set the time of", entry))
    }

    fn directory_times(&self) -> Result<(), Error> {
        for (path, seconds, nanos) in self.times.iter().rev() {
            let name = if path.is_empty() { &b"."[..] } else { path };
            let set = self.open(name, OFlags::RDONLY | OFlags::DIRECTORY).and_then(|directory| {
                fstat(&directory)?;
                Ok(rustix::fs::futimens(&directory, &times(*seconds, *nanos))?)
            });
            set.map_err(|source| Error::File {
                doing: "set the time of",
                path: String::from_utf8_lossy(path).into_owned(),
                source,
            })?;
        }
        Ok(())
    }
}

fn times(seconds: i64, nanos: u32) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    }
}

/// A path as the directory that it is in and its name there. The root's own name is ".".
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b"."[..], if path.is_empty() { &b"."[..] } else { path }),
    }
}

/// Removes whatever has this name; a directory with everything beneath it, which no symbolic link leads out of.
fn remove(parent: BorrowedFd<'_>, name: &[u8], depth_max: usize) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let deeper = depth_max.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for name in super::pack::names_in(&directory)? {
        remove(directory.as_fd(), &name, deeper)?;
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
