//! Files of pages into memory: read a chunk, hash it in that very buffer, and only then write it into the workload.
//!
//! The workload does not run meanwhile, and must not until [`Verified::load`] has returned: that its memory is whole is
//! what a [`Loaded`] proves.

use super::Verified;
use crate::error::{Error, Result};
use crate::limits;
use crate::name;
use crate::space::{Layout, Piece};
use ferry_model::ids::Hash;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Something whose memory can be filled: puppets by pid, shared objects by descriptor.
pub trait FillMemory: Sync {
    /// Writes `bytes` over the `pieces` of `space`, one after the other. A piece outside of what was prepared is an error.
    fn write(&self, space: u32, pieces: &[Piece], bytes: &[u8]) -> io::Result<()>;

    /// Makes `pieces` read as zeros. Nothing need be done where the memory is new and anonymous.
    fn zero(&self, space: u32, pieces: &[Piece]) -> io::Result<()>;
}

/// Proof that every chunk of memory had its hash and was written.
#[derive(Debug)]
pub struct Loaded {
    /// Bytes of memory, those of zero chunks included.
    pub bytes: u64,
    /// Threads used.
    pub threads: usize,
}

/// Memory below this is copied by the calling thread: starting others would take longer.
const ALONE_BYTES_MAX: u64 = 4 << 20;
/// Chunks that a thread takes at once: 4 MiB of neighbours, so that two threads seldom fill the same huge page or
/// page table, for which one would wait.
const CHUNKS_AT_ONCE: usize = 8;

impl Verified {
    /// Loads all memory with up to `threads` threads. After an error some of it may be written: the workload must go.
    pub fn load(&self, threads: usize, into: &dyn FillMemory) -> Result<Loaded> {
        let spaces = &self.manifest.spaces;
        let chunks: Vec<(usize, usize)> = spaces
            .iter()
            .enumerate()
            .flat_map(|(index, space)| (0..space.chunk_count()).map(move |number| (index, number)))
            .collect();
        let bytes = self.manifest.memory_bytes();
        let threads = if bytes <= ALONE_BYTES_MAX { 1 } else { threads.clamp(1, limits::PAGES_FILES_MAX) };
        let work = Work {
            image: self,
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            chunks,
            layouts: spaces.iter().map(Layout::new).collect(),
            into,
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| work.run())).collect();
            let first = work.run();
            let joined =
                others.into_iter().map(|other| other.join().expect("a copying thread does not panic"));
            joined.fold(first, |all, one| all.and(one))
        })?;
        Ok(Loaded { bytes, threads })
    }
}

struct Work<'a> {
    image: &'a Verified,
    /// The first chunk that no thread has taken.
    next: AtomicUsize,
    /// A thread has failed: the others need not go on.
    failed: AtomicBool,
    /// Every chunk: index of its space and number in it.
    chunks: Vec<(usize, usize)>,
    layouts: Vec<Layout>,
    into: &'a dyn FillMemory,
}

impl Work<'_> {
    fn run(&self) -> Result<()> {
        let result = self.copy();
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn copy(&self) -> Result<()> {
        let mut buffer = Vec::new();
        let mut pieces = Vec::new();
        loop {
            let first = self.next.fetch_add(CHUNKS_AT_ONCE, Ordering::Relaxed);
            if first >= self.chunks.len() || self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            for &(space, number) in &self.chunks[first..(first + CHUNKS_AT_ONCE).min(self.chunks.len())] {
                self.copy_chunk(space, number, &mut buffer, &mut pieces)?;
            }
        }
    }

    fn copy_chunk(
        &self,
        space: usize,
        number: usize,
        buffer: &mut Vec<u8>,
        pieces: &mut Vec<Piece>,
    ) -> Result<()> {
        let len = self.layouts[space].pieces(number, pieces);
        let space = &self.image.manifest.spaces[space];
        let chunk = space.chunk(number);
        let sink = |source| Error::Sink { space: space.id, address: pieces[0].address, source };
        if chunk.zero {
            return self.into.zero(space.id, pieces).map_err(sink);
        }
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let bytes = &mut buffer[..len];
        let file = chunk.file as usize;
        self.image.pages[file].read_exact_at(bytes, chunk.offset).map_err(|e| match e.kind() {
            // It had its length when the image was verified: someone cut it since.
            io::ErrorKind::UnexpectedEof => Error::Truncated {
                file: name::pages(file),
                found: chunk.offset,
                expected: chunk.offset + len as u64,
            },
            _ => Error::io(format!("read {}", name::pages(file)), e),
        })?;
        if Hash::of(bytes) != chunk.hash {
            return Err(Error::Altered(name::pages(file)));
        }
        self.into.write(space.id, pieces, bytes).map_err(sink)
    }
}
