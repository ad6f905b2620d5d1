//! Something long on a control connection: chunks with an end that carries their length and hash.
//!
//! A writer and a reader, so that a tree of files is packed straight onto the link and unpacked straight from it.

use super::control::{self, Bulk, CHUNK_BYTES_MAX, Message};
use super::invalid;
use ferry_model::ids::Hash;
use std::io::{self, Read, Write};

/// Cuts what is written to it into chunks.
pub struct BulkWriter<'a, W: Write> {
    stream: &'a mut W,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<'a, W: Write> BulkWriter<'a, W> {
    /// Announces it.
    pub fn begin(stream: &'a mut W, kind: Bulk) -> io::Result<Self> {
        control::send(stream, &Message::Bulk { kind })?;
        Ok(Self { stream, buffer: Vec::new(), hasher: blake3::Hasher::new(), bytes: 0 })
    }

    /// Sends what is left, and the end; returns the hash.
    pub fn finish(mut self) -> io::Result<(u64, Hash)> {
        self.chunk()?;
        let hash = Hash(*self.hasher.finalize().as_bytes());
        control::send(self.stream, &Message::End { bytes: self.bytes, hash })?;
        Ok((self.bytes, hash))
    }

    fn chunk(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.hasher.update(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        let bytes = std::mem::take(&mut self.buffer);
        control::send_limited(
            self.stream,
            &Message::Chunk { bytes: bytes.into() },
            control::MESSAGE_BYTES_MAX,
        )
    }
}

impl<W: Write> Write for BulkWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES_MAX - self.buffer.len();
        let take = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..take]);
        if self.buffer.len() == CHUNK_BYTES_MAX {
            self.chunk()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.chunk()?;
        self.stream.flush()
    }
}

/// Reads what a [`BulkWriter`] wrote; ends where it ended. Chunks after `bytes_max` are an error.
pub struct BulkReader<F: FnMut() -> io::Result<Message>> {
    receive: F,
    chunk: Vec<u8>,
    at: usize,
    hasher: blake3::Hasher,
    bytes: u64,
    bytes_max: u64,
    end: Option<Hash>,
}

impl<F: FnMut() -> io::Result<Message>> BulkReader<F> {
    /// Reads behind a [`Message::Bulk`] that was already received. `receive` gives the next message of the connection.
    pub fn new(receive: F, bytes_max: u64) -> Self {
        Self {
            receive,
            chunk: Vec::new(),
            at: 0,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            bytes_max,
            end: None,
        }
    }

    /// Reads on to the end, whatever is left, and returns the hash, which has been checked.
    pub fn finish(mut self) -> io::Result<(u64, Hash)> {
        let mut rest = [0; 4096];
        while self.read(&mut rest)? > 0 {}
        let hash = self.end.ok_or_else(|| invalid("A transfer without its end"))?;
        Ok((self.bytes, hash))
    }

    fn advance(&mut self) -> io::Result<()> {
        match (self.receive)()? {
            Message::Chunk { bytes } => {
                self.bytes += bytes.len() as u64;
                if self.bytes > self.bytes_max {
                    return Err(invalid(format!(
                        "More than the {} bytes that were announced",
                        self.bytes_max
                    )));
                }
                self.hasher.update(&bytes);
                self.chunk = bytes.into();
                self.at = 0;
                Ok(())
            }
            Message::End { bytes, hash } => {
                if bytes != self.bytes || hash.0 != *self.hasher.finalize().as_bytes() {
                    return Err(invalid("What came is not what was sent: its hash differs"));
                }
                self.end = Some(hash);
                Ok(())
            }
            Message::Failed { error } => Err(io::Error::other(error)),
            other => Err(invalid(format!("{other:?} in the middle of a transfer"))),
        }
    }
}

impl<F: FnMut() -> io::Result<Message>> Read for BulkReader<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && self.end.is_none() {
            self.advance()?;
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(content: &[u8]) -> Vec<u8> {
        let mut link = Vec::new();
        let mut writer = BulkWriter::begin(&mut link, Bulk::Files).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
        link
    }

    fn received(link: &[u8], bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut link = link;
        assert_eq!(control::receive(&mut link)?, Message::Bulk { kind: Bulk::Files });
        let mut reader = BulkReader::new(|| control::receive(&mut link), bytes_max);
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        reader.finish()?;
        Ok(content)
    }

    #[test]
    fn what_is_written_is_read_and_limits_hold() {
        let content: Vec<u8> = (0..3_000_000u32).map(|at| at as u8).collect();
        let link = sent(&content);
        assert_eq!(received(&link, 3_000_000).unwrap(), content);
        assert!(received(&link, 2_999_999).is_err());
        assert!(received(&link[..link.len() - 1], 3_000_000).is_err());
        assert_eq!(received(&sent(b""), 0).unwrap(), b"");
    }

    #[test]
    fn an_altered_byte_is_found() {
        let mut link = sent(&[7; 1000]);
        let at = link.len() - 500;
        link[at] ^= 1;
        assert!(received(&link, 1000).is_err());
    }
}
