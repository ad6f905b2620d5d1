//! Ranges in few bytes: for each how far it is from the end of the one before, and its length, in pages, as numbers of seven bits a byte
//! (LEB128).
//!
//! Memory that follows after the resume may be in hundreds of thousands of pieces, and these are said and written down while a workload
//! stands still: this way one costs 2 or 3 bytes, by CBOR alone some 15. What is no multiple of a page is only longer.

use crate::space::{PAGE_SIZE, Range};
use minicbor::data::Type;
use minicbor::decode::Error as Unreadable;
use minicbor::encode::{Error as Unwritten, Write};
use minicbor::{Decode, Decoder, Encoder};

/// Bits that are zero in every address and length of a page.
const PAGE_BITS: u32 = PAGE_SIZE.trailing_zeros();

/// For `#[cbor(with)]`.
pub(crate) fn encode<C, W: Write>(
    ranges: &[Range],
    encoder: &mut Encoder<W>,
    _: &mut C,
) -> Result<(), Unwritten<W::Error>> {
    encoder.bytes(&pack(ranges))?.ok()
}

/// For `#[cbor(with)]`. What a shim or a file of an older Ferry says in an array is understood, too.
pub(crate) fn decode<'b, C>(decoder: &mut Decoder<'b>, context: &mut C) -> Result<Vec<Range>, Unreadable> {
    match decoder.datatype()? {
        Type::Bytes => unpack(decoder.bytes()?).ok_or_else(|| Unreadable::message("packed ranges")),
        _ => Vec::<Range>::decode(decoder, context),
    }
}

fn pack(ranges: &[Range]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 * ranges.len());
    let mut at = 0_u64;
    for Range { start, len } in ranges {
        put(&mut bytes, start.wrapping_sub(at).rotate_right(PAGE_BITS));
        put(&mut bytes, len.rotate_right(PAGE_BITS));
        at = start.wrapping_add(*len);
    }
    bytes
}

/// None: it ends within a number, or a number is too large, or a range ends beyond the last address.
fn unpack(bytes: &[u8]) -> Option<Vec<Range>> {
    // Each range has two bytes at least, so this is no more than eight times what has come.
    let mut ranges = Vec::with_capacity(bytes.len() / 2);
    let (mut bytes, mut at) = (bytes, 0_u64);
    while !bytes.is_empty() {
        let start = at.wrapping_add(take(&mut bytes)?.rotate_left(PAGE_BITS));
        let len = take(&mut bytes)?.rotate_left(PAGE_BITS);
        at = start.checked_add(len)?;
        ranges.push(Range { start, len });
    }
    Some(ranges)
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(first & 0x7f);
        // The tenth byte has room for one bit.
        if part << shift >> shift != part {
            return None;
        }
        number |= part << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Missing;
    use crate::space::SpaceId;
    use proptest::prelude::*;

    fn range(start: u64, len: u64) -> Range {
        Range { start: start * PAGE_SIZE, len: len * PAGE_SIZE }
    }

    #[test]
    fn single_pages_cost_two_bytes_each() {
        let ranges: Vec<Range> = (0..1000).map(|at| range(5 * at, 1)).collect();
        assert_eq!(pack(&ranges).len(), 2000);
        assert_eq!(unpack(&pack(&ranges)).unwrap(), ranges);
    }

    #[test]
    fn what_is_cut_off_or_too_large_is_no_set() {
        let bytes = pack(&[range(1, 1), range(1 << 30, 3)]);
        assert!((1..bytes.len()).filter(|end| *end != 2).all(|end| unpack(&bytes[..end]).is_none()));
        assert_eq!(unpack(&[0xff; 9]), None);
        assert_eq!(unpack(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 1]), None);
        // The last page, and one more.
        let mut beyond = pack(&[range(u64::MAX / PAGE_SIZE, 0)]);
        beyond.pop();
        put(&mut beyond, 1);
        assert_eq!(unpack(&beyond), None);
    }

    #[test]
    fn an_array_of_an_older_version_is_understood() {
        let older = (SpaceId(7), vec![range(3, 2), range(9, 1)]);
        let bytes = minicbor::to_vec(&older).unwrap();
        let read: Missing = minicbor::decode(&bytes).unwrap();
        assert_eq!((read.space, &read.ranges), (older.0, &older.1));
        let said = minicbor::to_vec(&read).unwrap();
        assert!(said.len() < bytes.len());
        assert_eq!(minicbor::decode::<Missing>(&said).unwrap(), read);
    }

    proptest! {
        /// In any order, of any length, and touching pages or not.
        #[test]
        fn ranges_come_back_as_they_were(pairs in proptest::collection::vec(any::<(u64, u64)>(), 0..50)) {
            let ranges: Vec<Range> =
                pairs.into_iter().map(|(start, len)| Range { start, len: len.min(u64::MAX - start) }).collect();
            prop_assert_eq!(unpack(&pack(&ranges)), Some(ranges));
        }

        #[test]
        fn any_bytes_are_ranges_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(ranges) = unpack(&bytes) {
                prop_assert_eq!(unpack(&pack(&ranges)), Some(ranges));
            }
        }
    }
}
