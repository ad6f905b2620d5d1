//! What `/proc/PID` says, parsed. Every parser takes bytes and answers with an error for what it does not understand: the
//! text comes from the kernel, but some of it (names, paths) from programs.

pub mod maps;
pub mod smaps;
pub mod stat;
pub mod status;
pub mod text;
pub mod timers;

use std::fs::File;
use std::io::{self, Read};

/// Most bytes read of one file of `/proc`: 200,000 mappings with long paths.
pub const BYTES_MAX: u64 = 256 << 20;

/// Why a text of `/proc` could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Cannot understand {file}: {what}")]
pub struct Malformed {
    /// Which file.
    pub file: &'static str,
    /// What was wrong, with the place.
    pub what: String,
}

impl Malformed {
    pub(crate) fn new(file: &'static str, what: impl Into<String>) -> Self {
        Self { file, what: what.into() }
    }
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, malformed)
    }
}

/// Reads `/proc/PID/name` whole.
///
/// # Errors
/// ENOENT or ESRCH when the task is gone; files over [`BYTES_MAX`] are refused.
pub fn read(pid: i32, name: &str) -> io::Result<Vec<u8>> {
    read_path(&format!("/proc/{pid}/{name}"))
}

/// Reads a file of `/proc` whole, in reads as large as the kernel likes.
///
/// # Errors
/// As [`read`].
pub fn read_path(path: &str) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0u8; 4096];
    let mut filled = 0;
    loop {
        if filled == bytes.len() {
            bytes.resize(filled * 4, 0);
        }
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if filled as u64 > BYTES_MAX {
            return Err(Malformed::new("/proc", format!("{path} is longer than {BYTES_MAX} bytes")).into());
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Where a link of `/proc/PID` leads, as bytes.
///
/// # Errors
/// ENOENT when the task is gone, EACCES where this process may not look.
pub fn link(pid: i32, name: &str) -> io::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    Ok(std::fs::read_link(format!("/proc/{pid}/{name}"))?.into_os_string().into_vec())
}

/// The numbers that name entries of a directory: threads in `/proc/PID/task`, descriptors in `/proc/PID/fd`.
///
/// # Errors
/// ENOENT when the task is gone.
pub fn numbers(path: &str) -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path)? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            all.push(number);
        }
    }
    all.sort_unstable();
    Ok(all)
}
