//! The hash of a set of pages, in whatever order they come: a sum of the hashes of all.

use crate::engine::{RangeSet, is_zero};
use crate::space::{PAGE_SIZE, PageSource, Range, SpaceId};
use ferry_model::ids::Hash;
use std::io;

/// Words of a hash.
const WORDS: usize = 4;

/// Bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// A sum (modulo 2^256) of the BLAKE3 hashes of pages, each with its space and address. Every page is to be added once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageSum {
    sum: [u64; WORDS],
    pages: u64,
}

impl PageSum {
    /// Bytes of [`Self::to_bytes`].
    pub const BYTES: usize = (WORDS + 1) * 8;

    /// Adds the pages of `bytes`, of which the first is at `address`.
    pub fn add(&mut self, space: SpaceId, address: u64, bytes: &[u8]) {
        for (address, page) in (address..).step_by(PAGE_SIZE as usize).zip(bytes.chunks(PAGE_SIZE as usize)) {
            let page = if is_zero(page) { &[] } else { page };
            self.add_page(space, address, page);
        }
    }

    /// Adds pages that are all zero.
    pub fn add_zeros(&mut self, space: SpaceId, range: &Range) {
        for address in (range.start..range.end()).step_by(PAGE_SIZE as usize) {
            self.add_page(space, address, &[]);
        }
    }

    fn add_page(&mut self, space: SpaceId, address: u64, page: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&space.0.to_le_bytes());
        hasher.update(&address.to_le_bytes());
        hasher.update(page);
        let mut carry = false;
        for (word, bytes) in self.sum.iter_mut().zip(hasher.finalize().as_bytes().chunks_exact(8)) {
            let other = bytes.try_into().map_or(0, u64::from_le_bytes);
            let (sum, first) = word.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*word, carry) = (sum, first || second);
        }
        self.pages += 1;
    }

    /// Pages that were added.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The hash of all of them.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.to_bytes())
    }

    /// As bytes, to go on from later.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.sum.iter().chain([&self.pages])) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads it back.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let sum = [0; WORDS].map(|_: u64| words.next().unwrap_or(0));
        Self { sum, pages: words.next().unwrap_or(0) }
    }
}

/// The sum of these pages, read from `source`.
///
/// # Errors
/// A page cannot be read.
pub fn sum_of(source: &dyn PageSource, pages: &[(SpaceId, RangeSet)]) -> io::Result<PageSum> {
    let mut sum = PageSum::default();
    let mut buffer = Vec::new();
    for (space, ranges) in pages {
        for range in ranges.ranges() {
            for start in (range.start..range.end()).step_by(READ_BYTES as usize) {
                buffer.resize((range.end() - start).min(READ_BYTES) as usize, 0);
                source.read(*space, start, &mut buffer)?;
                sum.add(*space, start, &buffer);
            }
        }
    }
    Ok(sum)
}
