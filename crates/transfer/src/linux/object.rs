//! A shared memory object as a tracked space: addresses are offsets into it.
//!
//! What is stored through mappings is noted by the trackers of those who have it mapped ([`super::shared`]). Two things they cannot see: a
//! process that nobody tracks (the caller says so, [`SharedObjects::doubt`]), and what comes by descriptor (`write`, `splice`, `fallocate`,
//! `ftruncate`). No time stamp tells the latter apart: a store through a mapping changes them, too. So an object that somebody may have
//! open is never sure.
//!
//! Where it is not sure, content is compared: of every page that was read to be sent a hash is kept, and what reads otherwise is dirty.

use super::opened::Opened;
use super::shared::{Key, SharedObjects};
use crate::access::{SpaceAccess, Via};
use crate::engine::{Found, RangeSet, TrackedSpace};
use crate::space::{PAGE_SIZE, Range, SpaceId};
use rustix::fs::SeekFrom;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes compared at once.
const CHUNK_BYTES: u64 = 1 << 20;
const CHUNK_PAGES: usize = (CHUNK_BYTES / PAGE_SIZE) as usize;

/// Threads that compare, at most: memory is no faster with more.
const THREADS_MAX: usize = 4;

/// Half of a BLAKE3: nobody chooses pages so that they collide unless he wants to lose them himself. All zero: never read.
type PageHash = [u8; 16];

/// One object that others have mapped and may have open.
pub struct ObjectSpace {
    space: SpaceId,
    opened: Opened,
    key: Key,
    objects: SharedObjects,
    /// Somebody may have it open.
    open: bool,
    /// What had content at the last scan.
    content: RangeSet,
    /// Pages as they were read last, by chunk. What had no content since is not among them: at the target it is zero.
    read: Mutex<BTreeMap<u64, Vec<PageHash>>>,
    /// The next scan reports all content.
    all: bool,
    compared_bytes: u64,
}

impl ObjectSpace {
    /// Opens it; `access` names a file, and `identity` is the device and the inode that it must have. Whoever has it mapped is to be tracked
    /// by trackers that note for `objects`. `open`: somebody may have it open, or come to.
    ///
    /// # Errors
    /// It is gone, or another one by now, or this process may not read it.
    pub fn open(
        access: &SpaceAccess,
        identity: (u64, u64),
        open: bool,
        objects: &SharedObjects,
    ) -> io::Result<Self> {
        let opened = Opened::open(&access.via, false)?;
        let Opened::File(file) = &opened else {
            let Via::Task { pid } = access.via else { return Err(io::ErrorKind::InvalidInput.into()) };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("task {pid} is no object")));
        };
        let metadata = file.metadata()?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        if (device, inode) != identity {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another object is mapped there by now"));
        }
        let key = (device_numbers(device), inode);
        objects.begin(key);
        let (objects, read, content) = (objects.clone(), Mutex::default(), RangeSet::default());
        Ok(Self {
            space: access.space,
            opened,
            key,
            objects,
            open,
            content,
            read,
            all: true,
            compared_bytes: 0,
        })
    }

    /// How much content was read for nothing but to be compared, bytes, all scans together.
    #[must_use]
    pub fn compared_bytes(&self) -> u64 {
        self.compared_bytes
    }

    fn file(&self) -> io::Result<&File> {
        match &self.opened {
            Opened::File(file) => Ok(file),
            Opened::Task { .. } => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn try_scan(&mut self) -> io::Result<Found> {
        let noted = self.objects.take(self.key);
        let content = content(self.file()?)?;
        self.forget(&self.content.difference(&content));
        self.content = content.clone();
        let dirty = if self.all {
            content.clone()
        } else {
            let written = noted.written.intersection(&content);
            let unsure = if self.open { content.clone() } else { noted.unsure.intersection(&content) };
            let unsure = unsure.difference(&written);
            self.compared_bytes += unsure.bytes();
            written.union(&self.different(&unsure)?)
        };
        Ok(Found { dirty, content, ..Found::default() })
    }

    /// Pages of `ranges` that read otherwise than when they were read to be sent.
    fn different(&self, ranges: &RangeSet) -> io::Result<RangeSet> {
        let chunks = chunks(ranges);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut found, mut buffer) = (Vec::new(), Vec::new());
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                buffer.resize(chunk.len as usize, 0);
                self.opened.read(chunk.start, &mut buffer)?;
                let first = chunk.start % CHUNK_BYTES / PAGE_SIZE;
                let before = self.hashes(chunk.start / CHUNK_BYTES);
                let pages = buffer.chunks(PAGE_SIZE as usize).zip(&before[first as usize..]);
                for (at, (page, before)) in pages.enumerate() {
                    if hash(page) != *before {
                        found.push(Range { start: chunk.start + at as u64 * PAGE_SIZE, len: PAGE_SIZE });
                    }
                }
            }
            Ok(found)
        };
        let others = threads.min(chunks.len()).saturating_sub(1);
        let found: io::Result<Vec<Vec<Range>>> = std::thread::scope(|scope| {
            let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
            let own = work();
            let joined = others.into_iter().map(|other| {
                other.join().unwrap_or_else(|_| Err(io::Error::other("a thread that compares has failed")))
            });
            std::iter::once(own).chain(joined).collect()
        });
        Ok(found?.into_iter().flatten().collect())
    }

    /// Forgets how pages were read.
    fn forget(&self, pages: &RangeSet) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        for part in chunks(pages) {
            if let Some(hashes) = read.get_mut(&(part.start / CHUNK_BYTES)) {
                let first = (part.start % CHUNK_BYTES / PAGE_SIZE) as usize;
                hashes[first..first + (part.len / PAGE_SIZE) as usize].fill(PageHash::default());
            }
        }
    }

    fn hashes(&self, chunk: u64) -> Vec<PageHash> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.get(&chunk).cloned().unwrap_or_else(|| vec![PageHash::default(); CHUNK_PAGES])
    }

    /// Notes how pages were read.
    fn note(&self, range: Range, bytes: &[u8]) {
        let hashes = bytes.chunks(PAGE_SIZE as usize).map(hash);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, hash) in (range.start / PAGE_SIZE..).zip(hashes) {
            let (chunk, page) = (at / CHUNK_PAGES as u64, at as usize % CHUNK_PAGES);
            read.entry(chunk).or_insert_with(|| vec![PageHash::default(); CHUNK_PAGES])[page] = hash;
        }
    }
}

impl TrackedSpace for ObjectSpace {
    fn id(&self) -> SpaceId {
        self.space
    }

    fn arm(&mut self) -> io::Result<()> {
        self.all = true;
        Ok(())
    }

    fn scan(&mut self) -> io::Result<Found> {
        let found = self.try_scan();
        // What was noted has been taken and is told to nobody.
        self.all = found.is_err();
        found
    }

    fn read(&self, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        self.opened.read_ranges(ranges, buffer)?;
        let mut rest = &*buffer;
        for range in ranges {
            let (bytes, others) = rest.split_at((range.len as usize).min(rest.len()));
            self.note(*range, bytes);
            rest = others;
        }
        Ok(())
    }

    fn is_told_by_others(&self) -> bool {
        true
    }

    fn disarm(&mut self) -> io::Result<()> {
        self.all = true;
        Ok(())
    }
}

impl Drop for ObjectSpace {
    fn drop(&mut self) {
        self.objects.end(self.key);
    }
}

fn hash(page: &[u8]) -> PageHash {
    *blake3::hash(page).as_bytes().first_chunk().unwrap_or(&PageHash::default())
}

/// Where a file has data, in whole pages.
fn content(file: &File) -> io::Result<RangeSet> {
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start & !(PAGE_SIZE - 1),
            // Behind the last data, or behind the end.
            Err(rustix::io::Errno::NXIO) => return Ok(RangeSet::new(ranges)),
            Err(error) => return Err(error.into()),
        };
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.next_multiple_of(PAGE_SIZE),
            // Cut since.
            Err(rustix::io::Errno::NXIO) => return Ok(RangeSet::new(ranges)),
            Err(error) => return Err(error.into()),
        };
        if end <= start {
            return Ok(RangeSet::new(ranges));
        }
        ranges.push(Range { start, len: end - start });
        at = end;
    }
}

/// Cuts ranges at the borders of chunks.
fn chunks(ranges: &RangeSet) -> Vec<Range> {
    let mut all = Vec::new();
    for range in ranges.ranges() {
        let mut start = range.start;
        while start < range.end() {
            let len = (CHUNK_BYTES - start % CHUNK_BYTES).min(range.end() - start);
            all.push(Range { start, len });
            start += len;
        }
    }
    all
}

/// Major and minor number of a device, as lists of mappings have them.
fn device_numbers(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}
