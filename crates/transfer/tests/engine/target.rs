//! The other side, and the way there, which breaks when it is told to: in the middle of what it was handed.

use super::world::{self, Draft, PAGES, World};
use ferry_transfer::engine::{Carrier, Filler, Local, RangeSet};
use ferry_transfer::space::{PAGE_SIZE, PageSink, Range, SpaceId};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

/// Mappings as the last draft has them, and pages that were put in their places.
#[derive(Default)]
pub struct Target(Mutex<Filled>);

#[derive(Default)]
struct Filled {
    draft: Draft,
    pages: BTreeMap<(u32, u64), Vec<u8>>,
    refused: Option<(u32, u64)>,
}

impl Target {
    /// The first page (and its space) that does not read as in `world`, or is mapped on one side only.
    pub fn differs_from(&self, world: &World) -> Option<(u32, u64)> {
        let filled = self.0.lock().unwrap();
        let spaces = filled.draft.spaces.union(&world.draft().spaces).copied().collect::<Vec<_>>();
        spaces.into_iter().flat_map(|space| (0..PAGES).map(move |page| (space, page))).find(|at| {
            let untouched = filled.draft.pages.get(at).map(|kind| world::untouched(at.1, *kind));
            filled.pages.get(at).cloned().or(untouched) != world.value(at.0, at.1)
        })
    }

    /// What was to be filled where nothing is mapped.
    pub fn refused(&self) -> Option<(u32, u64)> {
        self.0.lock().unwrap().refused
    }

    /// Whether something was filled here.
    pub fn holds(&self, space: SpaceId, address: u64) -> bool {
        self.0.lock().unwrap().pages.contains_key(&(space.0, address / PAGE_SIZE))
    }

    /// Maps what `draft` says. What was kept of each space: all that is the same as before, or nothing if it has to be built anew.
    pub fn reconcile(&self, draft: Draft, anew: bool) -> BTreeMap<SpaceId, RangeSet> {
        let mut filled = self.0.lock().unwrap();
        let Filled { draft: old, pages, .. } = &mut *filled;
        pages.retain(|at, _| !anew && draft.pages.get(at) == old.pages.get(at));
        let same = |(at, kind): &(&(u32, u64), &world::Kind)| !anew && old.pages.get(*at) == Some(*kind);
        let mut kept: BTreeMap<SpaceId, Vec<Range>> = BTreeMap::new();
        for ((space, page), _) in draft.pages.iter().filter(same) {
            kept.entry(SpaceId(*space)).or_default().push(world::range(*page));
        }
        filled.draft = draft;
        kept.into_iter().map(|(space, ranges)| (space, RangeSet::new(ranges))).collect()
    }

    /// Gives back what is in these places.
    pub fn give_back(&self, given: &BTreeMap<SpaceId, RangeSet>) {
        let inside = |space: u32, page: u64| {
            let given = given.get(&SpaceId(space));
            given.is_some_and(|given| {
                given.ranges().iter().any(|r| (r.start..r.end()).contains(&(page * PAGE_SIZE)))
            })
        };
        self.0.lock().unwrap().pages.retain(|(space, page), _| !inside(*space, *page));
    }

    fn put(&self, space: SpaceId, ranges: &[Range], mut content: impl FnMut() -> Vec<u8>) -> io::Result<()> {
        let mut filled = self.0.lock().unwrap();
        for start in ranges.iter().flat_map(|range| (range.start..range.end()).step_by(PAGE_SIZE as usize)) {
            let at = (space.0, start / PAGE_SIZE);
            if !filled.draft.pages.contains_key(&at) {
                filled.refused = filled.refused.or(Some(at));
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            filled.pages.insert(at, content());
        }
        Ok(())
    }
}

impl PageSink for Target {
    fn write(&self, space: SpaceId, address: u64, bytes: &[u8]) -> io::Result<()> {
        let range = Range { start: address, len: bytes.len() as u64 };
        let mut parts = bytes.chunks_exact(PAGE_SIZE as usize);
        self.put(space, &[range], || parts.next().unwrap().to_vec())
    }
}

impl Filler for Target {
    fn zero(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.put(space, ranges, || vec![0; PAGE_SIZE as usize])
    }
}

impl PageSink for Shared {
    fn write(&self, space: SpaceId, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(space, address, bytes)
    }
}

/// A target that somebody else looks at, too.
pub struct Shared(pub Arc<Target>);

impl Filler for Shared {
    fn zero(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.0.zero(space, ranges)
    }
}

/// A way that breaks after some calls: of that call a part arrives, and it says nothing of which.
pub struct Breaking {
    world: Arc<World>,
    to: Local<Shared>,
    left: Option<u32>,
}

impl Breaking {
    pub fn new(world: &Arc<World>, target: &Arc<Target>, breaks_after: Option<u32>) -> Self {
        Self { world: world.clone(), to: Local(Shared(target.clone())), left: breaks_after }
    }

    /// How many of `ranges` still arrive.
    fn arriving(&mut self, ranges: usize) -> usize {
        self.world.step();
        match &mut self.left {
            Some(0) => ranges / 2,
            Some(left) => {
                *left -= 1;
                ranges
            }
            None => ranges,
        }
    }

    fn whole(&self, arrived: usize, ranges: usize) -> io::Result<()> {
        if arrived == ranges && self.left != Some(0) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

impl Carrier for Breaking {
    fn pages(&mut self, space: SpaceId, mut ranges: Vec<Range>, mut bytes: Vec<u8>) -> io::Result<()> {
        assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), bytes.len() as u64);
        let (all, arrived) = (ranges.len(), self.arriving(ranges.len()));
        ranges.truncate(arrived);
        bytes.truncate(ranges.iter().map(|range| range.len as usize).sum());
        self.to.pages(space, ranges, bytes)?;
        self.whole(arrived, all)
    }

    fn zero(&mut self, space: SpaceId, mut ranges: Vec<Range>) -> io::Result<()> {
        let (all, arrived) = (ranges.len(), self.arriving(ranges.len()));
        ranges.truncate(arrived);
        self.to.zero(space, ranges)?;
        self.whole(arrived, all)
    }

    fn settle(&mut self) -> io::Result<()> {
        self.arriving(0);
        self.whole(0, 0)
    }
}
