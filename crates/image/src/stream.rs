//! Streams: the content of file trees, hashed in chunks, so that a reader holds one chunk at a time.

use crate::error::{Error, Result};
use crate::limits;
use crate::manifest::Stream;
use ferry_model::ids::Hash;
use std::fs::File;
use std::io::{self, Read, Write};

/// Writes one stream of an image.
pub struct StreamWriter {
    file: File,
    stream: Stream,
    buffer: Vec<u8>,
}

impl StreamWriter {
    pub(crate) fn new(name: &str, file: File) -> Self {
        let stream =
            Stream { name: name.to_owned(), bytes: 0, chunk_bytes: limits::CHUNK_BYTES, hashes: Vec::new() };
        Self { file, stream, buffer: Vec::with_capacity(limits::CHUNK_BYTES as usize) }
    }

    fn put_chunk(&mut self) -> io::Result<()> {
        self.stream.hashes.extend_from_slice(&Hash::of(&self.buffer).0);
        self.file.write_all(&self.buffer)?;
        self.stream.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<Stream> {
        if !self.buffer.is_empty() {
            self.put_chunk()?;
        }
        Ok(self.stream)
    }
}

impl Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.stream.chunk_bytes as usize - self.buffer.len();
        let taken = room.min(bytes.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.put_chunk()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        // A chunk that is not full can only be the last one; `finish` writes it.
        Ok(())
    }
}

/// Reads one stream of an image. Bytes come only out of chunks whose hash was right; the first that is not ends it.
#[derive(Debug)]
pub struct StreamReader<'a> {
    file: File,
    stream: &'a Stream,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were given out.
    used: usize,
    /// Chunks read so far.
    chunk: usize,
}

impl<'a> StreamReader<'a> {
    pub(crate) fn new(stream: &'a Stream, file: File) -> Self {
        Self { file, stream, buffer: Vec::new(), used: 0, chunk: 0 }
    }

    /// Length of the whole stream, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.stream.bytes
    }

    /// The next chunk, or an empty slice at the end.
    fn next_chunk(&mut self) -> Result<()> {
        let at = self.chunk as u64 * u64::from(self.stream.chunk_bytes);
        let len = (self.stream.bytes - at.min(self.stream.bytes)).min(u64::from(self.stream.chunk_bytes));
        self.used = 0;
        self.buffer.clear();
        if len == 0 {
            return Ok(());
        }
        self.buffer.resize(len as usize, 0);
        self.file
            .read_exact(&mut self.buffer)
            .map_err(|e| Error::io(format!("read the stream {}", self.stream.name), e))?;
        if Hash::of(&self.buffer).0 != self.stream.hashes[self.chunk * 32..][..32] {
            self.buffer.clear();
            return Err(Error::Altered(format!("the stream {}", self.stream.name)));
        }
        self.chunk += 1;
        Ok(())
    }
}

impl Read for StreamReader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.used == self.buffer.len() {
            self.next_chunk().map_err(io::Error::other)?;
        }
        let ready = &self.buffer[self.used..];
        let taken = ready.len().min(bytes.len());
        bytes[..taken].copy_from_slice(&ready[..taken]);
        self.used += taken;
        Ok(taken)
    }
}
