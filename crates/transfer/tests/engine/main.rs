//! The engine over memory that is invented: a writer that acts at every point where it could, mappings that come, go and move, streams
//! that break half way. Whatever happens, after the last round both sides are equal, byte by byte.

mod range_set;
mod target;
mod world;

use ferry_transfer::engine::{Engine, Local, RoundError};
use ferry_transfer::space::SpaceId;
use proptest::prelude::*;
use std::cell::Cell;
use std::sync::Arc;
use target::{Breaking, Shared, Target};
use world::{Op, PAGES, Space, World, any_op};

/// One attempt: after how many calls its carrier breaks in each round (or never), and how it ends.
#[derive(Clone, Debug)]
struct Attempt {
    rounds: Vec<Option<u32>>,
    /// Whether it goes as far as the pause, and how that breaks; the workload goes on after it.
    pause: Option<Option<u32>>,
    /// Whether the next attempt goes to a target that knows nothing.
    elsewhere: bool,
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let breaks = || proptest::option::of(0..12_u32);
    (proptest::collection::vec(breaks(), 0..5), proptest::option::of(breaks()), any::<bool>())
        .prop_map(|(rounds, pause, elsewhere)| Attempt { rounds, pause, elsewhere })
}

fn spaces(world: &Arc<World>) -> Vec<Space> {
    vec![Space::new(world.clone(), SpaceId(0)), Space::new(world.clone(), SpaceId(1))]
}

fn never() -> bool {
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn after_the_last_round_both_sides_are_equal(
        ops in proptest::collection::vec(any_op(), 0..300),
        attempts in proptest::collection::vec(any_attempt(), 0..4),
    ) {
        let world = Arc::new(World::new(ops));
        let mut target = Arc::new(Target::default());
        let mut engine = Engine::arm(spaces(&world)).unwrap();
        for attempt in attempts {
            for breaks in attempt.rounds {
                let done = engine.round(&mut Breaking::new(&world, &target, breaks), &never);
                prop_assert!(done.is_ok() || breaks.is_some() || matches!(done, Err(RoundError::Scan(..))));
                world.step();
            }
            if let Some(breaks) = attempt.pause {
                world.pause(true);
                if engine.last_round(&mut Breaking::new(&world, &target, breaks), &never).is_ok() {
                    prop_assert_eq!(target.differs_from(&world), None);
                }
                world.pause(false);
            }
            if attempt.elsewhere {
                let spaces = engine.disarm().unwrap();
                prop_assert!(!world.anything_is_armed());
                target = Arc::new(Target::default());
                engine = Engine::arm(spaces).unwrap();
            }
        }
        world.pause(true);
        let round = engine.last_round(&mut Breaking::new(&world, &target, None), &never).unwrap();
        prop_assert_eq!(round.skipped_bytes, 0);
        prop_assert_eq!(target.differs_from(&world), None);
        engine.disarm().unwrap();
    }

    /// Cancelled between any two batches, and taken up again or begun anew.
    #[test]
    fn a_cancelled_attempt_and_a_second_one_are_equal(
        ops in proptest::collection::vec(any_op(), 0..100), cancel_after in 0..6_u32, anew: bool,
    ) {
        let world = Arc::new(World::new(ops));
        let mut target = Arc::new(Target::default());
        let mut engine = Engine::arm(spaces(&world)).unwrap();
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
        engine.last_round(&mut Breaking::new(&world, &target, None), &never).unwrap();
        prop_assert_eq!(target.differs_from(&world), None);
    }

    /// The comparison and the fake are worth something: a tracker that hides one written page is found out.
    #[test]
    fn a_write_that_is_not_reported_is_found_by_the_comparison(page in 0..PAGES, seed in 1..u64::MAX) {
        let world = Arc::new(World::new(vec![]));
        let target = Arc::new(Target::default());
        let id = SpaceId(1);
        world.apply(&Op::Map { space: id.0, page: 0, pages: PAGES, file: false, shared: false });
        let mut engine = Engine::arm(spaces(&world)).unwrap();
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
    let target = Arc::new(Target::default());
    world.apply(&Op::Map { space: 0, page: 0, pages: 20, file: false, shared: false });
    world.apply(&Op::Map { space: 0, page: 30, pages: 2, file: false, shared: true });
    for page in 0..10 {
        world.apply(&Op::Write { space: 0, page, seed: if page < 4 { 0 } else { 7 } });
    }
    world.apply(&Op::Write { space: 0, page: 30, seed: 9 });
    let mut engine = Engine::arm(spaces(&world)).unwrap();
    let mut carrier = Local(Shared(target.clone()));
    let first = engine.round(&mut carrier, &never).unwrap();
    assert_eq!((first.number, first.last, first.dirty_bytes), (0, false, 10 * 4096));
    assert_eq!((first.sent_bytes, first.zero_bytes, first.held_back_bytes), (6 * 4096, 4 * 4096, 4096));
    assert_eq!(first.dirty_bytes_per_s(), None);
    assert_eq!(engine.untracked().len(), 1);
    assert!(engine.untracked()[0].1.why.contains("shared"));

    world.apply(&Op::Write { space: 0, page: 5, seed: 8 });
    world.apply(&Op::Discard { space: 0, page: 6, pages: 2 });
    let second = engine.round(&mut carrier, &never).unwrap();
    assert_eq!((second.number, second.dirty_bytes, second.sent_bytes), (1, 4096, 4096));
    assert_eq!((second.discarded_bytes, second.held_back_bytes), (2 * 4096, 4096));
    assert!(second.dirty_bytes_per_s().is_some());

    world.pause(true);
    let last = engine.last_round(&mut carrier, &never).unwrap();
    assert!(last.last);
    assert_eq!((last.dirty_bytes, last.sent_bytes, last.discarded_bytes), (0, 4096, 0));
    assert_eq!(target.differs_from(&world), None);
}

#[test]
fn a_space_that_cannot_be_armed_leaves_none_armed() {
    let world = Arc::new(World::new(vec![]));
    world.apply(&Op::Map { space: 0, page: 0, pages: 4, file: false, shared: false });
    let mut all = spaces(&world);
    all[1].refuse = true;
    let (id, error) = Engine::arm(all).map(drop).unwrap_err();
    assert_eq!((id, error.kind()), (SpaceId(1), std::io::ErrorKind::Unsupported));
    assert!(!world.anything_is_armed());
}
