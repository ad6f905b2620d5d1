//! A page frame: a header of fixed layout and up to [`FRAME_BYTES_MAX`] bytes of memory behind it.

use super::invalid;
use crate::space::SpaceId;
use std::io;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every header.
pub const MAGIC: u32 = u32::from_le_bytes(*b"FPG1");

/// Most bytes of memory in one frame.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Size of a header, bytes.
pub const HEADER_BYTES: usize = 32;

/// The header of a frame, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: U32,
    /// One of the `KIND` constants.
    pub kind: U16,
    /// 0; readers ignore it.
    pub flags: U16,
    /// The space.
    pub space: U32,
    /// Bytes that follow; for `ZERO` bytes that are zero and do not follow.
    pub len: U32,
    /// Address of the first byte. For `END` and `ACKNOWLEDGED`: number of frames before it.
    pub address: U64,
    /// Number of the frame in its stream. For `END` and `ACKNOWLEDGED`: bytes of memory in all frames.
    pub sequence: U64,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// Memory follows.
pub const KIND_PAGES: u16 = 1;
/// The bytes are all zero and do not follow.
pub const KIND_ZERO: u16 = 2;
/// No frame comes after it on this stream.
pub const KIND_END: u16 = 3;
/// From the receiver: everything up to `END` is in its place.
pub const KIND_ACKNOWLEDGED: u16 = 4;

/// A header that has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// `len` bytes of memory follow (or are zero).
    Pages {
        /// The space.
        space: SpaceId,
        /// Address of the first byte.
        address: u64,
        /// How many.
        len: usize,
        /// They are all zero and do not follow.
        zero: bool,
    },
    /// The sender is done.
    End {
        /// Frames that it sent.
        frames: u64,
        /// Bytes of memory in them.
        bytes: u64,
    },
    /// The receiver has put everything in its place.
    Acknowledged {
        /// Frames that it took.
        frames: u64,
        /// Bytes of memory in them.
        bytes: u64,
    },
}

impl Header {
    /// A header; `sequence` counts the frames of the stream.
    #[must_use]
    pub fn new(frame: Frame, sequence: u64) -> Self {
        let make = |kind: u16, space: u32, len: usize, address: u64, sequence: u64| Self {
            magic: U32::new(MAGIC),
            kind: U16::new(kind),
            flags: U16::new(0),
            space: U32::new(space),
            len: U32::new(len as u32),
            address: U64::new(address),
            sequence: U64::new(sequence),
        };
        match frame {
            Frame::Pages { space, address, len, zero } => {
                make(if zero { KIND_ZERO } else { KIND_PAGES }, space.0, len, address, sequence)
            }
            Frame::End { frames, bytes } => make(KIND_END, 0, 0, frames, bytes),
            Frame::Acknowledged { frames, bytes } => make(KIND_ACKNOWLEDGED, 0, 0, frames, bytes),
        }
    }

    /// Checks a header: magic, kind, length, and that its addresses do not wrap around. `sequence` is what it must carry.
    pub fn check(&self, sequence: u64) -> io::Result<Frame> {
        if self.magic.get() != MAGIC {
            return Err(invalid("Not a page frame"));
        }
        let zero = match self.kind.get() {
            KIND_PAGES => false,
            KIND_ZERO => true,
            KIND_END => return Ok(Frame::End { frames: self.address.get(), bytes: self.sequence.get() }),
            KIND_ACKNOWLEDGED => {
                return Ok(Frame::Acknowledged { frames: self.address.get(), bytes: self.sequence.get() });
            }
            kind => return Err(invalid(format!("A page frame of unknown kind {kind}"))),
        };
        let (address, len) = (self.address.get(), self.len.get() as usize);
        if len == 0 || len > FRAME_BYTES_MAX || address.checked_add(len as u64).is_none() {
            return Err(invalid(format!("A page frame of {len} bytes at {address:#x} is out of bounds")));
        }
        if self.sequence.get() != sequence {
            return Err(invalid(format!("Page frame {} came where {sequence} was due", self.sequence.get())));
        }
        Ok(Frame::Pages { space: SpaceId(self.space.get()), address, len, zero })
    }
}

/// For the fuzzer and the receiver: a header in a slice.
pub fn decode(bytes: &[u8], sequence: u64) -> io::Result<Frame> {
    let (header, _) = Header::read_from_prefix(bytes).map_err(|_| invalid("A page frame is cut short"))?;
    header.check(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_read_back() {
        let pages = Frame::Pages { space: SpaceId(3), address: 0x7000, len: 4096, zero: false };
        let end = Frame::End { frames: 9, bytes: 36864 };
        assert_eq!(decode(Header::new(pages, 5).as_bytes(), 5).unwrap(), pages);
        assert_eq!(decode(Header::new(end, 0).as_bytes(), 5).unwrap(), end);
        assert!(decode(Header::new(pages, 5).as_bytes(), 6).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_frame_beyond_the_limits(bytes in proptest::collection::vec(any::<u8>(), 0..64), good: bool) {
            let mut bytes = bytes;
            if good && bytes.len() >= 6 {
                bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
                bytes[5] = 0;
            }
            if let Ok(Frame::Pages { address, len, .. }) = decode(&bytes, 0) {
                prop_assert!(len <= FRAME_BYTES_MAX && address.checked_add(len as u64).is_some());
            }
        }
    }
}
