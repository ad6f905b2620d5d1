//! The pager over invented memory: programs that touch, write, give back, move and share their memory while it arrives, in any order,
//! twice, and over links that break. Whatever happens, nobody ever reads anything but what would have been there without the move.

mod process;
mod world;

use ferry_transfer::pager::{Absent, Pager, Wanted};
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId};
use proptest::prelude::*;
use std::collections::VecDeque;
use world::{Op, PAGES, World, any_op, content};

/// What the link does between two things that a program does.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// The pager takes in what happened.
    Hear,
    /// Something that was wanted comes: the n-th of what is on its way.
    Arrive(usize),
    /// .. and comes again.
    Twice(usize),
    /// The background asks for some more.
    Ask,
    /// All that is on its way is lost.
    Lose,
}

fn any_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        3 => Just(Turn::Hear),
        3 => (0..100_usize).prop_map(Turn::Arrive),
        1 => (0..100_usize).prop_map(Turn::Twice),
        2 => Just(Turn::Ask),
        1 => Just(Turn::Lose),
    ]
}

struct Link(VecDeque<Wanted>);

impl Link {
    fn take(&mut self, at: usize) -> Option<Wanted> {
        (!self.0.is_empty()).then(|| self.0.remove(at % self.0.len())).flatten()
    }
}

fn bytes(range: &Range) -> Vec<u8> {
    let pages = (range.start / PAGE_SIZE..range.end() / PAGE_SIZE).map(content);
    pages.flat_map(|byte| std::iter::repeat_n(byte, PAGE_SIZE as usize)).collect()
}

fn deliver(pager: &mut Pager<world::Memory>, link: &mut Link, wanted: &Wanted) {
    for range in &wanted.ranges {
        let more = pager.arrive(wanted.space, range.start, &bytes(range)).unwrap();
        link.0.extend(more);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nobody_ever_reads_anything_else(
        absent in proptest::collection::vec(any::<bool>(), PAGES as usize),
        script in proptest::collection::vec((any_op(), proptest::collection::vec(any_turn(), 0..4)), 0..120),
    ) {
        let missing: Vec<u64> = (0..PAGES).filter(|page| absent[*page as usize]).collect();
        let world = World::new(&missing);
        let ranges: Vec<Range> =
            missing.iter().map(|page| Range { start: page * PAGE_SIZE, len: PAGE_SIZE }).collect();
        let mut pager = Pager::new(vec![(world.first(), Absent::new(SpaceId(4), &ranges))]);
        let mut link = Link(VecDeque::new());
        for (op, turns) in script {
            world.act(op);
            for turn in turns {
                match turn {
                    Turn::Hear => link.0.extend(pager.hear().unwrap()),
                    Turn::Arrive(at) => {
                        if let Some(wanted) = link.take(at) {
                            deliver(&mut pager, &mut link, &wanted);
                        }
                    }
                    Turn::Twice(at) => {
                        if let Some(wanted) = link.take(at) {
                            deliver(&mut pager, &mut link, &wanted);
                            deliver(&mut pager, &mut link, &wanted);
                        }
                    }
                    Turn::Ask => link.0.extend(pager.background(5 * PAGE_SIZE)),
                    Turn::Lose => {
                        link.0.clear();
                        pager.ask_again();
                        // Who waits is asked for again by the background.
                    }
                }
                prop_assert_eq!(world.wrong(), None);
            }
        }
        // The program stops to do new things; everything comes in.
        for _ in 0..10_000 {
            link.0.extend(pager.hear().unwrap());
            match link.0.pop_front() {
                Some(wanted) => deliver(&mut pager, &mut link, &wanted),
                None => match pager.background(7 * PAGE_SIZE) {
                    Some(wanted) => link.0.push_back(wanted),
                    None if world.is_quiet() => break,
                    None => {}
                },
            }
        }
        prop_assert!(pager.is_complete(), "{} bytes still missing", pager.missing_bytes());
        prop_assert!(world.is_quiet(), "somebody still waits");
        prop_assert_eq!(world.wrong(), None);
        prop_assert_eq!(world.differs(), None);
    }
}

#[test]
fn what_somebody_waits_for_is_asked_for_first_with_its_neighbours() {
    let world = World::new(&[0, 1, 2, 3, 9]);
    let ranges = [Range { start: 0, len: 4 * PAGE_SIZE }, Range { start: 9 * PAGE_SIZE, len: PAGE_SIZE }];
    let mut pager = Pager::new(vec![(world.first(), Absent::new(SpaceId(4), &ranges))]);
    assert_eq!(pager.background(2 * PAGE_SIZE).unwrap().ranges, [Range { start: 0, len: 2 * PAGE_SIZE }]);
    world.act(Op::Touch { process: 0, page: 1 });
    let wanted = pager.hear().unwrap();
    let first = Range { start: PAGE_SIZE, len: 3 * PAGE_SIZE };
    let last = Range { start: 9 * PAGE_SIZE, len: PAGE_SIZE };
    assert_eq!(wanted, [Wanted { space: SpaceId(4), ranges: vec![first, last], urgent: true }]);
    assert_eq!(pager.background(u64::MAX), None, "all of it is on its way");
    pager.ask_again();
    assert_eq!(pager.background(u64::MAX).unwrap().ranges, ranges);
    assert_eq!(pager.missing_bytes(), 5 * PAGE_SIZE);
}
