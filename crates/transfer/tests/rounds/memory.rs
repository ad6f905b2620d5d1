//! A memory of pages that counts what is done to it.

use ferry_transfer::engine::Filler;
use ferry_transfer::space::{PAGE_SIZE, PageSink, Range, SpaceId};
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages by space and number.
pub struct Memory {
    pages: Mutex<BTreeMap<(u32, u64), Vec<u8>>>,
    calls: AtomicU64,
    forbidden_from: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self::forbidding(u64::MAX / PAGE_SIZE)
    }
}

impl Memory {
    /// From this page on nothing may be written.
    pub fn forbidding(page: u64) -> Self {
        Self { pages: Mutex::default(), calls: AtomicU64::new(0), forbidden_from: page }
    }

    /// Writes pages, zeros if there are no bytes.
    pub fn put(&self, space: SpaceId, ranges: &[Range], bytes: Option<&[u8]>) {
        let mut pages = self.pages.lock().unwrap();
        let mut parts = bytes.map(|bytes| bytes.chunks_exact(PAGE_SIZE as usize));
        for start in ranges.iter().flat_map(|range| (range.start..range.end()).step_by(PAGE_SIZE as usize)) {
            let content = parts
                .as_mut()
                .map_or_else(|| vec![0; PAGE_SIZE as usize], |parts| parts.next().unwrap().to_vec());
            pages.insert((space.0, start / PAGE_SIZE), content);
        }
    }

    /// Whether all pages are the same.
    pub fn same(&self, other: &Self) -> bool {
        *self.pages.lock().unwrap() == *other.pages.lock().unwrap()
    }

    /// How often something was written.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn checked(&self, ranges: &[Range]) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let allowed = ranges.iter().all(|range| range.end() <= self.forbidden_from * PAGE_SIZE);
        if allowed { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl PageSink for Memory {
    fn write(&self, space: SpaceId, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_ranges(space, &[Range { start: address, len: bytes.len() as u64 }], bytes)
    }

    fn write_ranges(&self, space: SpaceId, ranges: &[Range], bytes: &[u8]) -> io::Result<()> {
        self.checked(ranges)?;
        self.put(space, ranges, Some(bytes));
        Ok(())
    }
}

impl Filler for Memory {
    fn zero(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.checked(ranges)?;
        self.put(space, ranges, None);
        Ok(())
    }
}
