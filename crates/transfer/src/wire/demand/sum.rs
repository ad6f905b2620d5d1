//! The hash of a set of pages, in whatever order they come: a sum of the hashes of all.

use crate::engine::{RangeSet, is_zero};
use crate::space::{PAGE_SIZE, PageSource, SpaceId};
use ferry_model::ids::Hash;
use std::io;

/// Words of a hash.
const WORDS: usize = 4;

/// Bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// The hash of one page: keyed BLAKE3, of which the key says its space and address. What is in front of a page would have its chunks hashed
/// one after the other instead of side by side, in twice the time (decision 35).
#[derive(Clone, Copy, Debug)]
pub struct PageHash([u64; WORDS]);

impl PageHash {
    /// Of the page at `address`; none of a zero page's bytes are hashed.
    #[must_use]
    pub fn of(space: SpaceId, address: u64, page: &[u8]) -> Self {
        let mut key = [0; blake3::KEY_LEN];
        key[..4].copy_from_slice(&space.0.to_le_bytes());
        key[4..12].copy_from_slice(&address.to_le_bytes());
        let hash = blake3::keyed_hash(&key, if is_zero(page) { &[] } else { page });
        let mut words = hash.as_bytes().chunks_exact(8);
        Self(
            [0; WORDS].map(|_: u64| {
                words.next().and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
            }),
        )
    }
}

/// A sum (modulo 2^256) of the hashes of pages. Every page is to be added once.
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
            self.add_hash(PageHash::of(space, address, page));
        }
    }

    /// Adds a page.
    pub fn add_hash(&mut self, hash: PageHash) {
        *self = self.plus(&Self { sum: hash.0, pages: 1 });
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let (mut sum, mut carry) = (self.sum, false);
        for (word, other) in sum.iter_mut().zip(other.sum) {
            let (added, first) = word.overflowing_add(other);
            let (added, second) = added.overflowing_add(u64::from(carry));
            (*word, carry) = (added, first || second);
        }
        Self { sum, pages: self.pages.wrapping_add(other.pages) }
    }

    /// The sum without the pages of another one, all of which were added to it.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let (mut sum, mut borrow) = (self.sum, false);
        for (word, other) in sum.iter_mut().zip(other.sum) {
            let (left, first) = word.overflowing_sub(other);
            let (left, second) = left.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (left, first || second);
        }
        Self { sum, pages: self.pages.wrapping_sub(other.pages) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In whatever order pages come, and whichever are taken out again.
        #[test]
        fn a_sum_is_that_of_its_pages(words in proptest::collection::vec(any::<[u64; WORDS]>(), 0..20), out in any::<u32>()) {
            let hashes: Vec<PageHash> = words.into_iter().map(PageHash).collect();
            let sum = |of: &mut dyn Iterator<Item = &PageHash>| {
                of.fold(PageSum::default(), |mut sum, hash| { sum.add_hash(*hash); sum })
            };
            let all = sum(&mut hashes.iter());
            prop_assert_eq!(sum(&mut hashes.iter().rev()), all);
            let is_out = |at: usize| out >> at & 1 == 1;
            let gone = sum(&mut hashes.iter().enumerate().filter(|(at, _)| is_out(*at)).map(|(_, hash)| hash));
            let left = sum(&mut hashes.iter().enumerate().filter(|(at, _)| !is_out(*at)).map(|(_, hash)| hash));
            prop_assert_eq!(all.minus(&gone), left);
            prop_assert_eq!(gone.plus(&left), all);
        }
    }

    #[test]
    fn a_page_of_zeros_is_one_however_it_came_and_its_place_counts() {
        let page = vec![0; PAGE_SIZE as usize];
        let [of, empty, other, elsewhere] = [
            PageHash::of(SpaceId(1), PAGE_SIZE, &page),
            PageHash::of(SpaceId(1), PAGE_SIZE, &[]),
            PageHash::of(SpaceId(2), PAGE_SIZE, &page),
            PageHash::of(SpaceId(1), 0, &page),
        ];
        assert_eq!(of.0, empty.0);
        assert!(of.0 != other.0 && of.0 != elsewhere.0);
    }
}
