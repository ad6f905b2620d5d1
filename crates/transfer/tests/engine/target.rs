//! The other side, and the way there, which breaks when it is told to: in the middle of what it was handed.

use super::world::{PAGES, World};
use ferry_transfer::engine::{Carrier, Filler, Local};
use ferry_transfer::space::{PAGE_SIZE, PageSink, Range, SpaceId};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

/// Pages that were put in their places.
#[derive(Default)]
pub struct Target(Mutex<BTreeMap<(u32, u64), Vec<u8>>>);

impl Target {
    /// The first page (and its space) that does not read as in `world`. Where nothing is mapped there, nothing may be left here.
    pub fn differs_from(&self, world: &World) -> Option<(u32, u64)> {
        let pages = self.0.lock().unwrap();
        (0..2).flat_map(|space| (0..PAGES).map(move |page| (space, page))).find(|(space, page)| {
            let here = pages.get(&(*space, *page)).cloned();
            here.or_else(|| world.untouched(*space, *page)) != world.value(*space, *page)
        })
    }

    fn each(
        &self,
        space: SpaceId,
        ranges: &[Range],
        mut with: impl FnMut(&mut BTreeMap<(u32, u64), Vec<u8>>, (u32, u64)),
    ) {
        let mut pages = self.0.lock().unwrap();
        for start in ranges.iter().flat_map(|range| (range.start..range.end()).step_by(PAGE_SIZE as usize)) {
            with(&mut pages, (space.0, start / PAGE_SIZE));
        }
    }
}

impl PageSink for Target {
    fn write(&self, space: SpaceId, address: u64, bytes: &[u8]) -> io::Result<()> {
        let range = Range { start: address, len: bytes.len() as u64 };
        let mut parts = bytes.chunks_exact(PAGE_SIZE as usize);
        self.each(space, &[range], |pages, at| drop(pages.insert(at, parts.next().unwrap().to_vec())));
        Ok(())
    }
}

impl Filler for Target {
    fn zero(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.each(space, ranges, |pages, at| drop(pages.insert(at, vec![0; PAGE_SIZE as usize])));
        Ok(())
    }

    fn discard(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.each(space, ranges, |pages, at| drop(pages.remove(&at)));
        Ok(())
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

    fn discard(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.0.discard(space, ranges)
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
    fn pages(&mut self, space: SpaceId, ranges: &[Range], bytes: &[u8]) -> io::Result<()> {
        let arrived = self.arriving(ranges.len());
        let len: u64 = ranges[..arrived].iter().map(|range| range.len).sum();
        self.to.pages(space, &ranges[..arrived], &bytes[..len as usize])?;
        self.whole(arrived, ranges.len())
    }

    fn zero(&mut self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        let arrived = self.arriving(ranges.len());
        self.to.zero(space, &ranges[..arrived])?;
        self.whole(arrived, ranges.len())
    }

    fn discard(&mut self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        let arrived = self.arriving(ranges.len());
        self.to.discard(space, &ranges[..arrived])?;
        self.whole(arrived, ranges.len())
    }

    fn settle(&mut self) -> io::Result<()> {
        self.arriving(0);
        self.whole(0, 0)
    }
}
