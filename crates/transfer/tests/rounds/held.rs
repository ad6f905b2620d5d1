//! Pages that the target holds by content: they arrive whole and are not sent; what is not any more what was offered ends the move.

use super::memory::Memory;
use super::{Pages, any_round, content, hand_over, page, pairs};
use ferry_transfer::engine::Carrier;
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId};
use ferry_transfer::wire::rounds::frame::{self, Frame, Header};
use ferry_transfer::wire::rounds::{
    Compression, Figures, Held, Offer, PageName, Receiver, Settings, StreamCarrier,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::IntoBytes;

/// A store of pages, as they were offered and as they are now.
#[derive(Default)]
struct Shelf {
    pages: Vec<(PageName, Vec<u8>)>,
    /// It gives what it has, without a look at the name.
    careless: bool,
    reads: AtomicU64,
}

impl Shelf {
    fn of(contents: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let pages = contents.into_iter().map(|content| (PageName::of(&content), content)).collect();
        Self { pages, ..Self::default() }
    }

    /// Offered by `part` names at a time.
    fn offer(&self, part: usize) -> Offer {
        let mut offer = Offer::default();
        for part in self.pages.chunks(part) {
            offer.add(&part.iter().flat_map(|(name, _)| name.0).collect::<Vec<_>>()).unwrap();
        }
        offer
    }
}

impl Held for Shelf {
    fn read(&self, position: u32, page: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let (name, content) = self
            .pages
            .get(position as usize)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "nothing is there"))?;
        if !self.careless && PageName::of(content) != *name {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its content has changed"));
        }
        page.copy_from_slice(content);
        Ok(())
    }
}

/// Both ends, and what the target's memory has to be.
struct Move {
    carrier: StreamCarrier,
    receiver: Receiver,
    expected: Memory,
    taken: Arc<Memory>,
}

impl Move {
    fn begin(streams: usize, settings: &Settings) -> Self {
        let (ours, theirs) = pairs(streams);
        let taken = Arc::new(Memory::default());
        let receiver = Receiver::begin(theirs, taken.clone()).unwrap();
        let carrier = StreamCarrier::begin(ours, settings).unwrap();
        Self { carrier, receiver, expected: Memory::default(), taken }
    }

    /// With a target that holds what is on the shelf, and has said so.
    fn holding(shelf: &Arc<Shelf>) -> Self {
        let both = Self::begin(1, &Settings::default());
        both.receiver.hold(shelf.clone());
        both.carrier.offer(shelf.offer(1000));
        both
    }

    fn round(&mut self, pages: &[(u64, Option<(u64, bool)>)]) -> io::Result<Figures> {
        let sent = hand_over(&mut self.carrier, &self.expected, SpaceId(1), pages);
        sent.and_then(|()| self.carrier.settle())?;
        Ok(self.carrier.figures())
    }

    /// Both sides have the same memory, and know it.
    fn ends_well(self) {
        assert!(self.expected.same(&self.taken));
        let hash = self.carrier.finish().unwrap();
        assert_eq!(self.receiver.finish().unwrap().1, hash);
    }
}

/// Noise from `seeds`, which does not pack.
fn noise(seeds: std::ops::Range<u64>) -> Vec<(u64, Option<(u64, bool)>)> {
    // An odd seed each: `content` makes the same of an even one and the next.
    seeds.map(|seed| (seed, Some((seed * 2 + 1, false)))).collect()
}

fn shelf_of(seeds: std::ops::Range<u64>) -> Arc<Shelf> {
    Arc::new(Shelf::of(seeds.map(|seed| content(seed * 2 + 1, false))))
}

fn bytes_of(pages: u64) -> u64 {
    pages * PAGE_SIZE
}

#[test]
fn pages_that_the_target_holds_arrive_whole_and_are_not_sent() {
    let shelf = shelf_of(0..3000);
    let mut both = Move::holding(&shelf);
    let figures = both.round(&noise(0..3000)).unwrap();
    assert_eq!((figures.memory_bytes, figures.held_bytes), (0, bytes_of(3000)));
    // Four bytes for a page, and a header with one range for a hundred of them.
    assert_eq!(figures.wire_bytes, 3000 * 4 + 30 * (32 + 12));
    assert_eq!(both.receiver.bytes(), bytes_of(3000));
    assert_eq!(shelf.reads.load(Ordering::Relaxed), 3000);
    both.ends_well();
}

#[test]
fn held_pages_zeros_and_others_in_scattered_places_all_arrive() {
    let mut both = Move::holding(&shelf_of(0..100));
    let pages: Vec<_> = (0..300)
        .map(|at| match at % 3 {
            // Each of the hundred that are held, from the last to the first; and a gap behind it.
            0 => (at * 2, Some(((99 - at / 3) * 2 + 1, false))),
            1 => (at * 2, None),
            _ => (at * 2, Some((at * 2 + 1001, at % 2 == 0))),
        })
        .collect();
    let figures = both.round(&pages).unwrap();
    assert_eq!((figures.memory_bytes, figures.held_bytes), (bytes_of(100), bytes_of(100)));
    assert_eq!(both.receiver.bytes(), bytes_of(200));
    both.ends_well();
}

#[test]
fn only_the_first_round_looks() {
    let shelf = shelf_of(0..50);
    let mut both = Move::holding(&shelf);
    assert_eq!(both.round(&noise(0..50)).unwrap().held_bytes, bytes_of(50));
    let figures = both.round(&noise(0..50)).unwrap();
    assert_eq!((figures.memory_bytes, figures.held_bytes), (bytes_of(50), bytes_of(50)));
    assert_eq!(shelf.reads.load(Ordering::Relaxed), 50);
    both.ends_well();
}

#[test]
fn where_hardly_anything_is_found_looking_stops_and_everything_arrives() {
    // What is held comes behind so many others that it is not found any more; before them it would be.
    for (others, found) in [(5000, 0), (4000, 96)] {
        let mut both = Move::holding(&shelf_of(0..200));
        let mut pages = noise(1000..1000 + others);
        pages.extend((0..200).map(|seed| (20_000 + seed, Some((seed * 2 + 1, false)))));
        let figures = both.round(&pages).unwrap();
        assert_eq!(figures.held_bytes, bytes_of(found), "{others}");
        assert_eq!(figures.memory_bytes, bytes_of(others + 200 - found), "{others}");
        both.ends_well();
    }
}

#[test]
fn a_page_that_has_changed_meanwhile_ends_the_move_and_the_error_says_so() {
    let mut shelf = shelf_of(0..10);
    let offer = shelf.offer(10);
    Arc::get_mut(&mut shelf).unwrap().pages[7].1[100] ^= 1;
    let mut both = Move::begin(1, &Settings::default());
    both.receiver.hold(shelf);
    both.carrier.offer(offer);
    assert!(both.round(&noise(0..10)).is_err());
    assert!(both.carrier.settle().is_err(), "it stays broken");
    let error = both.receiver.finish().unwrap_err();
    assert_eq!(error.to_string(), "Page 7 of those held here: its content has changed");
    assert_eq!(both.taken.calls(), 0);
}

#[test]
fn a_wrong_page_of_a_careless_store_shows_in_the_hash() {
    let mut shelf = shelf_of(0..10);
    let careless = Arc::get_mut(&mut shelf).unwrap();
    let offer = careless.offer(10);
    careless.careless = true;
    careless.pages[7].1[100] ^= 1;
    let mut both = Move::begin(1, &Settings::default());
    both.receiver.hold(shelf);
    both.carrier.offer(offer);
    both.round(&noise(0..10)).unwrap();
    assert!(!both.expected.same(&both.taken));
    assert_ne!(both.receiver.settled().1, both.carrier.hash());
}

/// A frame that says that pages from the first on are held at these positions.
fn held_frame(positions: &[u32]) -> Vec<u8> {
    let range = page(0);
    let bytes = positions.len() * PAGE_SIZE as usize;
    let head = Frame::Held { space: SpaceId(1), ranges: 1, bytes };
    let mut frame = Header::new(&head, 0).as_bytes().to_vec();
    frame::write_table(&[Range { len: bytes as u64, ..range }], &mut frame).unwrap();
    positions.iter().for_each(|position| frame.extend(position.to_le_bytes()));
    frame
}

#[test]
fn numbers_that_were_not_offered_are_refused_and_nothing_is_written() {
    let shelf = || Some(shelf_of(0..3));
    for (held, positions, kind, says) in [
        (None, [0, 1], io::ErrorKind::InvalidData, "Pages by number, and none were offered"),
        (shelf(), [2, 3], io::ErrorKind::NotFound, "Page 3 of those held here: nothing is there"),
        (
            shelf(),
            [u32::MAX, 0],
            io::ErrorKind::NotFound,
            "Page 4294967295 of those held here: nothing is there",
        ),
    ] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let taken = Arc::new(Memory::default());
        let receiver = Receiver::begin(vec![Box::new(theirs)], taken.clone()).unwrap();
        if let Some(held) = held {
            receiver.hold(held);
        }
        ours.write_all(&held_frame(&positions)).unwrap();
        let error = receiver.finish().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, says));
        assert_eq!(taken.calls(), 0);
    }
}

#[test]
fn a_frame_of_held_pages_is_read_only_within_its_bounds() {
    let good = held_frame(&[5, 6, 7]);
    let (head, ranges, positions) = frame::decode(&good, 0).unwrap();
    assert_eq!(head, Frame::Held { space: SpaceId(1), ranges: 1, bytes: 3 * PAGE_SIZE as usize });
    assert_eq!(ranges, [Range { start: 0, len: 3 * PAGE_SIZE }]);
    assert_eq!(positions, [5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0]);
    let most = frame::BYTES_MAX / PAGE_SIZE as usize;
    assert!(frame::decode(&held_frame(&vec![0; most]), 0).is_ok());

    let beyond = held_frame(&vec![0; most + 1]);
    assert!(frame::decode(&beyond, 0).unwrap_err().to_string().ends_with("out of bounds"));
    assert!(frame::decode(&good[..good.len() - 1], 0).unwrap_err().to_string().ends_with("cut short"));
    // Where in the header: flags, ranges, bytes of memory, bytes of positions, pages of the first range.
    for (at, value) in [
        (6, 1),
        (12, 0),
        (12, frame::RANGES_MAX as u32 + 1),
        (16, 0),
        (16, 3 * PAGE_SIZE as u32 + 1),
        (16, 4 * PAGE_SIZE as u32),
        (20, 0),
        (20, 11),
        (20, 16),
        (20, u32::MAX),
        (40, 2),
        (40, 4),
    ] {
        let mut bytes = good.clone();
        if at == 6 {
            bytes[at] = value as u8;
        } else {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        // There would be enough of everything behind it.
        bytes.extend([0; 64]);
        assert!(frame::decode(&bytes, 0).is_err(), "{value} at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_of_it_is_held_both_sides_are_equal(
        rounds in proptest::collection::vec(any_round(), 1..4),
        picked in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
        strangers in proptest::collection::vec(any::<u64>(), 0..20),
        part in 1..50_usize,
        streams in 1..4_usize,
        compression in prop_oneof![Just(Compression::Always), Just(Compression::Never)],
    ) {
        // One set of pages for each space and round.
        let rounds: Vec<BTreeMap<u32, Pages>> =
            rounds.into_iter().map(|round| round.into_iter().collect()).collect();
        let contents = |round: &BTreeMap<u32, Pages>| -> Vec<Vec<u8>> {
            round.values().flat_map(BTreeMap::values).flatten().map(|(seed, packs)| content(*seed, *packs)).collect()
        };
        let all: Vec<_> = rounds.iter().flat_map(contents).collect();
        // Some twice, some of later rounds, some that nobody has.
        let mut held: Vec<_> = strangers.iter().map(|seed| content(*seed, false)).collect();
        if !all.is_empty() {
            held.extend(picked.iter().map(|index| index.get(&all).clone()));
        }
        let shelf = Arc::new(Shelf::of(held));
        let names: BTreeSet<_> = shelf.pages.iter().map(|(name, _)| *name).collect();

        let mut both = Move::begin(streams, &Settings { compression, ..Settings::default() });
        both.receiver.hold(shelf.clone());
        both.carrier.offer(shelf.offer(part));
        for round in &rounds {
            for (space, pages) in round {
                let pages: Vec<_> = pages.iter().map(|(at, with)| (*at, *with)).collect();
                hand_over(&mut both.carrier, &both.expected, SpaceId(*space), &pages).unwrap();
            }
            both.carrier.settle().unwrap();
            prop_assert!(both.expected.same(&both.taken));
            prop_assert_eq!(both.receiver.settled().1, both.carrier.hash());
        }
        let found = contents(&rounds[0]).iter().filter(|page| names.contains(&PageName::of(page))).count() as u64;
        let figures = both.carrier.figures();
        prop_assert_eq!(figures.held_bytes, bytes_of(found));
        prop_assert_eq!(figures.memory_bytes, bytes_of(all.len() as u64 - found));
        both.ends_well();
    }
}
