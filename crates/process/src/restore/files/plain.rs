//! Files, directories and devices with a name, opened again at their path, flags and position.

use super::Error;
use crate::records::file::{Description, Kind};
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// What of a description's flags `open` takes. Creating and truncating are over.
const OPEN: u32 = (libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DIRECT
    | libc::O_SYNC
    | libc::O_NOATIME
    | libc::O_PATH
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_LARGEFILE) as u32;

/// The flags to open a description with.
pub(super) fn open_flags(description: &Description) -> OFlags {
    let mut flags = description.flags & OPEN;
    // O_TMPFILE holds the bit of O_DIRECTORY.
    if description.flags & OFlags::TMPFILE.bits() == OFlags::TMPFILE.bits() {
        flags &= !OFlags::DIRECTORY.bits();
    }
    OFlags::from_bits_retain(flags) | OFlags::CLOEXEC | OFlags::NOCTTY
}

/// Opens a path with a description's flags.
pub(super) fn open_path(path: &[u8], description: &Description) -> Result<OwnedFd, Error> {
    let shown = String::from_utf8_lossy(path).into_owned();
    rustix::fs::open(OsStr::from_bytes(path), open_flags(description), Mode::empty())
        .map_err(Error::kernel(format!("open {shown}")))
}

/// Opens what `description` says.
pub(super) fn open(description: &Description) -> Result<OwnedFd, Error> {
    let (Kind::File { path, .. } | Kind::Directory { path } | Kind::Device { path, .. }) = &description.kind
    else {
        return Err(Error::broken("This is no file"));
    };
    let shown = || String::from_utf8_lossy(path).into_owned();
    let fd = open_path(path, description)?;
    let stat = rustix::fs::fstat(&fd).map_err(Error::kernel(format!("look at {}", shown())))?;
    let sort = FileType::from_raw_mode(stat.st_mode);
    match &description.kind {
        Kind::File { size: Some(size), .. } if sort.is_file() && stat.st_size as u64 != *size => {
            return Err(Error::broken(format!(
                "{} has {} bytes here and had {size} when it was captured",
                shown(),
                stat.st_size
            )));
        }
        Kind::Directory { .. } if !sort.is_dir() => {
            return Err(Error::broken(format!("{} is no directory here", shown())));
        }
        Kind::Device { major, minor, .. }
            if (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) != (*major, *minor) =>
        {
            return Err(Error::broken(format!("{} is another device here", shown())));
        }
        _ => {}
    }
    if description.position != 0 && description.flags & OFlags::PATH.bits() == 0 {
        rustix::fs::seek(&fd, SeekFrom::Start(description.position))
            .map_err(Error::kernel(format!("find the position in {}", shown())))?;
    }
    Ok(fd)
}

/// A new description of what `fd` leads to, with the flags and position of `description`. `own` is this process's directory
/// of descriptors: the /proc that the workload sees does not show it.
pub(super) fn reopen(own: &OwnedFd, fd: &OwnedFd, description: &Description) -> Result<OwnedFd, Error> {
    let flags = open_flags(description).difference(OFlags::NOFOLLOW);
    let fd = rustix::fs::openat(own, fd.as_raw_fd().to_string(), flags, Mode::empty())
        .map_err(Error::kernel("open a nameless file again"))?;
    if description.position != 0 && description.flags & OFlags::PATH.bits() == 0 {
        rustix::fs::seek(&fd, SeekFrom::Start(description.position))
            .map_err(Error::kernel("find the position in a nameless file"))?;
    }
    Ok(fd)
}
