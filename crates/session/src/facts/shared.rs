//! Whether a path lies on a file system that other hosts have too, and which one that is.

use ferry_sys::mountinfo::{self, Mount, Sharing};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file in the root of a mount that marks it as shared: its text is the identity. For file systems whose kernel type says
/// nothing (a cluster file system on a block device, a FUSE mount, a bind mount between test hosts).
pub const MARKER: &str = ".ferry-shared";

/// Longest identity in a marker, bytes.
const MARKER_BYTES_MAX: u64 = 128;

/// Identity of the shared file system under `path` (as this process sees it), with the place of the mount in it; none if it is
/// local. The path need not exist.
#[must_use]
pub fn identity(path: &Path) -> Option<String> {
    let mounts = mountinfo::read(Path::new("/proc/self")).ok()?;
    let real = nearest(path)?;
    let mount = under(&mounts, &real)?;
    if mountinfo::sharing(&mount.kind) == Sharing::Named {
        return Some(format!("{} {}{}", mount.kind, mount.source.to_string_lossy(), mount.root.display()));
    }
    marker(&mount.point)
}

/// The nearest ancestor that exists, resolved, so that a symbolic link into a shared mount counts.
fn nearest(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|ancestor| ancestor.canonicalize().ok())
}

/// The mount that `path` is seen through: the deepest that contains it, and of several on one point the last.
fn under<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

fn marker(point: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(point.join(MARKER)).ok()?.take(MARKER_BYTES_MAX).read_to_string(&mut text).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| format!("marked {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, kind: &str) -> Mount {
        let line = format!("1 0 0:1 / {point} rw - {kind} server:/export rw\n");
        mountinfo::parse(line.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn the_deepest_and_last_mount_counts() {
        let mounts =
            [mount("/", "ext4"), mount("/data", "ext4"), mount("/data", "nfs4"), mount("/data2", "tmpfs")];
        assert_eq!(under(&mounts, Path::new("/data/x")).unwrap().kind, "nfs4");
        assert_eq!(under(&mounts, Path::new("/data2/x")).unwrap().kind, "tmpfs");
        assert_eq!(under(&mounts, Path::new("/database")).unwrap().kind, "ext4");
    }

    #[test]
    fn a_local_path_has_no_identity() {
        assert_eq!(identity(Path::new("/proc/self/there/is/no/such")), None);
    }

    #[test]
    fn a_marker_is_an_identity_and_an_empty_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(MARKER), "volume-7\n").unwrap();
        assert_eq!(marker(dir.path()).as_deref(), Some("marked volume-7"));
        std::fs::write(dir.path().join(MARKER), "\n").unwrap();
        assert_eq!(marker(dir.path()), None);
    }
}
