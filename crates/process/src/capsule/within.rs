//! Paths inside of a capsule, from outside: never beyond its root, whatever links the workload has made.

use super::error::{Doing, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::io;
use std::path::{Component, Path, PathBuf};

/// What shall be at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// A directory.
    Directory,
    /// An empty file, if there is nothing yet.
    File,
}

/// Opens `path` inside of `root`: links are followed as the workload would follow them.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    Ok(openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// Opens `path` inside of `root` as a place to mount on; what is missing of it is made.
pub(super) fn place(root: BorrowedFd<'_>, path: &Path, want: Want) -> Result<OwnedFd> {
    place_io(root, path, want).doing(|| format!("make {} in the capsule", path.display()))
}

fn place_io(root: BorrowedFd<'_>, path: &Path, want: Want) -> io::Result<OwnedFd> {
    let parts: Vec<_> = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut reached = PathBuf::from("/");
    let mut here = open(root, &reached, OFlags::PATH)?;
    for (at, part) in parts.iter().enumerate() {
        reached.push(part);
        let next = match open(root, &reached, OFlags::PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = want == Want::File && at + 1 == parts.len();
                if file {
                    let flags =
                        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                    rustix::fs::openat(here.as_fd(), part.as_os_str(), flags, Mode::from_raw_mode(0o644))?;
                } else {
                    rustix::fs::mkdirat(here.as_fd(), part.as_os_str(), Mode::from_raw_mode(0o755))?;
                }
                open(root, &reached, OFlags::PATH)?
            }
            result => result?,
        };
        here = next;
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_and_what_is_missing_is_made() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("real")).unwrap();
        std::os::unix::fs::symlink("/real", directory.path().join("link")).unwrap();
        let root = std::fs::File::open(directory.path()).unwrap();
        place(root.as_fd(), Path::new("/link/a/b"), Want::Directory).unwrap();
        place(root.as_fd(), Path::new("/link/a/f"), Want::File).unwrap();
        assert!(directory.path().join("real/a/b").is_dir());
        assert!(directory.path().join("real/a/f").is_file());
        assert!(place(root.as_fd(), Path::new("/../x"), Want::Directory).is_err());
    }
}
