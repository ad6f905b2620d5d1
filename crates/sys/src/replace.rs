//! A small file that is replaced whole: it is written beside its place and renamed over it. Whoever reads it finds the old content or the
//! new one, whenever the writer was killed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Puts `bytes` at `path`. A crash of the whole host may lose it: enough for what means nothing after a reboot.
///
/// # Errors
/// When it cannot be written; what was there before is there still.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, false)
}

/// Puts `bytes` at `path`, so that after a crash of the host, too, there is either this or what was there before.
///
/// # Errors
/// As [`replace`].
pub fn replace_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes, true)
}

/// Where the new content is until it is in its place: there after a crash of the writer, and overwritten by the next.
#[must_use]
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn put(path: &Path, bytes: &[u8], durably: bool) -> io::Result<()> {
    let new = beside(path);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    if durably {
        file.sync_data()?;
    }
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_writer_left_is_no_hindrance_and_nothing_stays_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note");
        replace(&path, b"old").unwrap();
        fs::write(beside(&path), b"cut short by a crash, and longer than what comes").unwrap();
        replace_durably(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("no/such"), b"").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
