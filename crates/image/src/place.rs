//! Files beneath one directory: opened so that no name and no link can lead out of it.

use crate::error::{Error, Result};
use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

/// An open directory that holds an image.
#[derive(Debug)]
pub(crate) struct Place {
    dir: OwnedFd,
}

impl Place {
    /// Opens the directory at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let dir = fs::open(path, flags, Mode::empty())
            .map_err(|e| Error::io(format!("open the directory {}", path.display()), e))?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    fn beneath(&self, name: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        fs::openat2(&self.dir, name, flags | OFlags::CLOEXEC, mode, resolve)
    }

    /// Opens the file `name` for reading. A link, a FIFO or a device in its place is refused.
    pub(crate) fn read(&self, name: &str) -> Result<(File, u64)> {
        // Without NONBLOCK, a FIFO put in place of a file would hold the reader for ever.
        let fd =
            self.beneath(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map_err(|e| match e {
                rustix::io::Errno::NOENT => Error::Missing(name.to_owned()),
                rustix::io::Errno::LOOP | rustix::io::Errno::XDEV => Error::NotAFile(name.to_owned()),
                e => Error::io(format!("open {name} in the image"), e),
            })?;
        let stat = fs::fstat(&fd).map_err(|e| Error::io(format!("inspect {name}"), e))?;
        if fs::FileType::from_raw_mode(stat.st_mode) != fs::FileType::RegularFile {
            return Err(Error::NotAFile(name.to_owned()));
        }
        Ok((File::from(fd), stat.st_size.unsigned_abs()))
    }

    /// Reads a whole file of at most `limit` bytes.
    pub(crate) fn read_bounded(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (file, found) = self.read(name)?;
        let oversized = |found| Error::Oversized { file: name.to_owned(), found, limit };
        if found > limit {
            return Err(oversized(found));
        }
        let mut bytes = Vec::with_capacity(found as usize);
        // One byte more than allowed: the file may grow while it is read.
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(format!("read {name}"), e))?;
        if bytes.len() as u64 > limit {
            return Err(oversized(bytes.len() as u64));
        }
        Ok(bytes)
    }

    /// Makes the file `name`, which must not exist, with the folders on the way to it.
    pub(crate) fn create(&self, name: &str) -> Result<File> {
        let mut at = 0;
        while let Some(slash) = name[at..].find('/') {
            let folder = &name[..at + slash];
            match fs::mkdirat(&self.dir, folder, Mode::RWXU) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(Error::io(format!("make the folder {folder}"), e)),
            }
            at += slash + 1;
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let fd = self
            .beneath(name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Error::io(format!("make the file {name}"), e))?;
        Ok(File::from(fd))
    }

    /// Makes the file `name` with `bytes` in it.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        use std::io::Write;
        let mut file = self.create(name)?;
        file.write_all(bytes).map_err(|e| Error::io(format!("write {name}"), e))
    }

    /// Makes the entries of the directory itself durable.
    pub(crate) fn sync(&self) -> Result<()> {
        fs::fsync(&self.dir).map_err(|e| Error::io("sync the directory of the image", e))
    }
}
