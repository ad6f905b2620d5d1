//! Files that must be there after a crash, and directories that only the owner may enter.
//!
//! A file is written beside its place, synced, renamed over it, and the directory synced: a reader sees the old content
//! or the new one, never a half.

use ferry_model::error::{Error, Kind, Result};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Longest file of the node's own that is read whole, bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Makes `dir` and its parents, for the owner only.
pub fn make_private_dir(dir: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|cause| unable(&cause, "made", dir))?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
        .map_err(|cause| unable(&cause, "made private", dir))
}

/// Puts `bytes` at `path`, durably, readable by the owner only.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |cause: std::io::Error| unable(&cause, "written", path);
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new-{}", unique()));
    let beside = std::path::PathBuf::from(beside);
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        });
    if let Err(cause) = written {
        let _ = std::fs::remove_file(&beside);
        return Err(fail(cause));
    }
    sync_parent(path)
}

/// Makes `path` with `bytes`, durably; `Ok(false)` if something is there already. Of two who try, one succeeds.
pub fn create_durably(path: &Path, bytes: &[u8]) -> Result<bool> {
    let fail = |cause: std::io::Error| unable(&cause, "written", path);
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists => return Ok(false),
        opened => opened.map_err(fail)?,
    };
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
    sync_parent(path)?;
    Ok(true)
}

/// Reads a file of the node's own; `None` if it is not there.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    let read = File::open(path).and_then(|file| {
        if file.metadata()?.len() > FILE_BYTES_MAX {
            return Err(std::io::Error::new(ErrorKind::InvalidData, "it is too long to be one of Ferry's"));
        }
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_BYTES_MAX), &mut bytes)?;
        Ok(bytes)
    });
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(unable(&cause, "read", path)),
    }
}

/// Makes renames and new names in the directory of `path` durable.
pub fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|cause| unable(&cause, "synced", parent))
}

fn unable(cause: &std::io::Error, done: &str, path: &Path) -> Error {
    Error::from_source(Kind::Unable, cause).context(format!("{} could not be {done}", path.display()))
}

fn unique() -> String {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_creations_one_succeeds_and_secrets_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(create_durably(&path, b"a").unwrap());
        assert!(!create_durably(&path, b"b").unwrap());
        assert_eq!(read_if_there(&path).unwrap().as_deref(), Some(&b"a"[..]));
        write_durably(&path, b"c").unwrap();
        assert_eq!(read_if_there(&path).unwrap().as_deref(), Some(&b"c"[..]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
