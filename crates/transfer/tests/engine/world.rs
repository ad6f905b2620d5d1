//! Invented address spaces with what the kernel does to tracked memory, and a script of what the workload does: spaces are born and
//! end, too. The script advances
//! wherever something could happen in between: inside of a scan, before a read, at every call of the carrier.

use ferry_transfer::engine::{Found, RangeSet, TrackedSpace, Untracked};
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// Pages of each space.
pub const PAGES: u64 = 48;

/// Most spaces at a time.
const SPACES_MAX: usize = 4;

/// What is mapped where: what a page of a file, and what is shared, is something else than the rest.
#[derive(Clone, Default)]
pub struct Draft {
    pub spaces: BTreeSet<u32>,
    pub pages: BTreeMap<(u32, u64), Kind>,
}

/// What a page is a page of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    pub file: bool,
    pub shared: bool,
}

/// What the workload, or fate, does. Spaces are counted among those that there are.
#[derive(Clone, Debug)]
pub enum Op {
    Write {
        space: u32,
        page: u64,
        seed: u64,
    },
    Discard {
        space: u32,
        page: u64,
        pages: u64,
    },
    Unmap {
        space: u32,
        page: u64,
        pages: u64,
    },
    Map {
        space: u32,
        page: u64,
        pages: u64,
        file: bool,
        shared: bool,
    },
    Move {
        space: u32,
        page: u64,
        pages: u64,
        to: u64,
    },
    /// A space that is not the child of any.
    Spawn,
    Fork {
        space: u32,
    },
    /// The last one never ends.
    Exit {
        space: u32,
    },
    /// The next scan fails after it has protected what it found.
    ScanFails {
        space: u32,
    },
    Nothing,
}

pub fn any_op() -> impl Strategy<Value = Op> {
    let space = || 0..SPACES_MAX as u32;
    let page = || 0..PAGES;
    let pages = || 1..10_u64;
    prop_oneof![
        6 => (space(), page(), 0..4_u64).prop_map(|(space, page, seed)| Op::Write { space, page, seed }),
        6 => (space(), page(), 1..u64::MAX).prop_map(|(space, page, seed)| Op::Write { space, page, seed }),
        2 => (space(), page(), pages()).prop_map(|(space, page, pages)| Op::Discard { space, page, pages }),
        1 => (space(), page(), pages()).prop_map(|(space, page, pages)| Op::Unmap { space, page, pages }),
        3 => (space(), page(), pages(), any::<bool>(), proptest::bool::weighted(0.2)).prop_map(
            |(space, page, pages, file, shared)| Op::Map { space, page, pages, file, shared }
        ),
        1 => (space(), page(), pages(), page())
            .prop_map(|(space, page, pages, to)| Op::Move { space, page, pages, to }),
        1 => Just(Op::Spawn),
        1 => space().prop_map(|space| Op::Fork { space }),
        2 => space().prop_map(|space| Op::Exit { space }),
        1 => space().prop_map(|space| Op::ScanFails { space }),
        6 => Just(Op::Nothing),
    ]
}

/// A mapped page.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    kind: Kind,
    armed: bool,
    protected: bool,
    content: Option<u64>,
}

#[derive(Default)]
struct State {
    script: Option<Box<dyn Iterator<Item = Op> + Send>>,
    paused: bool,
    alive: BTreeSet<u32>,
    next: u32,
    pages: BTreeMap<(u32, u64), Page>,
    scan_fails: BTreeSet<u32>,
    hidden: Option<(u32, u64)>,
}

impl State {
    /// A new space, if there is room for one.
    fn spawn(&mut self) -> Option<u32> {
        if self.alive.len() == SPACES_MAX {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.alive.insert(id);
        Some(id)
    }
}

pub struct World(Mutex<State>);

impl World {
    /// Two mappings in each space to begin with; the rest is up to the script.
    pub fn new(script: Vec<Op>) -> Self {
        Self::scripted(script.into_iter())
    }

    /// As [`Self::new`], with a script that is made up on the way.
    pub fn scripted(script: impl Iterator<Item = Op> + Send + 'static) -> Self {
        let world = Self(Mutex::new(State { script: Some(Box::new(script)), ..State::default() }));
        for space in 0..2 {
            world.apply(&Op::Spawn);
            world.apply(&Op::Map { space, page: 0, pages: 12, file: false, shared: false });
            world.apply(&Op::Map { space, page: 16, pages: 8, file: true, shared: false });
        }
        world
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The workload gets its turn.
    pub fn step(&self) {
        for _ in 0..3 {
            let op = {
                let mut state = self.lock();
                if state.paused { None } else { state.script.as_mut().and_then(Iterator::next) }
            };
            if let Some(op) = op {
                self.apply(&op);
            }
        }
    }

    pub fn pause(&self, paused: bool) {
        let mut state = self.lock();
        state.paused = paused;
        if paused {
            state.scan_fails.clear();
        }
    }

    /// The next scan does not report this page.
    pub fn hide(&self, space: u32, page: u64) {
        self.lock().hidden = Some((space, page));
    }

    /// Whether anything of `spaces` is tracked; of all if none are named.
    pub fn anything_is_armed(&self, spaces: &[Space]) -> bool {
        let of = |id: u32| spaces.is_empty() || spaces.iter().any(|space| space.id.0 == id);
        self.lock().pages.iter().any(|(at, page)| of(at.0) && (page.armed || page.protected))
    }

    /// What a page reads as; none where nothing is mapped.
    pub fn value(&self, space: u32, page: u64) -> Option<Vec<u8>> {
        self.lock().pages.get(&(space, page)).map(|at| match at.content {
            Some(seed) => bytes(seed),
            None => untouched(page, at.kind),
        })
    }

    /// What is mapped now.
    pub fn draft(&self) -> Draft {
        let state = self.lock();
        let pages = state.pages.iter().map(|(at, page)| (*at, page.kind)).collect();
        Draft { spaces: state.alive.clone(), pages }
    }

    pub fn apply(&self, op: &Op) {
        let mut state = self.lock();
        let op = op.clone().of(&state.alive);
        let within = |page: u64, pages: u64| page..(page + pages).min(PAGES);
        match op {
            Op::Write { space, page, seed } => {
                if let Some(at) = state.pages.get_mut(&(space, page)) {
                    (at.content, at.protected) = (Some(seed), false);
                }
            }
            Op::Discard { space, page, pages } => {
                for page in within(page, pages) {
                    if let Some(at) = state.pages.get_mut(&(space, page)) {
                        (at.content, at.protected) = (None, false);
                    }
                }
            }
            Op::Unmap { space, page, pages } => {
                state.pages.retain(|(of, at), _| *of != space || !within(page, pages).contains(at));
            }
            Op::Map { space, page, pages, file, shared } => {
                for page in within(page, pages) {
                    let kind = Kind { file, shared };
                    state.pages.insert((space, page), Page { kind, ..Page::default() });
                }
            }
            Op::Move { space, page, pages, to } => {
                // What was mapped keeps what it is, and is no longer tracked.
                let moved: Vec<_> =
                    within(page, pages).map(|page| state.pages.remove(&(space, page))).collect();
                for (at, page) in within(to, pages).zip(moved) {
                    if let Some(page) = page.filter(|page| !page.kind.file) {
                        state.pages.insert((space, at), Page { armed: false, protected: false, ..page });
                    }
                }
            }
            Op::Spawn => drop(state.spawn()),
            Op::Fork { space } => {
                let Some(child) = state.spawn() else { return };
                let pages: Vec<_> =
                    state.pages.range((space, 0)..(space + 1, 0)).map(|(at, page)| (at.1, *page)).collect();
                for (at, page) in pages {
                    state.pages.insert((child, at), Page { armed: false, protected: false, ..page });
                }
            }
            Op::Exit { space } => {
                if state.alive.len() > 1 {
                    state.alive.remove(&space);
                    state.pages.retain(|(of, _), _| *of != space);
                }
            }
            Op::ScanFails { space } => {
                if !state.paused {
                    state.scan_fails.insert(space);
                }
            }
            Op::Nothing => {}
        }
    }
}

impl Op {
    /// With the number of its space instead of its place among those that are alive.
    fn of(mut self, alive: &BTreeSet<u32>) -> Self {
        match &mut self {
            Self::Write { space, .. }
            | Self::Discard { space, .. }
            | Self::Unmap { space, .. }
            | Self::Map { space, .. }
            | Self::Move { space, .. }
            | Self::Fork { space }
            | Self::Exit { space }
            | Self::ScanFails { space } => {
                let place = *space as usize % alive.len();
                *space = alive.iter().nth(place).copied().unwrap_or(*space);
            }
            Self::Spawn | Self::Nothing => {}
        }
        self
    }
}

/// A page of `seed`; 0: a zero page.
pub fn bytes(seed: u64) -> Vec<u8> {
    seed.to_le_bytes().repeat(PAGE_SIZE as usize / 8)
}

/// What a page reads as that was never written.
pub fn untouched(page: u64, kind: Kind) -> Vec<u8> {
    bytes(if kind.file { 0xf11e_0000 + page } else { 0 })
}

/// One of the spaces, tracked.
pub struct Space {
    world: Arc<World>,
    id: SpaceId,
    all: bool,
    /// Arming is refused.
    pub refuse: bool,
}

impl Space {
    pub fn new(world: Arc<World>, id: SpaceId) -> Self {
        Self { world, id, all: true, refuse: false }
    }

    fn choose(&self, wanted: impl Fn(u64, &mut Page) -> bool) -> RangeSet {
        let mut state = self.world.lock();
        let own = state.pages.range_mut((self.id.0, 0)..(self.id.0 + 1, 0));
        own.filter_map(|((_, page), at)| wanted(*page, at).then_some(range(*page))).collect()
    }
}

pub fn range(page: u64) -> Range {
    Range { start: page * PAGE_SIZE, len: PAGE_SIZE }
}

impl TrackedSpace for Space {
    fn id(&self) -> SpaceId {
        self.id
    }

    fn arm(&mut self) -> io::Result<()> {
        self.all = true;
        if self.refuse { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) }
    }

    fn scan(&mut self) -> io::Result<Found> {
        self.world.step();
        if !self.world.lock().alive.contains(&self.id.0) {
            return Err(io::Error::other("the space is no more"));
        }
        let backed = self.choose(|_, at| at.kind.file);
        self.world.step();
        let content = self.choose(|_, at| at.content.is_some());
        self.world.step();
        let fresh =
            self.choose(|_, at| !at.kind.shared && !std::mem::replace(&mut at.armed, !at.kind.shared));
        self.world.step();
        let mut dirty = self.choose(|_, at| {
            let written = at.armed && at.content.is_some() && !at.protected;
            at.protected |= written;
            written
        });
        self.world.step();
        if self.world.lock().scan_fails.remove(&self.id.0) {
            self.all = true;
            return Err(io::Error::other("the scan was interrupted"));
        }
        let begin_anew = std::mem::take(&mut self.all);
        let now = self.choose(|_, at| at.content.is_some() && !at.kind.shared);
        dirty = dirty.union(&if begin_anew { now } else { now.intersection(&fresh) });
        let shared = self.choose(|_, at| at.kind.shared);
        if let Some((space, page)) = self.world.lock().hidden.take_if(|(space, _)| *space == self.id.0) {
            debug_assert_eq!(space, self.id.0);
            dirty = dirty.difference(&RangeSet::new(vec![range(page)]));
        }
        let untracked =
            shared.ranges().iter().map(|range| Untracked { range: *range, why: "shared memory".into() });
        Ok(Found { dirty, content, backed, untracked: untracked.collect() })
    }

    fn read(&self, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        self.world.step();
        let pages = ranges.iter().flat_map(|range| (range.start..range.end()).step_by(PAGE_SIZE as usize));
        for (start, part) in pages.zip(buffer.chunks_mut(PAGE_SIZE as usize)) {
            let value = self.world.value(self.id.0, start / PAGE_SIZE);
            part.copy_from_slice(&value.ok_or(io::ErrorKind::NotFound)?);
        }
        Ok(())
    }

    fn disarm(&mut self) -> io::Result<()> {
        self.choose(|_, at| {
            (at.armed, at.protected) = (false, false);
            false
        });
        Ok(())
    }
}
