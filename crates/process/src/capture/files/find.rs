//! A name for an inode: whether a path still leads to it, and if not, whether another does.
//!
//! Needed for files that were renamed over or have other links, and for inotify watches, of which the kernel tells only
//! the inode. The search walks one file system from the workload's root and is bounded.

use super::Error;
use super::survey::Survey;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// Entries that a search looks at at most.
const ENTRIES_MAX: usize = 400_000;

/// Opens `path` (`O_PATH`) as the workload would, from the root of its mount namespace, without following a last link.
pub(super) fn open_path(survey: &Survey<'_>, path: &[u8]) -> Option<OwnedFd> {
    let root = survey.root().ok()?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()
}

/// Whether `path` leads to the inode `key` (device, inode).
pub(super) fn leads_to(survey: &Survey<'_>, path: &[u8], key: (u64, u64)) -> bool {
    open_path(survey, path)
        .and_then(|fd| rustix::fs::fstat(fd).ok())
        .is_some_and(|stat| (stat.st_dev, stat.st_ino) == key)
}

/// Searches for a path that leads to an inode: first beneath `near`, then in the whole of the workload's tree. `wanted` gets
/// device and inode; `enter` says whether a directory of that device is walked into.
pub(super) fn search(
    survey: &Survey<'_>,
    near: &[u8],
    wanted: impl Fn(u64, u64) -> bool,
    enter: impl Fn(u64) -> bool,
) -> Result<Option<Vec<u8>>, Error> {
    let parent = near.iter().rposition(|&byte| byte == b'/').map_or(&b"/"[..], |at| &near[..at.max(1)]);
    for start in [parent, b"/"] {
        let mut looked = 0;
        let mut queue = VecDeque::from([start.to_vec()]);
        while let Some(path) = queue.pop_front() {
            let Some(directory) = open_directory(survey, &path) else { continue };
            if let Ok(stat) = rustix::fs::fstat(&directory) {
                if wanted(stat.st_dev, stat.st_ino) {
                    return Ok(Some(path));
                }
                // The way to another file system leads through this one; only the root itself is always read.
                if !enter(stat.st_dev) && path != b"/" && !is_on_the_way(&path) {
                    continue;
                }
            }
            let Ok(entries) = Dir::read_from(directory.as_fd()) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                looked += 1;
                if looked > ENTRIES_MAX {
                    return Ok(None);
                }
                let mut full = path.clone();
                if full.last() != Some(&b'/') {
                    full.push(b'/');
                }
                full.extend(name);
                if is_made_up(&full) {
                    continue;
                }
                if entry.file_type() == FileType::Directory {
                    queue.push_back(full);
                } else if let Ok(stat) =
                    rustix::fs::statat(directory.as_fd(), entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    && wanted(stat.st_dev, stat.st_ino)
                {
                    return Ok(Some(full));
                }
            }
        }
    }
    Ok(None)
}

/// Mounts are found a few levels deep (`/run/user/0`, `/dev/shm`): directories this near to the root are always read.
fn is_on_the_way(path: &[u8]) -> bool {
    path.iter().filter(|&&byte| byte == b'/').count() <= 2
}

fn is_made_up(path: &[u8]) -> bool {
    matches!(path, b"/proc" | b"/sys")
}

fn open_directory(survey: &Survey<'_>, path: &[u8]) -> Option<OwnedFd> {
    let root = survey.root().ok()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()
}
