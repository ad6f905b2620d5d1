//! The limits: what the same machine needs for the same bytes with nothing of Ferry in the way.

use ferry_sys::mapped::Mapped;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes given to one write(2) or read(2): larger is no faster.
const CALL_BYTES: usize = 1 << 20;
/// Length of the source of writes: larger than any cache, so that it is read from memory, as a workload's is.
const SOURCE_BYTES: usize = 256 << 20;

/// Incompressible bytes to write from.
pub struct Source(Vec<u8>);

impl Source {
    /// Makes them.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = vec![0; SOURCE_BYTES];
        crate::subject::fill(&mut bytes, 1);
        Self(bytes)
    }
}

impl Default for Source {
    fn default() -> Self {
        Self::new()
    }
}

/// How long write(2) of `bytes` into the new file `path` takes.
pub fn write(source: &Source, path: &Path, bytes: u64) -> io::Result<Duration> {
    let start = Instant::now();
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut left = bytes as usize;
    for call in source.0.chunks(CALL_BYTES).cycle() {
        let len = left.min(call.len());
        file.write_all(&call[..len])?;
        left -= len;
        if left == 0 {
            break;
        }
    }
    Ok(start.elapsed())
}

/// How long read(2) of the file `path` into fresh anonymous memory takes.
pub fn read(path: &Path, huge: bool) -> io::Result<Duration> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len() as usize;
    let start = Instant::now();
    let mut memory = Mapped::new(bytes)?;
    memory.huge(huge)?;
    for call in memory[..bytes].chunks_mut(CALL_BYTES) {
        file.read_exact(call)?;
    }
    Ok(start.elapsed())
}

/// Touches `bytes` of memory and gives them back, so that the host beneath a virtual machine has them ready.
pub fn warm(bytes: u64) -> io::Result<()> {
    let mut memory = Mapped::new(bytes as usize)?;
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    Ok(())
}
