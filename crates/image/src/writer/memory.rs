//! Memory into files of pages: read a chunk, hash it while it is in the cache, write it.
//!
//! Each thread has a file of its own, because the kernel lets one writer at a time into a file. Pages are written by
//! `pwrite` rather than through a mapping: a page that is written whole need not be cleared first, nor faulted in. See
//! `docs/bench.md` for both measured.

use super::Writer;
use crate::error::{Error, Result};
use crate::limits;
use crate::name;
use crate::space::{Chunk, Layout, Piece, Space, SpaceRanges};
use ferry_model::ids::Hash;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Something whose memory can be read: a stopped process by pid, a shared object by descriptor.
pub trait ReadMemory: Sync {
    /// Fills `buffer` with the content of `pieces` of `space`, one after the other. Their lengths add up to that of the
    /// buffer. Reading less is an error.
    fn read(&self, space: u32, pieces: &[Piece], buffer: &mut [u8]) -> io::Result<()>;
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Bytes of memory.
    pub bytes: u64,
    /// Bytes of them that were all zeros, chunk by chunk, and not stored.
    pub zero_bytes: u64,
    /// Threads used.
    pub threads: usize,
}

/// Memory below this is copied by the calling thread: starting others would take longer.
const ALONE_BYTES_MAX: u64 = 4 << 20;
/// Chunks that a thread takes at once: neighbours share page tables, and a lock on each.
const CHUNKS_AT_ONCE: usize = 8;

impl Writer {
    /// Makes the buffers that `threads` threads will need, and touches them, so that [`Writer::memory`] need not do so while a workload
    /// stands still.
    pub fn prepare(&mut self, threads: usize) {
        let threads = threads.clamp(1, limits::PAGES_FILES_MAX);
        self.buffers.resize_with(threads, || {
            // Not zeros, which the allocator would give without touching them.
            vec![1; limits::CHUNK_BYTES as usize]
        });
    }

    /// Writes the memory of all `spaces`, with up to `threads` threads. May be called once.
    pub fn memory(
        &mut self,
        spaces: &[SpaceRanges],
        threads: usize,
        from: &dyn ReadMemory,
    ) -> Result<MemoryReport> {
        assert!(self.spaces.is_empty(), "memory is written once");
        let mut packed: Vec<Space> =
            spaces.iter().map(|space| Space::new(space, limits::CHUNK_BYTES)).collect::<Result<_>>()?;
        let layouts: Vec<Layout> = packed.iter().map(Layout::new).collect();
        let bytes: u64 = packed.iter().map(Space::bytes).sum();
        let chunks: Vec<(usize, usize)> = packed
            .iter()
            .enumerate()
            .flat_map(|(index, space)| (0..space.chunk_count()).map(move |number| (index, number)))
            .collect();
        let threads = if bytes <= ALONE_BYTES_MAX { 1 } else { threads.clamp(1, limits::PAGES_FILES_MAX) };
        let files: Vec<File> =
            (0..threads).map(|number| self.place.create(&name::pages(number))).collect::<Result<_>>()?;
        if self.buffers.len() < threads {
            self.prepare(threads);
        }
        let mut buffers = std::mem::take(&mut self.buffers);
        let work = Work {
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            chunks: &chunks,
            spaces: &packed,
            layouts: &layouts,
            from,
        };
        let done = std::thread::scope(|scope| {
            let mut own = files.iter().zip(&mut buffers).zip(0..);
            let first = own.next();
            let others: Vec<_> = own
                .map(|((file, buffer), number)| {
                    let work = &work;
                    scope.spawn(move || work.run(number, file, buffer))
                })
                .collect();
            let mut done: Vec<_> =
                first.into_iter().map(|((file, buffer), number)| work.run(number, file, buffer)).collect();
            done.extend(
                others.into_iter().map(|other| other.join().expect("a copying thread does not panic")),
            );
            done.into_iter().collect::<Result<Vec<_>>>()
        })?;
        // Given back to the system when the image is finished, not while a workload stands still.
        self.buffers = buffers;
        let mut report = MemoryReport { bytes, zero_bytes: 0, threads };
        self.pages = done.iter().map(|part| part.written).collect();
        for (index, chunk) in done.into_iter().flat_map(|part| part.chunks) {
            let (space, number) = chunks[index];
            if chunk.zero {
                let chunk_bytes = u64::from(limits::CHUNK_BYTES);
                report.zero_bytes += chunk_bytes.min(packed[space].bytes() - number as u64 * chunk_bytes);
            }
            packed[space].set_chunk(number, &chunk);
        }
        self.spaces = packed;
        Ok(report)
    }
}

struct Work<'a> {
    /// The first chunk that no thread has taken.
    next: AtomicUsize,
    /// A thread has failed: the others need not go on.
    failed: AtomicBool,
    /// Every chunk: index of its space and number in it.
    chunks: &'a [(usize, usize)],
    spaces: &'a [Space],
    layouts: &'a [Layout],
    from: &'a dyn ReadMemory,
}

/// What one thread has done.
struct Part {
    chunks: Vec<(usize, Chunk)>,
    written: u64,
}

impl Work<'_> {
    fn run(&self, number: usize, file: &File, buffer: &mut [u8]) -> Result<Part> {
        let result = self.copy(number, file, buffer);
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn copy(&self, number: usize, file: &File, buffer: &mut [u8]) -> Result<Part> {
        let mut part = Part { chunks: Vec::new(), written: 0 };
        let mut pieces = Vec::new();
        loop {
            let first = self.next.fetch_add(CHUNKS_AT_ONCE, Ordering::Relaxed);
            if first >= self.chunks.len() || self.failed.load(Ordering::Relaxed) {
                return Ok(part);
            }
            for index in first..(first + CHUNKS_AT_ONCE).min(self.chunks.len()) {
                let (space, chunk) = self.chunks[index];
                let len = self.layouts[space].pieces(chunk, &mut pieces);
                let bytes = &mut buffer[..len];
                let id = self.spaces[space].id;
                self.from.read(id, &pieces, bytes).map_err(|source| Error::Source {
                    space: id,
                    address: pieces[0].address,
                    source,
                })?;
                let mut entry = Chunk { offset: 0, file: 0, zero: true, hash: Hash([0; 32]) };
                if !is_zero(bytes) {
                    entry = Chunk {
                        offset: part.written,
                        file: number as u32,
                        zero: false,
                        hash: Hash::of(bytes),
                    };
                    file.write_all_at(bytes, part.written)
                        .map_err(|e| Error::io(format!("write {}", name::pages(number)), e))?;
                    part.written += len as u64;
                }
                part.chunks.push((index, entry));
            }
        }
    }
}

/// Whether all bytes are zero. Returns early on data, which nearly always differs in its first bytes.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}
