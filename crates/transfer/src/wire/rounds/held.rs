//! Pages that the target holds already, by content: it tells their names, and the first round sends numbers instead of pages.
//!
//! A name is half of a BLAKE3 hash: 16 bytes keep the list of 32 GiB at 128 MiB, and nothing rests on it alone. The hash of the rounds is over
//! the content on both sides, so a page that only has the same name, or is not any more what was offered, ends the move.

use super::super::invalid;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a name.
pub const NAME_BYTES: usize = 16;

/// Most pages in an offer: 32 GiB of memory.
pub const OFFER_PAGES_MAX: usize = 8 << 20;

/// Pages that are looked up in any case.
const LOOKED_MIN: u64 = 4096;

/// After that, one in so many has to be found.
const FOUND_ONE_IN: u64 = 8;

/// What a page is called: the first bytes of the BLAKE3 hash of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageName(pub [u8; NAME_BYTES]);

impl PageName {
    /// The name of a page with this content.
    #[must_use]
    pub fn of(page: &[u8]) -> Self {
        let hash = blake3::hash(page);
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&hash.as_bytes()[..NAME_BYTES]);
        Self(name)
    }
}

/// What the target holds, as the source sees it: names, with their positions in the list that was offered.
#[derive(Debug, Default)]
pub struct Offer {
    positions: HashMap<PageName, u32>,
    pages: usize,
    looked: AtomicU64,
    found: AtomicU64,
}

impl Offer {
    /// Adds names, one behind the other; positions go on from the last call. Where a name comes twice the first position stays.
    ///
    /// # Errors
    /// They end within a name, or there are more than [`OFFER_PAGES_MAX`] in all. Then none of them was added.
    pub fn add(&mut self, names: &[u8]) -> io::Result<()> {
        let (names, rest) = names.as_chunks::<NAME_BYTES>();
        if !rest.is_empty() {
            return Err(invalid(format!("An offer of pages ends {} bytes into a name", rest.len())));
        }
        if names.len() > OFFER_PAGES_MAX - self.pages {
            return Err(invalid(format!(
                "An offer of {} pages: at most {OFFER_PAGES_MAX} are allowed",
                self.pages + names.len()
            )));
        }
        for name in names {
            self.positions.entry(PageName(*name)).or_insert(self.pages as u32);
            self.pages += 1;
        }
        Ok(())
    }

    /// How many pages were offered, those that came twice included.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Where a page with this content is in the list; none also where looking has stopped.
    pub(super) fn find(&self, page: &[u8]) -> Option<u32> {
        if !self.pays() {
            return None;
        }
        let position = self.positions.get(&PageName::of(page)).copied();
        self.found.fetch_add(u64::from(position.is_some()), Ordering::Relaxed);
        self.looked.fetch_add(1, Ordering::Relaxed);
        position
    }

    /// Looking stops for good once 4096 pages were looked up and fewer than one in eight was found: a hash costs about as much as encryption.
    fn pays(&self) -> bool {
        let (looked, found) = (self.looked.load(Ordering::Relaxed), self.found.load(Ordering::Relaxed));
        !self.positions.is_empty() && (looked < LOOKED_MIN || found * FOUND_ONE_IN >= looked)
    }
}

/// The target's store of the pages that were offered.
pub trait Held: Send + Sync {
    /// Fills `page`, [`PAGE_SIZE`](crate::space::PAGE_SIZE) bytes, with the content at this position of the list that was offered. Any number may
    /// be asked for, by several threads at once.
    ///
    /// # Errors
    /// There is none at this position, or what is stored is not what it was called.
    fn read(&self, position: u32, page: &mut [u8]) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::PAGE_SIZE;

    fn page(content: u64) -> Vec<u8> {
        content.to_le_bytes().repeat(PAGE_SIZE as usize / 8)
    }

    fn offer(pages: impl Iterator<Item = u64>) -> Offer {
        let mut offer = Offer::default();
        offer.add(&pages.flat_map(|content| PageName::of(&page(content)).0).collect::<Vec<_>>()).unwrap();
        offer
    }

    #[test]
    fn positions_go_on_over_calls_and_the_first_of_two_stays() {
        let mut offer = offer([1, 2, 1].into_iter());
        offer.add(&PageName::of(&page(3)).0).unwrap();
        offer.add(&[]).unwrap();
        assert_eq!(offer.pages(), 4);
        let found = [1, 2, 3, 4].map(|content| offer.find(&page(content)));
        assert_eq!(found, [Some(0), Some(1), Some(3), None]);
    }

    #[test]
    fn an_offer_of_odd_length_or_beyond_the_bound_is_refused_as_a_whole() {
        let mut offer = offer([1].into_iter());
        for bytes in [1, NAME_BYTES - 1, NAME_BYTES + 1] {
            let error = offer.add(&vec![0; bytes]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes}");
        }
        let error = offer.add(&vec![0; OFFER_PAGES_MAX * NAME_BYTES]).unwrap_err();
        assert_eq!(error.to_string(), "An offer of 8388609 pages: at most 8388608 are allowed");
        // What was offered before is still good, and what was refused did not count.
        offer.add(&PageName::of(&page(2)).0).unwrap();
        assert_eq!((offer.find(&page(1)), offer.find(&page(2))), (Some(0), Some(1)));
    }

    #[test]
    fn looking_goes_on_while_one_in_eight_is_found_and_stops_when_fewer_are() {
        let goes_on = offer(0..2000);
        for content in 0..10_000 {
            let held = content % 8 == 0;
            let found = goes_on.find(&page(if held { content / 8 } else { 1 << 20 }));
            assert_eq!(found.is_some(), held, "{content}");
        }
        let stops = offer(0..2000);
        for content in 0..LOOKED_MIN {
            // One fewer than an eighth.
            let held = content % 8 == 0 && content > 0;
            assert_eq!(stops.find(&page(if held { 1 } else { 1 << 20 })).is_some(), held, "{content}");
        }
        assert_eq!(stops.find(&page(1)), None);
    }
}
