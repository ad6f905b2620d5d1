//! An address space that can be read, and a filler that writes one.
//!
//! Spaces are numbered within one workload. A private address space of a process is one; so is each memory object
//! that several of them share (then addresses are offsets into the object), guest RAM, or a Wasm memory. Reads
//! and writes take `&self`: several mover threads work on one space.

use minicbor::{Decode, Encode};
use std::io;

/// Number of a space within its workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct SpaceId(#[n(0)] pub u32);

/// Size of the pages in which memory is counted, bytes.
pub const PAGE_SIZE: u64 = 4096;

/// What one page table covers, bytes.
pub const BLOCK_BYTES: u64 = 2 << 20;

/// A run of pages: `start` and `len` in bytes, both multiples of [`PAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Range {
    /// First byte.
    #[n(0)]
    pub start: u64,
    /// Length in bytes.
    #[n(1)]
    pub len: u64,
}

impl Range {
    /// First byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// Whether `len` bytes at `start` lie within `ranges` (ascending, disjoint). Neighbours that touch count as one.
#[must_use]
pub fn covers(ranges: &[Range], start: u64, len: u64) -> bool {
    let Some(end) = start.checked_add(len) else { return false };
    let mut at = start;
    let first = ranges.partition_point(|range| range.start.saturating_add(range.len) <= start);
    for range in &ranges[first..] {
        if at >= end || range.start > at {
            break;
        }
        at = range.start.saturating_add(range.len);
    }
    at >= end
}

/// Memory to read: every space with the ranges whose content must travel, ascending and disjoint.
pub trait PageSource: Send + Sync {
    /// The ranges of each space that hold content (untouched and zero pages are left out where that is known).
    fn ranges(&self) -> &[(SpaceId, Vec<Range>)];

    /// Reads `buffer.len()` bytes at `address`. Reading less is an error.
    fn read(&self, space: SpaceId, address: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Fills `buffer` with the content of `ranges` of one space, one after the other; their lengths add up to the buffer's. Worth
    /// overriding: thousands of small mappings are read with a few calls.
    fn read_ranges(&self, space: SpaceId, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        let mut rest = buffer;
        for range in ranges {
            let (head, tail) = split_mut(rest, range.len)?;
            self.read(space, range.start, head)?;
            rest = tail;
        }
        Ok(())
    }

    /// Bytes in all ranges.
    fn bytes(&self) -> u64 {
        self.ranges().iter().flat_map(|(_, ranges)| ranges).map(|range| range.len).sum()
    }
}

/// Memory to fill, at the place where it will finally live.
pub trait PageSink: Send + Sync {
    /// Writes `bytes` at `address`. A space or address outside of what was prepared is an error: a peer that names one
    /// ends the move.
    fn write(&self, space: SpaceId, address: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes `bytes` over `ranges` of one space, one after the other; their lengths add up to that of the bytes.
    fn write_ranges(&self, space: SpaceId, ranges: &[Range], bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        for range in ranges {
            let (head, tail) = split(rest, range.len)?;
            self.write(space, range.start, head)?;
            rest = tail;
        }
        Ok(())
    }
}

fn split(bytes: &[u8], len: u64) -> io::Result<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok().filter(|len| *len <= bytes.len());
    len.map(|len| bytes.split_at(len)).ok_or_else(too_short)
}

fn split_mut(bytes: &mut [u8], len: u64) -> io::Result<(&mut [u8], &mut [u8])> {
    match usize::try_from(len) {
        Ok(len) if len <= bytes.len() => Ok(bytes.split_at_mut(len)),
        _ => Err(too_short()),
    }
}

fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the ranges are longer than the buffer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_prepared_is_covered() {
        let range = |start, len| Range { start, len };
        let ranges = [range(0x1000, 0x1000), range(0x2000, 0x1000), range(0x5000, 0x2000)];
        assert!(covers(&ranges, 0x1000, 0x2000));
        assert!(covers(&ranges, 0x5fff, 1));
        assert!(!covers(&ranges, 0x2000, 0x1001));
        assert!(!covers(&ranges, 0xfff, 2));
        assert!(!covers(&ranges, 0x7000, 1));
        assert!(!covers(&ranges, u64::MAX, 2));
    }
}
