//! A small move in every order in which it can happen: at each point where the workload could do something it does nothing, or one of a
//! few things; each call of the carrier may be the one that breaks; the pause comes after any round, fails, or ends in a switch to
//! post-copy. The property tests draw long stories; this one tells all short ones.

use super::target::{Breaking, Target};
use super::world::{self, Op, World};
use super::{agree, begin, never};
use ferry_transfer::engine::{Engine, RangeSet};
use ferry_transfer::space::{PageSink, SpaceId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What the workload may do, beside nothing: page 0 is anonymous, page 16 a file's.
const DEEDS: [Op; 6] = [
    Op::Write { space: 0, page: 0, seed: 7 },
    Op::Write { space: 0, page: 16, seed: 8 },
    Op::Discard { space: 0, page: 0, pages: 17 },
    Op::Move { space: 0, page: 0, pages: 1, to: 2 },
    Op::Fork { space: 0 },
    Op::ScanFails { space: 0 },
];

/// How much happens in one story.
#[derive(Clone, Copy)]
struct Bounds {
    deeds: u32,
    breaks: u32,
    rounds: u32,
}

/// One story: what was chosen at each point, and out of how many.
#[derive(Default)]
struct Story {
    chosen: Vec<(u32, u32)>,
    at: usize,
    deeds: u32,
    breaks: u32,
}

impl Story {
    fn choose(&mut self, of: u32) -> u32 {
        if self.at == self.chosen.len() {
            self.chosen.push((0, of));
        }
        let (chosen, before) = self.chosen[self.at];
        assert_eq!(before, of, "the same choices lead to the same story");
        self.at += 1;
        chosen
    }

    fn deed(&mut self) -> Op {
        if self.deeds == 0 {
            return Op::Nothing;
        }
        match self.choose(DEEDS.len() as u32 + 1).checked_sub(1) {
            None => Op::Nothing,
            Some(deed) => {
                self.deeds -= 1;
                DEEDS[deed as usize].clone()
            }
        }
    }

    fn breaks(&mut self) -> Option<u32> {
        if self.breaks == 0 {
            return None;
        }
        let after = self.choose(4).checked_sub(1);
        self.breaks -= u32::from(after.is_some());
        after
    }

    /// The next story; none after the last.
    fn next(mut self, bounds: Bounds) -> Option<Self> {
        while let Some((chosen, of)) = self.chosen.pop() {
            if chosen + 1 < of {
                self.chosen.push((chosen + 1, of));
                return Some(Self { chosen: self.chosen, ..Self::begin(bounds) });
            }
        }
        None
    }

    fn begin(bounds: Bounds) -> Self {
        Self { deeds: bounds.deeds, breaks: bounds.breaks, ..Self::default() }
    }
}

fn told(story: &Arc<Mutex<Story>>) -> std::sync::MutexGuard<'_, Story> {
    story.lock().unwrap()
}

/// The workload does one thing at a time, out of three that it could.
fn script(story: &Arc<Mutex<Story>>) -> impl Iterator<Item = Op> + Send + 'static {
    let story = story.clone();
    (0_u32..).map(move |turn| if turn % 3 == 0 { told(&story).deed() } else { Op::Nothing })
}

fn tell(story: &Arc<Mutex<Story>>, bounds: Bounds) -> Result<(), String> {
    let world = Arc::new(World::scripted(script(story)));
    let (mut engine, target) = begin(&world);
    for _ in 0..bounds.rounds {
        let breaks = told(story).breaks();
        let done = engine.round(&mut Breaking::new(&world, &target, breaks), &never);
        if done.is_err() && breaks.is_none() {
            return Err(format!("{done:?}"));
        }
        let then = told(story).choose(4);
        match then {
            0 => break,
            1 => {}
            2 => agree(&mut engine, &world, &target, false),
            _ => target.give_back(&engine.set_aside(&anonymous(&engine)).map_err(|e| e.to_string())?),
        }
    }
    // A pause that fails is followed by one that does not.
    let fails = told(story).breaks();
    for breaks in [fails, None] {
        world.pause(true);
        agree(&mut engine, &world, &target, false);
        let switch = told(story).choose(2) == 1;
        let later = if switch { anonymous(&engine) } else { BTreeMap::new() };
        let mut carrier = Breaking::new(&world, &target, breaks);
        match engine.last_round_without(&mut carrier, &never, &later) {
            Ok((_, missing)) => return ends_equal(&world, &target, &missing),
            Err(error) if breaks.is_none() => return Err(error.to_string()),
            Err(_) => {
                world.pause(false);
                world.step();
            }
        }
    }
    Err("the second pause cannot fail".into())
}

/// What may follow after the resume: all but the file's pages.
fn anonymous(engine: &Engine<world::Space>) -> BTreeMap<SpaceId, RangeSet> {
    let pages: RangeSet = (0..16).map(world::range).collect();
    engine.spaces().map(|id| (id, pages.clone())).collect()
}

/// With what is still to come both sides are equal, and nothing comes where the target has no place for it.
fn ends_equal(world: &World, target: &Target, missing: &BTreeMap<SpaceId, RangeSet>) -> Result<(), String> {
    for (id, missing) in missing {
        for start in missing.ranges().iter().flat_map(|range| (range.start..range.end()).step_by(4096)) {
            let page = world.value(id.0, start / 4096).ok_or("a page that is not mapped is missing")?;
            target.write(*id, start, &page).map_err(|e| e.to_string())?;
        }
    }
    match (target.differs_from(world), target.refused()) {
        (None, None) => Ok(()),
        other => Err(format!("differs, refused: {other:?}")),
    }
}

fn all(bounds: Bounds) -> u64 {
    let mut story = Story::begin(bounds);
    let mut count = 0;
    loop {
        let shared = Arc::new(Mutex::new(story));
        let ended = tell(&shared, bounds);
        let told = std::mem::take(&mut *told(&shared));
        if let Err(why) = ended {
            panic!("{why}, after {:?}", told.chosen);
        }
        count += 1;
        match told.next(bounds) {
            Some(next) => story = next,
            None => return count,
        }
    }
}

#[test]
fn every_short_story_ends_with_both_sides_equal() {
    let one = all(Bounds { deeds: 1, breaks: 1, rounds: 2 });
    println!("{one} stories with one deed and one broken stream");
    let two = all(Bounds { deeds: 2, breaks: 0, rounds: 1 });
    println!("{two} stories with two deeds");
    if std::env::var_os("FERRY_SOAK").is_some() {
        println!("{} longer stories", all(Bounds { deeds: 2, breaks: 1, rounds: 2 }));
    }
}
