//! A frame of a round, or of pages on demand: a header of fixed layout, a table of ranges, and their content one after the other.

use super::super::frame::FRAME_BYTES_MAX;
use super::super::invalid;
use crate::space::{PAGE_SIZE, Range, SpaceId};
use std::io;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every header.
pub const MAGIC: u32 = u32::from_le_bytes(*b"FPR1");

/// Most bytes of memory in one frame.
pub const BYTES_MAX: usize = FRAME_BYTES_MAX;

/// Most ranges in one frame: the table stays small beside what a receiver has to hold anyway.
pub const RANGES_MAX: usize = 4096;

/// Size of a header, bytes.
pub const HEADER_BYTES: usize = 32;

/// Size of an entry of the table, bytes.
pub const ENTRY_BYTES: usize = 12;

/// Size of the number of a page that the target holds, bytes.
pub const POSITION_BYTES: usize = 4;

/// Pages follow.
const KIND_PAGES: u16 = 1;
/// The ranges are all zero; no content follows.
const KIND_ZERO: u16 = 2;
/// From the sender: say when everything before is in its place.
const KIND_SETTLE: u16 = 3;
/// From the receiver: it is.
const KIND_SETTLED: u16 = 4;
/// From the sender: nothing follows.
const KIND_END: u16 = 5;

/// On demand, from the target: it wants the pages of the table.
const KIND_ASK: u16 = 6;
/// On demand, from the target: it has the pages of the table, as they were delivered.
const KIND_HAVE: u16 = 7;
/// On demand, from the target: nothing is missing any more. The hash over what it has follows.
const KIND_ALL_IN: u16 = 8;
/// On demand, from the source: it comes to the same hash.
const KIND_AGREED: u16 = 9;

/// Pages that the target holds; their positions in its offer follow, `u32` each. The version stays as it is: only who has offered gets these.
const KIND_HELD: u16 = 10;

/// The content is one lz4 block.
const FLAG_LZ4: u16 = 1;
/// Somebody waits for the pages.
const FLAG_URGENT: u16 = 2;

/// Bytes of the hash behind [`Frame::AllIn`].
pub const HASH_BYTES: usize = 32;

/// The header of a frame, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    magic: U32,
    kind: U16,
    flags: U16,
    space: U32,
    ranges: U32,
    bytes: U32,
    body: U32,
    sequence: U64,
}

/// An entry of the table.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    start: U64,
    pages: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES && size_of::<Entry>() == ENTRY_BYTES);

/// A header that has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A table follows, and then the content of its ranges.
    Pages {
        /// The space.
        space: SpaceId,
        /// Ranges in the table.
        ranges: usize,
        /// Bytes of memory.
        bytes: usize,
        /// Bytes of content as they follow.
        body: usize,
        /// Whether they are an lz4 block.
        compressed: bool,
    },
    /// A table follows; its ranges are all zero.
    Zero {
        /// The space.
        space: SpaceId,
        /// Ranges in the table.
        ranges: usize,
    },
    /// A table follows, and then for each page of its ranges where it is in the list that the target has offered. Never sent to a target that
    /// has not, so one that does not know this kind does not see it.
    Held {
        /// The space.
        space: SpaceId,
        /// Ranges in the table.
        ranges: usize,
        /// Bytes of memory.
        bytes: usize,
    },
    /// End of a round.
    Settle {
        /// Which, from 1.
        round: u64,
    },
    /// Everything up to the end of this round is in its place.
    Settled {
        /// Which, from 1.
        round: u64,
    },
    /// The sender is done.
    End,
    /// On demand: a table of what is wanted follows.
    Ask {
        /// The space.
        space: SpaceId,
        /// Ranges in the table.
        ranges: usize,
        /// Somebody waits for them.
        urgent: bool,
    },
    /// On demand: a table of what was delivered and is in its place follows.
    Have {
        /// The space.
        space: SpaceId,
        /// Ranges in the table.
        ranges: usize,
    },
    /// On demand: nothing is missing. The hash over all that it has follows, [`HASH_BYTES`].
    AllIn,
    /// On demand: the source comes to the same hash.
    Agreed,
}

impl Header {
    /// The header of a frame; `sequence` counts the frames of the stream that have a table.
    #[must_use]
    pub fn new(frame: &Frame, sequence: u64) -> Self {
        let mut header = Self {
            magic: U32::new(MAGIC),
            kind: U16::new(KIND_END),
            flags: U16::new(0),
            space: U32::new(0),
            ranges: U32::new(0),
            bytes: U32::new(0),
            body: U32::new(0),
            sequence: U64::new(sequence),
        };
        match *frame {
            Frame::Pages { space, ranges, bytes, body, compressed } => {
                header.kind = U16::new(KIND_PAGES);
                header.flags = U16::new(if compressed { FLAG_LZ4 } else { 0 });
                header.space = U32::new(space.0);
                header.ranges = U32::new(ranges as u32);
                header.bytes = U32::new(bytes as u32);
                header.body = U32::new(body as u32);
            }
            Frame::Zero { space, ranges } => {
                header.kind = U16::new(KIND_ZERO);
                header.space = U32::new(space.0);
                header.ranges = U32::new(ranges as u32);
            }
            Frame::Held { space, ranges, bytes } => {
                header.kind = U16::new(KIND_HELD);
                header.space = U32::new(space.0);
                header.ranges = U32::new(ranges as u32);
                header.bytes = U32::new(bytes as u32);
                header.body = U32::new(positions_bytes(bytes) as u32);
            }
            Frame::Settle { round } => {
                (header.kind, header.sequence) = (U16::new(KIND_SETTLE), U64::new(round));
            }
            Frame::Settled { round } => {
                (header.kind, header.sequence) = (U16::new(KIND_SETTLED), U64::new(round));
            }
            Frame::Ask { space, ranges, urgent } => {
                header.kind = U16::new(KIND_ASK);
                header.flags = U16::new(if urgent { FLAG_URGENT } else { 0 });
                header.space = U32::new(space.0);
                header.ranges = U32::new(ranges as u32);
            }
            Frame::Have { space, ranges } => {
                header.kind = U16::new(KIND_HAVE);
                header.space = U32::new(space.0);
                header.ranges = U32::new(ranges as u32);
            }
            Frame::AllIn => {
                (header.kind, header.body) = (U16::new(KIND_ALL_IN), U32::new(HASH_BYTES as u32));
            }
            Frame::Agreed => header.kind = U16::new(KIND_AGREED),
            Frame::End => {}
        }
        header
    }

    /// Checks a header against every limit. `sequence` is what a frame with a table must carry.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, sequence: u64) -> io::Result<Frame> {
        if self.magic.get() != MAGIC {
            return Err(invalid("Not a frame of a round"));
        }
        let number = self.sequence.get();
        let space = SpaceId(self.space.get());
        let (ranges, bytes, body) =
            (self.ranges.get() as usize, self.bytes.get() as usize, self.body.get() as usize);
        let (compressed, urgent) = match self.flags.get() {
            0 => (false, false),
            FLAG_LZ4 if self.kind.get() == KIND_PAGES => (true, false),
            FLAG_URGENT if self.kind.get() == KIND_ASK => (false, true),
            flags => return Err(invalid(format!("A frame with unknown flags {flags:#x}"))),
        };
        let frame = match self.kind.get() {
            KIND_SETTLE => return Ok(Frame::Settle { round: number }),
            KIND_SETTLED => return Ok(Frame::Settled { round: number }),
            KIND_END => return Ok(Frame::End),
            KIND_ALL_IN if body == HASH_BYTES => return Ok(Frame::AllIn),
            KIND_AGREED => return Ok(Frame::Agreed),
            KIND_ASK => Frame::Ask { space, ranges, urgent },
            KIND_HAVE => Frame::Have { space, ranges },
            KIND_PAGES => Frame::Pages { space, ranges, bytes, body, compressed },
            KIND_ZERO => Frame::Zero { space, ranges },
            KIND_HELD => Frame::Held { space, ranges, bytes },
            kind => return Err(invalid(format!("A frame of unknown kind {kind}"))),
        };
        if number != sequence {
            return Err(invalid(format!("Frame {number} came where {sequence} was due")));
        }
        if ranges == 0 || ranges > RANGES_MAX {
            return Err(invalid(format!("A frame of {ranges} ranges: at most {RANGES_MAX} are allowed")));
        }
        let fits = match frame {
            // What is packed is shorter than what it was made of, or it would not have been.
            Frame::Pages { .. } => {
                bytes <= BYTES_MAX && body > 0 && if compressed { body < bytes } else { body == bytes }
            }
            Frame::Held { .. } => {
                bytes > 0
                    && bytes <= BYTES_MAX
                    && bytes.is_multiple_of(PAGE_SIZE as usize)
                    && body == positions_bytes(bytes)
            }
            _ => bytes == 0 && body == 0,
        };
        if fits {
            Ok(frame)
        } else {
            Err(invalid(format!("A frame of {bytes} bytes in {body} is out of bounds")))
        }
    }
}

/// How long the positions of so many bytes of memory are.
#[must_use]
pub const fn positions_bytes(bytes: usize) -> usize {
    bytes / PAGE_SIZE as usize * POSITION_BYTES
}

/// Reads a header.
///
/// # Errors
/// As [`Header::check`], or it is cut short.
pub fn header(bytes: &[u8], sequence: u64) -> io::Result<Frame> {
    let (header, _) = Header::read_from_prefix(bytes).map_err(|_| invalid("A frame is cut short"))?;
    header.check(sequence)
}

/// Writes the table of `ranges` behind what is in `buffer`.
///
/// # Errors
/// A range is not made of pages, or is longer than 16 TiB.
pub fn write_table(ranges: &[Range], buffer: &mut Vec<u8>) -> io::Result<()> {
    for range in ranges {
        let pages = u32::try_from(range.len / PAGE_SIZE).ok();
        let pages =
            pages.filter(|_| range.len.is_multiple_of(PAGE_SIZE) && range.start.is_multiple_of(PAGE_SIZE));
        let pages = pages.ok_or_else(|| {
            invalid(format!("{} bytes at {:#x} are no pages, or too many", range.len, range.start))
        })?;
        buffer.extend_from_slice(Entry { start: U64::new(range.start), pages: U32::new(pages) }.as_bytes());
    }
    Ok(())
}

/// Reads a table: ranges that ascend, are disjoint and not empty; how many bytes they have together.
///
/// # Errors
/// What is wrong with it.
pub fn read_table(bytes: &[u8]) -> io::Result<(Vec<Range>, u64)> {
    let mut ranges = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
    let (mut at, mut sum) = (0, 0_u64);
    for entry in bytes.chunks(ENTRY_BYTES) {
        let entry = Entry::read_from_bytes(entry).map_err(|_| invalid("A table of ranges is cut short"))?;
        let range = Range { start: entry.start.get(), len: u64::from(entry.pages.get()) * PAGE_SIZE };
        let end = range.start.checked_add(range.len).filter(|_| range.len > 0 && range.start >= at);
        at = end.filter(|_| range.start.is_multiple_of(PAGE_SIZE)).ok_or_else(|| {
            invalid(format!("{} bytes at {:#x} are out of order or bounds", range.len, range.start))
        })?;
        sum = sum.checked_add(range.len).ok_or_else(|| invalid("A table of more than all memory"))?;
        ranges.push(range);
    }
    Ok((ranges, sum))
}

/// Packs `content` into one lz4 block, which is all that `packed` has then. It may be longer than what it was made of.
pub fn pack(content: &[u8], packed: &mut Vec<u8>) {
    packed.resize(lz4_flex::block::get_maximum_output_size(content.len()), 0);
    // The output has room for the worst case, so there is no error.
    let bytes = lz4_flex::block::compress_into(content, packed).unwrap_or(packed.len());
    packed.truncate(bytes);
}

/// Unpacks an lz4 block into exactly as many bytes as `content` has.
///
/// # Errors
/// It is damaged, or has another number of bytes.
pub fn unpack(packed: &[u8], content: &mut [u8]) -> io::Result<()> {
    match lz4_flex::block::decompress_into(packed, content) {
        Ok(bytes) if bytes == content.len() => Ok(()),
        Ok(bytes) => Err(invalid(format!("A frame unpacks to {bytes} bytes instead of {}", content.len()))),
        Err(error) => Err(invalid(format!("A frame cannot be unpacked: {error}"))),
    }
}

/// For the fuzzer: a whole frame in a slice, with its ranges and content; of held pages it is their positions.
///
/// # Errors
/// As the receiver's.
pub fn decode(bytes: &[u8], sequence: u64) -> io::Result<(Frame, Vec<Range>, Vec<u8>)> {
    let cut_short = || invalid("A frame is cut short");
    let frame = header(bytes, sequence)?;
    let (ranges, wanted, body, compressed) = match frame {
        Frame::Pages { ranges, bytes, body, compressed, .. } => (ranges, bytes, body, compressed),
        Frame::Held { ranges, bytes, .. } => (ranges, bytes, positions_bytes(bytes), false),
        Frame::Zero { ranges, .. } | Frame::Ask { ranges, .. } | Frame::Have { ranges, .. } => {
            (ranges, 0, 0, false)
        }
        Frame::AllIn => {
            let hash = bytes[HEADER_BYTES..].get(..HASH_BYTES).ok_or_else(cut_short)?;
            return Ok((frame, Vec::new(), hash.to_vec()));
        }
        _ => return Ok((frame, Vec::new(), Vec::new())),
    };
    let (table, rest) = bytes[HEADER_BYTES..].split_at_checked(ranges * ENTRY_BYTES).ok_or_else(cut_short)?;
    let (ranges, sum) = read_table(table)?;
    let body = rest.get(..body).ok_or_else(cut_short)?;
    if wanted == 0 {
        return Ok((frame, ranges, Vec::new()));
    }
    if sum != wanted as u64 {
        return Err(invalid(format!("Ranges of {sum} bytes for {wanted}")));
    }
    if !compressed {
        return Ok((frame, ranges, body.to_vec()));
    }
    let mut content = vec![0; wanted];
    unpack(body, &mut content)?;
    Ok((frame, ranges, content))
}
