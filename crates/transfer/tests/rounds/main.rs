//! The carrier over streams and its other end, over socket pairs: everything arrives, whatever is packed; both sides come to the same
//! hash; what breaks, breaks on both sides, and nothing is written afterwards.

mod held;
mod memory;

use ferry_transfer::engine::{Carrier, RangeSet};
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId};
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::rounds::frame::{self, Frame};
use ferry_transfer::wire::rounds::{Compression, Receiver, Settings, StreamCarrier};
use memory::Memory;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Streams = Vec<Box<dyn Stream>>;

fn pairs(count: usize) -> (Streams, Streams) {
    let pair =
        || UnixStream::pair().map(|(a, b)| (Box::new(a) as Box<dyn Stream>, Box::new(b) as Box<dyn Stream>));
    (0..count).map(|_| pair().unwrap()).unzip()
}

fn page(number: u64) -> Range {
    Range { start: number * PAGE_SIZE, len: PAGE_SIZE }
}

/// Content of a page: lz4 makes little of it, or much.
fn content(seed: u64, packs: bool) -> Vec<u8> {
    if packs {
        return seed.to_le_bytes().repeat(PAGE_SIZE as usize / 8);
    }
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..PAGE_SIZE).map(|_| next()).collect()
}

/// Hands over pages and remembers them: 100 to a batch.
fn hand_over(
    carrier: &mut StreamCarrier,
    memory: &Memory,
    space: SpaceId,
    pages: &[(u64, Option<(u64, bool)>)],
) -> io::Result<()> {
    for batch in pages.chunks(100) {
        let zero: RangeSet =
            batch.iter().filter(|(_, with)| with.is_none()).map(|(at, _)| page(*at)).collect();
        if !zero.is_empty() {
            memory.put(space, zero.ranges(), None);
            carrier.zero(space, zero.ranges().to_vec())?;
        }
        let filled: Vec<_> = batch.iter().filter_map(|(at, with)| with.map(|with| (*at, with))).collect();
        if filled.is_empty() {
            continue;
        }
        let ranges: RangeSet = filled.iter().map(|(at, _)| page(*at)).collect();
        let mut bytes = carrier.buffer();
        bytes.clear();
        filled.iter().for_each(|(_, (seed, packs))| bytes.extend(content(*seed, *packs)));
        memory.put(space, ranges.ranges(), Some(&bytes));
        carrier.pages(space, ranges.ranges().to_vec(), bytes)?;
    }
    Ok(())
}

/// Pages by number: zero, or made of a seed.
type Pages = BTreeMap<u64, Option<(u64, bool)>>;

fn any_round() -> impl Strategy<Value = Vec<(u32, Pages)>> {
    let content = proptest::option::of((any::<u64>(), any::<bool>()));
    let pages = proptest::collection::btree_map(0..400_u64, content, 0..120);
    proptest::collection::vec((0..3_u32, pages), 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn rounds_arrive_whole_over_any_number_of_streams(
        rounds in proptest::collection::vec(any_round(), 1..4),
        streams in 1..5_usize,
        compression in prop_oneof![Just(Compression::Measured), Just(Compression::Always), Just(Compression::Never)],
    ) {
        let (ours, theirs) = pairs(streams);
        let (expected, taken) = (Memory::default(), Arc::new(Memory::default()));
        let receiver = Receiver::begin(theirs, taken.clone()).unwrap();
        let settings = Settings { compression, ..Settings::default() };
        let mut carrier = StreamCarrier::begin(ours, &settings).unwrap();
        for (number, round) in rounds.iter().enumerate() {
            let mut seen = BTreeSet::new();
            for (space, pages) in round.iter().filter(|(space, _)| seen.insert(*space)) {
                let pages: Vec<_> = pages.iter().map(|(at, with)| (*at, *with)).collect();
                hand_over(&mut carrier, &expected, SpaceId(*space), &pages).unwrap();
            }
            carrier.settle().unwrap();
            // What is settled is in its place, not only on its way.
            prop_assert!(expected.same(&taken));
            prop_assert_eq!(receiver.settled(), (number as u64 + 1, carrier.hash()));
        }
        let hash = carrier.finish().unwrap();
        prop_assert_eq!(receiver.finish().unwrap(), (rounds.len() as u64, hash));
    }

    /// What is accepted keeps to the limits, whatever comes.
    #[test]
    fn no_bytes_make_a_frame_beyond_the_limits(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), good: bool) {
        if good && bytes.len() >= 32 {
            bytes[..4].copy_from_slice(&frame::MAGIC.to_le_bytes());
            bytes[5..8].fill(0);
            bytes[12..16].copy_from_slice(&2_u32.to_le_bytes());
            bytes[24..32].fill(0);
        }
        if let Ok((Frame::Pages { bytes: len, .. }, ranges, content)) = frame::decode(&bytes, 0) {
            prop_assert!(len <= frame::BYTES_MAX && content.len() == len);
            prop_assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), len as u64);
        }
    }
}

#[test]
fn twenty_thousand_scattered_pages_cost_hardly_more_than_their_content() {
    let (ours, theirs) = pairs(2);
    let (expected, taken) = (Memory::default(), Arc::new(Memory::default()));
    let receiver = Receiver::begin(theirs, taken.clone()).unwrap();
    let mut carrier = StreamCarrier::begin(ours, &Settings::default()).unwrap();
    let pages: Vec<_> = (0..20_000).map(|at| (at * 3, Some((at, false)))).collect();
    hand_over(&mut carrier, &expected, SpaceId(1), &pages).unwrap();
    carrier.settle().unwrap();
    let figures = carrier.figures();
    assert_eq!(figures.memory_bytes, 20_000 * PAGE_SIZE);
    assert!(figures.wire_bytes < figures.memory_bytes / 100 * 101, "{figures:?}");
    assert!(expected.same(&taken));
    let calls = taken.calls();
    assert!(calls <= 200, "{calls} calls of the filler");
    drop(carrier);
    // Without its end it is not whole, however much was settled.
    assert!(receiver.finish().is_err());
}

#[test]
fn content_that_does_not_fit_its_ranges_is_refused_and_the_next_still_arrives() {
    let (ours, theirs) = pairs(1);
    let taken = Arc::new(Memory::default());
    let receiver = Receiver::begin(theirs, taken.clone()).unwrap();
    let mut carrier = StreamCarrier::begin(ours, &Settings::default()).unwrap();
    let half = Range { start: 0, len: PAGE_SIZE / 2 };
    let rest = Range { start: PAGE_SIZE / 2, len: PAGE_SIZE / 2 };
    for (ranges, bytes) in
        [(vec![page(1)], 100), (vec![page(1)], 2 * PAGE_SIZE), (vec![half, rest], PAGE_SIZE)]
    {
        let error = carrier.pages(SpaceId(1), ranges, vec![1; bytes as usize]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    let expected = Memory::default();
    hand_over(&mut carrier, &expected, SpaceId(1), &[(1, Some((7, true)))]).unwrap();
    carrier.settle().unwrap();
    assert!(expected.same(&taken));
    assert_eq!(carrier.finish().unwrap(), receiver.finish().unwrap().1);
}

#[test]
fn packing_is_measured_and_told() {
    let (ours, theirs) = pairs(1);
    let taken = Arc::new(Memory::default());
    let receiver = Receiver::begin(theirs, taken.clone()).unwrap();
    // 8 MiB/s: what lz4 saves is worth far more than it takes.
    let settings = Settings { bandwidth_bytes_per_s: Some(8 << 20), compression: Compression::Measured };
    let mut carrier = StreamCarrier::begin(ours, &settings).unwrap();
    let expected = Memory::default();
    let pages: Vec<_> = (0..3000).map(|at| (at, Some((at, true)))).collect();
    let begin = Instant::now();
    hand_over(&mut carrier, &expected, SpaceId(1), &pages).unwrap();
    carrier.settle().unwrap();
    let (figures, took) = (carrier.figures(), begin.elapsed());
    assert!(figures.compression.on && figures.compression.saved > 0.5, "{figures:?}");
    assert!(figures.wire_bytes < figures.memory_bytes * 7 / 8, "{figures:?}");
    assert!(figures.compression.to_string().starts_with("packed: lz4 takes"), "{}", figures.compression);
    // The cap holds for what goes onto the link.
    let least = Duration::from_secs_f64(figures.wire_bytes as f64 / f64::from(8 << 20));
    assert!(took + Duration::from_millis(100) >= least, "{took:?} for {} bytes", figures.wire_bytes);
    assert!(expected.same(&taken));
    assert_eq!(carrier.finish().unwrap(), receiver.finish().unwrap().1);
}

#[test]
fn the_filler_is_exchanged_between_rounds() {
    let (ours, theirs) = pairs(2);
    let (first, second) = (Arc::new(Memory::default()), Arc::new(Memory::default()));
    let receiver = Receiver::begin(theirs, first.clone()).unwrap();
    let mut carrier = StreamCarrier::begin(ours, &Settings::default()).unwrap();
    let expected = [Memory::default(), Memory::default()];
    hand_over(&mut carrier, &expected[0], SpaceId(1), &[(1, Some((7, true))), (2, None)]).unwrap();
    carrier.settle().unwrap();
    receiver.set_filler(second.clone());
    hand_over(&mut carrier, &expected[1], SpaceId(1), &[(1, Some((8, true)))]).unwrap();
    carrier.settle().unwrap();
    assert!(expected[0].same(&first) && expected[1].same(&second));
    assert_eq!((2, carrier.finish().unwrap()), receiver.finish().unwrap());
}

#[test]
fn what_was_not_prepared_for_ends_all_streams_on_both_sides() {
    let (ours, theirs) = pairs(3);
    let taken = Arc::new(Memory::forbidding(1000));
    let receiver = Receiver::begin(theirs, taken).unwrap();
    let mut carrier = StreamCarrier::begin(ours, &Settings::default()).unwrap();
    let pages: Vec<_> = (900..1100).map(|at| (at, Some((at, false)))).collect();
    let sent = hand_over(&mut carrier, &Memory::default(), SpaceId(1), &pages);
    assert!(sent.and_then(|()| carrier.settle()).is_err());
    assert!(carrier.settle().is_err(), "it stays broken");
    assert_eq!(receiver.finish().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn a_stream_that_breaks_half_way_ends_all_and_nothing_is_written_after() {
    for cut_after in [0, 20, 40_000, 1_500_000] {
        let (ours, mut theirs) = pairs(1);
        let (near, far) = UnixStream::pair().unwrap();
        let (relayed, end) = UnixStream::pair().unwrap();
        theirs.push(Box::new(end));
        let relay = std::thread::spawn(move || {
            let _ = io::copy(&mut far.take(cut_after), &mut &relayed);
        });
        let mut ours = ours;
        ours.push(Box::new(near));
        let taken = Arc::new(Memory::default());
        let receiver = Receiver::begin(theirs, taken.clone()).unwrap();
        let mut carrier = StreamCarrier::begin(ours, &Settings::default()).unwrap();
        let pages: Vec<_> = (0..5000).map(|at| (at, Some((at, false)))).collect();
        let sent = hand_over(&mut carrier, &Memory::default(), SpaceId(1), &pages);
        assert!(sent.and_then(|()| carrier.settle()).is_err(), "{cut_after}");
        drop(carrier);
        drop(receiver);
        let calls = taken.calls();
        relay.join().unwrap();
        assert_eq!(taken.calls(), calls);
    }
}

#[test]
fn a_byte_that_was_altered_on_the_way_shows_in_the_hash() {
    let (ours, relayed) = UnixStream::pair().unwrap();
    let (end, theirs) = UnixStream::pair().unwrap();
    let relay = std::thread::spawn(move || {
        let (mut from, mut to) = (relayed.try_clone().unwrap(), end.try_clone().unwrap());
        let answers = std::thread::spawn(move || drop(io::copy(&mut &end, &mut &relayed)));
        let mut bytes = vec![0; 32 + 12 + 4096];
        from.read_exact(&mut bytes).unwrap();
        bytes[32 + 12 + 100] ^= 1;
        to.write_all(&bytes).unwrap();
        drop(io::copy(&mut from, &mut to));
        to.shutdown(std::net::Shutdown::Both).unwrap();
        answers.join().unwrap();
    });
    let taken = Arc::new(Memory::default());
    let receiver = Receiver::begin(vec![Box::new(theirs)], taken.clone()).unwrap();
    let mut carrier = StreamCarrier::begin(vec![Box::new(ours)], &Settings::default()).unwrap();
    let expected = Memory::default();
    hand_over(&mut carrier, &expected, SpaceId(1), &[(1, Some((7, false)))]).unwrap();
    carrier.settle().unwrap();
    assert!(!expected.same(&taken));
    assert_ne!(receiver.settled().1, carrier.hash());
    carrier.finish().unwrap();
    receiver.finish().unwrap();
    relay.join().unwrap();
}
