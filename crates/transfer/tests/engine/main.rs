//! The engine over memory that is invented: a writer that acts at every point where it could, mappings and spaces that come, go and
//! move, a target that learns of them by drafts and lets go of what is no more, streams that break half way. Whatever happens, after
//! the last round both sides are equal, byte by byte.

mod every;
mod range_set;
mod target;
mod world;

use ferry_transfer::engine::{Engine, Local, RangeSet, RoundError};
use ferry_transfer::space::{PageSink, SpaceId, covers};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use target::{Breaking, Shared, Target};
use world::{Op, PAGES, Space, World, any_op};

/// One attempt: its rounds, and how it ends.
#[derive(Clone, Debug)]
struct Attempt {
    rounds: Vec<Round>,
    /// Whether it goes as far as the pause, and after how many calls its carrier breaks; the workload goes on after it.
    pause: Option<Option<u32>>,
    /// Whether the next attempt goes to a target that knows nothing, and the spaces are armed anew for it.
    elsewhere: Option<bool>,
}

#[derive(Clone, Debug)]
struct Round {
    /// After how many calls its carrier breaks, or never.
    breaks: Option<u32>,
    /// Whether a draft is agreed on before it, and whether the target has to build everything anew then.
    draft: Option<bool>,
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let breaks = || proptest::option::of(0..12_u32);
    let draft = proptest::option::of(proptest::bool::weighted(0.1));
    let round = (breaks(), draft).prop_map(|(breaks, draft)| Round { breaks, draft });
    (
        proptest::collection::vec(round, 0..5),
        proptest::option::of(breaks()),
        proptest::option::of(any::<bool>()),
    )
        .prop_map(|(rounds, pause, elsewhere)| Attempt { rounds, pause, elsewhere })
}

/// What the two nodes do between rounds: the target has places for what is mapped now, the engine knows of it.
fn agree(engine: &mut Engine<Space>, world: &Arc<World>, target: &Target, anew: bool) {
    let draft = world.draft();
    world.step();
    let kept = target.reconcile(draft.clone(), anew);
    for id in engine.spaces().filter(|id| !draft.spaces.contains(&id.0)).collect::<Vec<_>>() {
        engine.remove(id);
    }
    for id in draft.spaces.iter().map(|id| SpaceId(*id)) {
        if !engine.spaces().any(|known| known == id) {
            engine.add(Space::new(world.clone(), id)).unwrap();
        }
        engine.lost(id, kept.get(&id).unwrap_or(&RangeSet::default()));
        let own = draft.pages.keys().filter(|(space, _)| *space == id.0);
        engine.allow(id, own.map(|(_, page)| world::range(*page)).collect());
    }
}

/// Both nodes agreed for the first time.
fn begin(world: &Arc<World>) -> (Engine<Space>, Arc<Target>) {
    let (mut engine, target) = (Engine::default(), Arc::new(Target::default()));
    agree(&mut engine, world, &target, false);
    (engine, target)
}

fn never() -> bool {
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn after_the_last_round_both_sides_are_equal(
        ops in proptest::collection::vec(any_op(), 0..300),
        attempts in proptest::collection::vec(any_attempt(), 0..4),
    ) {
        let world = Arc::new(World::new(ops));
        let (mut engine, mut target) = begin(&world);
        for attempt in attempts {
            for Round { breaks, draft } in attempt.rounds {
                if let Some(anew) = draft {
                    agree(&mut engine, &world, &target, anew);
                }
                let done = engine.round(&mut Breaking::new(&world, &target, breaks), &never);
                prop_assert!(done.is_ok() || breaks.is_some(), "{done:?}");
                world.step();
            }
            if let Some(breaks) = attempt.pause {
                world.pause(true);
                agree(&mut engine, &world, &target, false);
                let done = engine.last_round(&mut Breaking::new(&world, &target, breaks), &never);
                if done.is_ok() {
                    prop_assert_eq!(target.differs_from(&world), None);
                    prop_assert_eq!(engine.pending_bytes(), 0);
                }
                prop_assert!(done.is_ok() || breaks.is_some(), "{done:?}");
                world.pause(false);
            }
            prop_assert_eq!(target.refused(), None);
            if let Some(anew) = attempt.elsewhere {
                target = Arc::new(Target::default());
                if anew {
                    let spaces = engine.disarm().unwrap();
                    prop_assert!(!world.anything_is_armed(&spaces));
                    engine = Engine::arm(spaces).unwrap();
                }
                agree(&mut engine, &world, &target, false);
            }
        }
        world.pause(true);
        agree(&mut engine, &world, &target, false);
        let round = engine.last_round(&mut Breaking::new(&world, &target, None), &never).unwrap();
        prop_assert_eq!((round.skipped_bytes, round.outside_bytes, engine.pending_bytes()), (0, 0, 0));
        prop_assert_eq!(target.differs_from(&world), None);
        prop_assert_eq!(target.refused(), None);
        engine.disarm().unwrap();
    }

    /// What the last round leaves out is exactly what is missing: with it, both sides are equal.
    #[test]
    fn what_is_left_for_later_is_all_that_is_missing(
        ops in proptest::collection::vec(any_op(), 0..200),
        rounds in 0..3_u32,
        asides in 0..3_u32,
        ahead: bool,
        looked: [bool; 3],
        later in proptest::collection::vec(any::<bool>(), PAGES as usize),
    ) {
        let world = Arc::new(World::new(ops));
        let (mut engine, target) = begin(&world);
        for looks in looked.iter().take(rounds as usize) {
            // What is written between a look and the round that it was for is found later.
            if *looks {
                engine.scan_ahead().unwrap();
                world.step();
            }
            engine.round(&mut Breaking::new(&world, &target, None), &never).unwrap();
            world.step();
        }
        if looked[2] {
            engine.scan_ahead().unwrap();
        }
        let later: RangeSet =
            (0..PAGES).filter(|page| later[*page as usize]).map(world::range).collect();
        let of = |engine: &Engine<Space>| -> BTreeMap<SpaceId, RangeSet> {
            engine.spaces().map(|id| (id, later.clone())).collect()
        };
        let mut given: BTreeMap<SpaceId, RangeSet> = BTreeMap::new();
        for _ in 0..asides {
            let later = of(&engine);
            let aside = engine.set_aside(&later).unwrap();
            target.give_back(&aside);
            for (id, aside) in aside {
                let all = given.entry(id).or_default();
                *all = all.union(&aside);
            }
            world.step();
        }
        world.pause(true);
        agree(&mut engine, &world, &target, false);
        let later = of(&engine);
        if ahead {
            engine.still_scan().unwrap();
        }
        let mut carrier = Breaking::new(&world, &target, None);
        let (_, missing) = engine.last_round_without(&mut carrier, &never, &later).unwrap();
        for (id, missing) in &missing {
            prop_assert!(!missing.is_empty());
            prop_assert_eq!(&missing.intersection(&later[id]), missing);
            for start in missing.ranges().iter().flat_map(|range| (range.start..range.end()).step_by(4096)) {
                // The target need not look at what it has given back before.
                let was = given.get(id).is_some_and(|given| covers(given.ranges(), start, 4096));
                prop_assert!(!(was && target.holds(*id, start)), "space {} page {}", id.0, start / 4096);
                let value = world.value(id.0, start / 4096);
                prop_assert!(value.is_some(), "space {} page {}", id.0, start / 4096);
                target.write(*id, start, &value.unwrap_or_default()).unwrap();
            }
        }
        prop_assert_eq!(target.differs_from(&world), None);
        prop_assert_eq!(target.refused(), None);
    }

    /// Cancelled between any two batches, and taken up again or begun anew.
    #[test]
    fn a_cancelled_attempt_and_a_second_one_are_equal(
        ops in proptest::collection::vec(any_op(), 0..100), cancel_after in 0..6_u32, anew: bool,
    ) {
        let world = Arc::new(World::new(ops));
        let (mut engine, mut target) = begin(&world);
        let asked = Cell::new(0);
        let cancelled = || { asked.set(asked.get() + 1); asked.get() > cancel_after };
        for _ in 0..3 {
            let mut carrier = Breaking::new(&world, &target, None);
            if engine.round(&mut carrier, &cancelled).is_err() {
                break;
            }
        }
        if anew {
            target = Arc::new(Target::default());
            engine = Engine::arm(engine.disarm().unwrap()).unwrap();
        }
        world.pause(true);
        agree(&mut engine, &world, &target, false);
        engine.last_round(&mut Breaking::new(&world, &target, None), &never).unwrap();
        prop_assert_eq!(target.differs_from(&world), None);
    }

    /// The comparison and the fake are worth something: a tracker that hides one written page is found out.
    #[test]
    fn a_write_that_is_not_reported_is_found_by_the_comparison(page in 0..PAGES, seed in 1..u64::MAX) {
        let world = Arc::new(World::new(vec![]));
        let id = SpaceId(1);
        world.apply(&Op::Map { space: id.0, page: 0, pages: PAGES, file: false, shared: false });
        let (mut engine, target) = begin(&world);
        engine.round(&mut Breaking::new(&world, &target, None), &never).unwrap();
        world.apply(&Op::Write { space: id.0, page, seed });
        world.hide(id.0, page);
        world.pause(true);
        engine.last_round(&mut Breaking::new(&world, &target, None), &never).unwrap();
        prop_assert_eq!(target.differs_from(&world), Some((id.0, page)));
    }
}

#[test]
fn a_round_says_what_it_did() {
    let world = Arc::new(World::new(vec![]));
    world.apply(&Op::Map { space: 0, page: 0, pages: 20, file: false, shared: false });
    world.apply(&Op::Map { space: 0, page: 30, pages: 2, file: false, shared: true });
    let (mut engine, target) = begin(&world);
    for page in 0..10 {
        world.apply(&Op::Write { space: 0, page, seed: if page < 4 { 0 } else { 7 } });
    }
    world.apply(&Op::Write { space: 0, page: 30, seed: 9 });
    let mut carrier = Local(Shared(target.clone()));
    let first = engine.round(&mut carrier, &never).unwrap();
    assert_eq!((first.number, first.last, first.dirty_bytes), (0, false, 10 * 4096));
    assert_eq!((first.sent_bytes, first.zero_bytes, first.held_back_bytes), (6 * 4096, 4 * 4096, 4096));
    assert_eq!(first.dirty_bytes_per_s(), None);
    assert_eq!(engine.untracked().len(), 1);
    assert!(engine.untracked()[0].1.why.contains("shared"));
    assert_eq!((engine.held_bytes(), engine.pending_bytes()), (10 * 4096, 0));

    world.apply(&Op::Write { space: 0, page: 5, seed: 8 });
    world.apply(&Op::Discard { space: 0, page: 6, pages: 2 });
    let second = engine.round(&mut carrier, &never).unwrap();
    assert_eq!((second.number, second.dirty_bytes, second.sent_bytes), (1, 4096, 4096));
    assert_eq!((second.discarded_bytes, second.held_back_bytes), (2 * 4096, 4096));
    assert!(second.dirty_bytes_per_s().is_some());

    world.pause(true);
    let last = engine.last_round(&mut carrier, &never).unwrap();
    assert!(last.last);
    // What was told to be zero once is not told again.
    assert_eq!((last.dirty_bytes, last.sent_bytes, last.discarded_bytes), (0, 4096, 0));
    assert_eq!(target.differs_from(&world), None);
}

#[test]
fn what_has_no_place_yet_waits_for_it() {
    let world = Arc::new(World::new(vec![]));
    let (mut engine, target) = begin(&world);
    let mut carrier = Local(Shared(target.clone()));
    world.apply(&Op::Map { space: 0, page: 40, pages: 2, file: false, shared: false });
    world.apply(&Op::Write { space: 0, page: 40, seed: 7 });
    let early = engine.round(&mut carrier, &never).unwrap();
    assert_eq!((early.sent_bytes, early.outside_bytes, engine.pending_bytes()), (0, 4096, 4096));
    world.pause(true);
    let refused = engine.last_round(&mut carrier, &never).unwrap_err();
    let expected = "4096 bytes of space 0, the first at 0x28000, have no place at the target";
    assert_eq!(refused.to_string(), expected);
    agree(&mut engine, &world, &target, false);
    let last = engine.last_round(&mut carrier, &never).unwrap();
    assert_eq!((last.sent_bytes, last.outside_bytes), (4096, 0));
    assert_eq!(target.differs_from(&world), None);
}

/// A private page of a file that was sent and then given back reads as the file's again, and the target must not keep what was written.
#[test]
fn a_files_page_that_was_given_back_is_the_files_again() {
    let world = Arc::new(World::new(vec![]));
    let (mut engine, target) = begin(&world);
    let mut carrier = Local(Shared(target.clone()));
    world.apply(&Op::Write { space: 1, page: 17, seed: 7 });
    engine.round(&mut carrier, &never).unwrap();
    world.apply(&Op::Discard { space: 1, page: 17, pages: 1 });
    let between = engine.round(&mut carrier, &never).unwrap();
    assert_eq!((between.sent_bytes, between.discarded_bytes, between.held_back_bytes), (0, 0, 4096));
    world.pause(true);
    assert_eq!(engine.last_round(&mut carrier, &never).unwrap().sent_bytes, 4096);
    assert_eq!(target.differs_from(&world), None);
}

#[test]
fn a_space_that_has_ended_holds_up_no_round() {
    let world = Arc::new(World::new(vec![]));
    let (mut engine, target) = begin(&world);
    let mut carrier = Local(Shared(target.clone()));
    world.apply(&Op::Write { space: 1, page: 3, seed: 7 });
    world.apply(&Op::Exit { space: 0 });
    let round = engine.round(&mut carrier, &never).unwrap();
    assert_eq!(round.sent_bytes, 4096);
    assert_eq!(engine.missed().iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [0]);
    world.pause(true);
    assert!(matches!(engine.last_round(&mut carrier, &never), Err(RoundError::Scan(SpaceId(0), _))));
    agree(&mut engine, &world, &target, false);
    engine.last_round(&mut carrier, &never).unwrap();
    assert_eq!(target.differs_from(&world), None);
}

#[test]
fn a_space_that_cannot_be_armed_leaves_none_armed() {
    let world = Arc::new(World::new(vec![]));
    world.apply(&Op::Map { space: 0, page: 0, pages: 4, file: false, shared: false });
    let mut all: Vec<Space> = (0..2).map(|id| Space::new(world.clone(), SpaceId(id))).collect();
    all[1].refuse = true;
    let (id, error) = Engine::arm(all).map(drop).unwrap_err();
    assert_eq!((id, error.kind()), (SpaceId(1), std::io::ErrorKind::Unsupported));
    assert!(!world.anything_is_armed(&[]));
}
