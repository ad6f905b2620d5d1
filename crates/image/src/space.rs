//! The memory of one address space: its ranges, laid end to end and cut into chunks.
//!
//! The ranges of a space, in ascending order, are thought of as one stream of bytes, and the stream is cut into chunks
//! of equal length. So a chunk may span many small mappings: four thousand mappings of a page each are eight chunks,
//! not four thousand. Each chunk lies in one piece in one of the files of pages, or is all zeros and lies nowhere.

use crate::error::{Error, Result};
use crate::limits;
use crate::manifest::{at_most, check_chunk_bytes};
use ferry_model::ids::Hash;
use minicbor::{Decode, Encode};
use serde::Serialize;

/// A run of memory: address (or offset into a shared object) and length, bytes, both multiples of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte.
    pub address: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// The ranges of one space that hold content: ascending and disjoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceRanges {
    /// Number of the space, as the records use it.
    pub space: u32,
    /// Its ranges.
    pub ranges: Vec<Piece>,
}

/// Length of a packed range.
const RANGE: usize = 16;
/// Length of a packed row of the chunk table.
const ROW: usize = 48;
/// Flag of a chunk that is all zeros and stored nowhere.
const ZERO: u32 = 1;

/// One space, as the manifest holds it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct Space {
    /// Number of the space.
    #[n(0)]
    pub id: u32,
    /// Length of each chunk but the last, bytes.
    #[n(1)]
    pub chunk_bytes: u32,
    /// Packed ranges: address and length, 64 bits each, little-endian.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(skip)]
    ranges: Vec<u8>,
    /// Packed chunk table: offset (64 bits), number of the file of pages (32), flags (32), hash (32 bytes).
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(skip)]
    chunks: Vec<u8>,
}

/// Where a chunk lies and what it must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Offset within the file, bytes.
    pub offset: u64,
    /// Number of the file of pages.
    pub file: u32,
    /// It is all zeros and stored nowhere.
    pub zero: bool,
    /// Hash of its content.
    pub hash: Hash,
}

impl Chunk {
    fn pack(&self, row: &mut [u8]) {
        row[..8].copy_from_slice(&self.offset.to_le_bytes());
        row[8..12].copy_from_slice(&self.file.to_le_bytes());
        row[12..16].copy_from_slice(&u32::from(self.zero).to_le_bytes());
        row[16..].copy_from_slice(&self.hash.0);
    }

    fn unpack(row: &[u8]) -> (Self, u32) {
        let flags = u32_at(row, 12);
        let hash = Hash(row[16..ROW].try_into().expect("a row has 48 bytes"));
        (Self { offset: u64_at(row, 0), file: u32_at(row, 8), zero: flags & ZERO != 0, hash }, flags)
    }
}

impl Space {
    /// Packs `ranges` with an empty table for their chunks.
    pub(crate) fn new(ranges: &SpaceRanges, chunk_bytes: u32) -> Result<Self> {
        let mut packed = Vec::with_capacity(ranges.ranges.len() * RANGE);
        for range in &ranges.ranges {
            packed.extend_from_slice(&range.address.to_le_bytes());
            packed.extend_from_slice(&range.bytes.to_le_bytes());
        }
        let mut space = Self { id: ranges.space, chunk_bytes, ranges: packed, chunks: Vec::new() };
        space.check_ranges()?;
        let chunks = space.bytes().div_ceil(u64::from(chunk_bytes)) as usize;
        space.chunks = vec![0; chunks * ROW];
        Ok(space)
    }

    /// Its ranges, in order.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Piece> + '_ {
        self.ranges.chunks_exact(RANGE).map(|r| Piece { address: u64_at(r, 0), bytes: u64_at(r, 8) })
    }

    /// Bytes in all its ranges.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges().map(|range| range.bytes).sum()
    }

    /// How many chunks it has.
    pub(crate) fn chunk_count(&self) -> usize {
        self.chunks.len() / ROW
    }

    /// The chunk with this number.
    pub(crate) fn chunk(&self, number: usize) -> Chunk {
        Chunk::unpack(&self.chunks[number * ROW..][..ROW]).0
    }

    /// Enters a chunk into the table.
    pub(crate) fn set_chunk(&mut self, number: usize, chunk: &Chunk) {
        chunk.pack(&mut self.chunks[number * ROW..][..ROW]);
    }

    fn check_ranges(&self) -> Result<()> {
        check_chunk_bytes(self.chunk_bytes)?;
        let malformed = |what: &str| Err(Error::Malformed(format!("the ranges of space {} {what}", self.id)));
        if !self.ranges.len().is_multiple_of(RANGE) {
            return malformed("do not fill whole rows");
        }
        at_most("the list of ranges", (self.ranges.len() / RANGE) as u64, limits::RANGES_MAX as u64)?;
        let mut end = 0;
        let mut sum = 0_u64;
        for range in self.ranges() {
            let aligned = |n: u64| n.is_multiple_of(limits::PAGE_BYTES);
            let Some(next) = range.address.checked_add(range.bytes) else {
                return malformed("overflow");
            };
            if range.bytes == 0 || !aligned(range.address) || !aligned(range.bytes) {
                return malformed("are not whole pages");
            }
            if range.address < end {
                return malformed("overlap or do not ascend");
            }
            end = next;
            sum = sum.saturating_add(range.bytes);
        }
        at_most("the memory of a space", sum, limits::CONTENT_BYTES_MAX)
    }

    /// Checks ranges and table; `pages` are the lengths of the files of pages.
    pub(crate) fn check(&self, pages: &[u64]) -> Result<()> {
        self.check_ranges()?;
        let bytes = self.bytes();
        let chunk_bytes = u64::from(self.chunk_bytes);
        let count = bytes.div_ceil(chunk_bytes);
        if self.chunks.len() as u64 != count * ROW as u64 {
            return Err(Error::Malformed(format!("space {} does not have a row for each chunk", self.id)));
        }
        for number in 0..count {
            let (chunk, flags) = Chunk::unpack(&self.chunks[number as usize * ROW..][..ROW]);
            let len = chunk_bytes.min(bytes - number * chunk_bytes);
            let within = match pages.get(chunk.file as usize) {
                _ if chunk.zero => true,
                Some(file) => chunk.offset.checked_add(len).is_some_and(|end| end <= *file),
                None => false,
            };
            if flags & !ZERO != 0 || !within {
                return Err(Error::Malformed(format!(
                    "chunk {number} of space {} lies outside of the files",
                    self.id
                )));
            }
        }
        Ok(())
    }
}

/// A space's ranges with the place of each in the stream, so that the pieces of any chunk are found at once.
pub(crate) struct Layout {
    ranges: Vec<Piece>,
    /// Place of each range in the stream of all of them, bytes.
    starts: Vec<u64>,
    bytes: u64,
    chunk_bytes: u64,
}

impl Layout {
    pub(crate) fn new(space: &Space) -> Self {
        let ranges: Vec<Piece> = space.ranges().collect();
        let mut bytes = 0;
        let starts = ranges
            .iter()
            .map(|range| {
                let start = bytes;
                bytes += range.bytes;
                start
            })
            .collect();
        Self { ranges, starts, bytes, chunk_bytes: u64::from(space.chunk_bytes) }
    }

    /// The memory that chunk `number` covers, put into `pieces`; the return value is their length in bytes.
    pub(crate) fn pieces(&self, number: usize, pieces: &mut Vec<Piece>) -> usize {
        pieces.clear();
        let from = number as u64 * self.chunk_bytes;
        let to = (from + self.chunk_bytes).min(self.bytes);
        let mut at = from;
        let mut index = self.starts.partition_point(|start| *start <= from) - 1;
        while at < to {
            let skip = at - self.starts[index];
            let bytes = (self.ranges[index].bytes - skip).min(to - at);
            pieces.push(Piece { address: self.ranges[index].address + skip, bytes });
            at += bytes;
            index += 1;
        }
        (to - from) as usize
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_pieces_of_all_chunks_are_the_ranges(gaps in prop::collection::vec((0_u64..4, 1_u64..9), 1..40), chunk in 1_u32..6) {
            let mut address = 0;
            let mut ranges = Vec::new();
            for (gap, pages) in gaps {
                address += gap * 4096;
                ranges.push(Piece { address, bytes: pages * 4096 });
                address += pages * 4096;
            }
            let space = Space::new(&SpaceRanges { space: 1, ranges: ranges.clone() }, chunk * 4096).unwrap();
            let layout = Layout::new(&space);
            let mut pages = Vec::new();
            let mut pieces = Vec::new();
            for number in 0..space.chunk_count() {
                let bytes = layout.pieces(number, &mut pieces);
                prop_assert_eq!(bytes as u64, pieces.iter().map(|p| p.bytes).sum::<u64>());
                prop_assert!(number + 1 == space.chunk_count() || bytes as u32 == chunk * 4096);
                pages.extend(pieces.iter().flat_map(|p| (p.address..p.address + p.bytes).step_by(4096)));
            }
            let all: Vec<u64> = ranges.iter().flat_map(|r| (r.address..r.address + r.bytes).step_by(4096)).collect();
            prop_assert_eq!(pages, all);
        }
    }

    #[test]
    fn ranges_that_overlap_are_refused() {
        for bad in [
            [(0, 8192), (4096, 4096)],
            [(4096, 4096), (0, 4096)],
            [(1, 4096), (8192, 4096)],
            [(0, 0), (4096, 4096)],
        ] {
            let ranges =
                bad.iter().map(|(address, bytes)| Piece { address: *address, bytes: *bytes }).collect();
            assert!(Space::new(&SpaceRanges { space: 0, ranges }, 4096).is_err(), "{bad:?}");
        }
        let ranges = vec![Piece { address: u64::MAX - 4095, bytes: 4096 }];
        assert!(Space::new(&SpaceRanges { space: 0, ranges }, 4096).is_err());
    }
}
