//! The private memory of a task that goes on elsewhere before all of its pages are there: what cannot wait is tracked and sent before the
//! pause, and of all else is known what is not there at all.
//!
//! Nothing that is done in the pause may grow with memory, so what follows later is not looked at then, page for page: it is all that is
//! mapped, without the blocks that were empty while the task ran and still are. An empty block has no page table, which the kernel
//! passes over as a whole. Single pages that were never touched are asked for with the others, and answered as zeros.

use super::tracker::{TaskTracker, mappings_of, range, whole};
use crate::engine::{Found, RangeSet, TrackedSpace, Untracked};
use crate::space::{BLOCK_BYTES, Range, SpaceId};
use ferry_sys::pagemap::{IS_FILE, Pagemap, Query};
use ferry_sys::proc::maps::Mapping;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Empty runs that are looked at again in the pause, the longest: each costs a call.
const RUNS_MAX: usize = 256;

/// Where pages of each space may follow later: known when everything stands still, and filled in before the last round.
pub type Later = Arc<Mutex<BTreeMap<SpaceId, RangeSet>>>;

/// Content of anonymous memory: to tell it from a file's there is nothing to look at but page tables.
const ANONYMOUS: Query =
    Query { refused: Query::PRIVATE_CONTENT.refused & !IS_FILE, told: 0, ..Query::PRIVATE_CONTENT };

/// One address space.
pub struct FollowedTask {
    tracker: TaskTracker,
    later: Later,
    /// Anonymous memory without any content when it was scanned last.
    empty: RangeSet,
}

impl FollowedTask {
    /// Sends what is not in `later` early, as far as `tracker` can know what is written to it.
    #[must_use]
    pub fn new(tracker: TaskTracker, later: &Later) -> Self {
        Self { tracker: tracker.files_only(), later: later.clone(), empty: RangeSet::default() }
    }

    /// Blocks of anonymous memory in which nothing is.
    fn find_empty(&self) -> io::Result<RangeSet> {
        let pagemap = Pagemap::open(self.tracker.pid())?;
        let mapped = anonymous(&mappings_of(self.tracker.pid())?);
        let mut empty: Vec<Range> = Vec::new();
        for run in mapped.ranges() {
            let content = pagemap.scan(run.start, run.end(), &ANONYMOUS)?.iter().map(range).collect();
            empty.extend(RangeSet::new(vec![*run]).difference(&blocks(&content)).ranges());
        }
        empty.sort_unstable_by_key(|run| std::cmp::Reverse(run.len));
        empty.truncate(RUNS_MAX);
        Ok(RangeSet::new(empty))
    }

    /// Anonymous memory that has content, or may have, now that nobody writes.
    fn content(&self, mapped: &RangeSet) -> io::Result<RangeSet> {
        let pagemap = Pagemap::open(self.tracker.pid())?;
        let scan = |set: &RangeSet| -> io::Result<RangeSet> {
            let mut found = Vec::new();
            for part in set.ranges() {
                found.extend(pagemap.scan(part.start, part.end(), &ANONYMOUS)?.iter().map(range));
            }
            Ok(RangeSet::new(found))
        };
        let later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = RangeSet::default();
        let later = later.get(&self.id()).unwrap_or(&nothing).intersection(mapped);
        let empty = later.intersection(&self.empty);
        let filled = blocks(&scan(&empty)?);
        let later = later.difference(&empty.difference(&filled));
        // The rest is sent at once, so it is looked at page for page.
        Ok(later.union(&scan(&mapped.difference(&later).difference(&empty))?))
    }
}

impl TrackedSpace for FollowedTask {
    fn id(&self) -> SpaceId {
        self.tracker.id()
    }

    fn arm(&mut self) -> io::Result<()> {
        self.tracker.arm()
    }

    fn scan(&mut self) -> io::Result<Found> {
        self.empty = self.find_empty()?;
        self.tracker.scan()
    }

    fn scan_still(&mut self) -> io::Result<Found> {
        let mapped = anonymous(&mappings_of(self.tracker.pid())?);
        let content = self.content(&mapped)?;
        let found = self.tracker.scan_still()?;
        let waits = |range: &Range| Untracked { range: *range, why: "it is to follow later".to_owned() };
        let mut untracked = found.untracked;
        untracked.extend(mapped.ranges().iter().map(waits));
        untracked.sort_by_key(|each| each.range.start);
        Ok(Found { content: found.content.union(&content), untracked, ..found })
    }

    fn read(&self, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        self.tracker.read(ranges, buffer)
    }

    fn disarm(&mut self) -> io::Result<()> {
        self.tracker.disarm()
    }
}

/// Private anonymous mappings.
fn anonymous(mappings: &[Mapping]) -> RangeSet {
    mappings.iter().filter(|mapping| !mapping.shared && mapping.inode == 0).map(whole).collect()
}

/// The blocks in which something of `set` is.
fn blocks(set: &RangeSet) -> RangeSet {
    let block = |range: &Range| {
        let start = range.start / BLOCK_BYTES * BLOCK_BYTES;
        Range { start, len: range.end().div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES) - start }
    };
    set.ranges().iter().map(block).collect()
}
