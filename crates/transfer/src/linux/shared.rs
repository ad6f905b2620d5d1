//! Shared memory objects, as those who have them mapped see them.
//!
//! What a process stores into an object it stores through its own mapping, so each tracker of a process notes here to which offsets its
//! process has written; the object itself ([`super::ObjectSpace`]) asks for that when it is scanned. A tracker also notes where it does not
//! know: a mapping that it has not tracked from the beginning, one that is gone since the last scan with whatever was written through it, and
//! all of them when the process ends. There, the object compares its content.
//!
//! In contrast to private memory a page may vanish from a process (given back, reclaimed) without its content being gone. So every
//! place of a tracked mapping bears a mark: a page without one was touched, whatever is there now.

use crate::engine::RangeSet;
use crate::space::{PAGE_SIZE, Range};
use ferry_sys::pagemap::{Pagemap, Query};
use ferry_sys::proc::maps::Mapping;
use ferry_sys::userfaultfd::WriteTracker;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an object is told by in a list of mappings: device and inode.
pub(super) type Key = ((u32, u32), u64);

/// `PROT_WRITE`.
const PROT_WRITE: u32 = 2;

/// What is known of the shared objects of one workload. Copies are the same one.
#[derive(Clone, Debug, Default)]
pub struct SharedObjects(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    notes: BTreeMap<Key, Note>,
    /// Which tracker it is next.
    next: u64,
}

/// Offsets in one object.
#[derive(Debug, Default)]
struct Note {
    written: RangeSet,
    unsure: RangeSet,
    /// Trackers that have it mapped.
    seen_by: BTreeSet<u64>,
}

/// What was noted of one object since it was last asked for.
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) written: RangeSet,
    pub(super) unsure: RangeSet,
}

impl SharedObjects {
    /// From now on something may have been written to any object by whoever no tracker knows.
    pub fn doubt(&self) {
        let mut known = self.known();
        known.notes.values_mut().for_each(|note| note.unsure = everywhere());
    }

    /// Begins to note what is written to an object.
    pub(super) fn begin(&self, key: Key) {
        self.known().notes.insert(key, Note { unsure: everywhere(), ..Note::default() });
    }

    /// Ends that.
    pub(super) fn end(&self, key: Key) {
        self.known().notes.remove(&key);
    }

    /// What was noted of an object since the last time.
    pub(super) fn take(&self, key: Key) -> Noted {
        let mut known = self.known();
        let Some(note) = known.notes.get_mut(&key) else {
            return Noted { unsure: everywhere(), ..Noted::default() };
        };
        // Nobody tells what is written to it: not even whether it is told by device and inode as in the lists of mappings.
        let unsure = if note.seen_by.is_empty() { everywhere() } else { std::mem::take(&mut note.unsure) };
        Noted { written: std::mem::take(&mut note.written), unsure }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> BTreeSet<Key> {
        self.known().notes.keys().copied().collect()
    }

    fn note(&self, key: Key, with: impl FnOnce(&mut Note)) {
        if let Some(note) = self.known().notes.get_mut(&key) {
            with(note);
        }
    }

    /// These and no others are mapped by the process of that tracker.
    fn claim(&self, tracker: u64, pieces: &[Piece]) {
        for (key, note) in &mut self.known().notes {
            match pieces.iter().any(|piece| piece.key == *key) {
                true => note.seen_by.insert(tracker),
                false => note.seen_by.remove(&tracker),
            };
        }
    }
}

fn everywhere() -> RangeSet {
    RangeSet::new(vec![Range { start: 0, len: i64::MAX as u64 & !(PAGE_SIZE - 1) }])
}

/// A tracked mapping of an object, or a part of one.
#[derive(Clone, Copy, Debug)]
struct Piece {
    range: Range,
    key: Key,
    offset: u64,
}

impl Piece {
    fn of(mapping: &Mapping) -> Self {
        let range = Range { start: mapping.start, len: mapping.end - mapping.start };
        Self { range, key: (mapping.device, mapping.inode), offset: mapping.offset }
    }

    /// Offsets of those parts of `addresses` that are in it.
    fn offsets(&self, addresses: &RangeSet) -> RangeSet {
        let inside = addresses.intersection(&RangeSet::new(vec![self.range]));
        let moved = inside
            .ranges()
            .iter()
            .map(|range| Range { start: range.start - self.range.start + self.offset, len: range.len });
        moved.collect()
    }

    /// Whether it shows the object at the same addresses as the other does, where both are.
    fn is_like(&self, other: &Self) -> bool {
        let begin = |piece: &Self| piece.range.start.wrapping_sub(piece.offset);
        self.key == other.key && begin(self) == begin(other)
    }
}

/// What became of one mapping in a scan.
enum Seen {
    /// It was tracked since the last one.
    Tracked,
    /// It is tracked from now on.
    Fresh,
    /// It is not tracked.
    Not,
}

/// What the tracker of one process knows of the objects that it has mapped.
#[derive(Debug)]
pub(super) struct SharedMappings {
    objects: SharedObjects,
    number: u64,
    pieces: Vec<Piece>,
}

impl SharedMappings {
    pub(super) fn new(objects: SharedObjects) -> Self {
        let number = {
            let mut known = objects.known();
            known.next += 1;
            known.next
        };
        Self { objects, number, pieces: Vec::new() }
    }

    /// Whether a mapping is of an object whose writes are noted.
    pub(super) fn have(&self, mapping: &Mapping) -> bool {
        mapping.shared && self.objects.known().notes.contains_key(&(mapping.device, mapping.inode))
    }

    /// Notes what was written since the last time, and protects it again. `mappings` is what the process had mapped a moment ago, `again`
    /// reads that anew.
    pub(super) fn scan(
        &mut self,
        mappings: &[Mapping],
        again: &dyn Fn() -> io::Result<Vec<Mapping>>,
        tracker: &WriteTracker,
        pagemap: &Pagemap,
    ) -> io::Result<()> {
        let keys = self.objects.keys();
        let now =
            mappings.iter().filter(|mapping| mapping.shared).map(|mapping| (Piece::of(mapping), mapping));
        let now: Vec<(Piece, &Mapping)> = now.filter(|(piece, _)| keys.contains(&piece.key)).collect();
        self.miss(&now);
        let scanned = self.each(now, again, tracker, pagemap);
        if scanned.is_err() {
            // What was protected may have been written to before, and is told to nobody.
            self.objects.doubt();
        }
        self.objects.claim(self.number, &self.pieces);
        scanned
    }

    fn each(
        &mut self,
        now: Vec<(Piece, &Mapping)>,
        again: &dyn Fn() -> io::Result<Vec<Mapping>>,
        tracker: &WriteTracker,
        pagemap: &Pagemap,
    ) -> io::Result<()> {
        self.pieces.clear();
        let mut fresh = Vec::new();
        for (piece, mapping) in now {
            match self.one(piece, mapping, tracker, pagemap)? {
                Seen::Tracked => self.pieces.push(piece),
                Seen::Fresh => fresh.push(piece),
                Seen::Not => {}
            }
        }
        if !fresh.is_empty() {
            let after = again()?;
            let after: Vec<Piece> = after.iter().filter(|mapping| mapping.shared).map(Piece::of).collect();
            for piece in fresh {
                let still = after.iter().filter(|each| each.is_like(&piece)).map(|each| each.range);
                if RangeSet::new(vec![piece.range]).difference(&still.collect()).is_empty() {
                    self.pieces.push(piece);
                } else {
                    // It was mapped anew before it was protected, and private memory must not bear marks.
                    let _ = tracker.untrack(piece.range.start, piece.range.len);
                }
            }
        }
        Ok(())
    }

    /// What is gone of what was tracked takes along what was written through it.
    fn miss(&self, now: &[(Piece, &Mapping)]) {
        for before in &self.pieces {
            let still = now.iter().filter(|(piece, _)| piece.is_like(before)).map(|(piece, _)| piece.range);
            let gone = RangeSet::new(vec![before.range]).difference(&still.collect());
            if !gone.is_empty() {
                self.unsure(before, &gone);
            }
        }
    }

    /// One mapping.
    fn one(
        &self,
        piece: Piece,
        mapping: &Mapping,
        tracker: &WriteTracker,
        pagemap: &Pagemap,
    ) -> io::Result<Seen> {
        let Range { start, len } = piece.range;
        let end = piece.range.end();
        if !pagemap.scan(start, end, &Query::LOOSE)?.is_empty() {
            match tracker.track(start, len).and_then(|()| tracker.protect(start, len)) {
                Ok(()) => {}
                // Whoever can never write to it needs no tracking.
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied && mapping.prot & PROT_WRITE == 0 =>
                {
                    return Ok(Seen::Not);
                }
                Err(_) => {
                    self.unsure(&piece, &RangeSet::new(vec![piece.range]));
                    return Ok(Seen::Not);
                }
            }
            // What was written through it until now was noted by nobody.
            self.unsure(&piece, &RangeSet::new(vec![piece.range]));
            return Ok(Seen::Fresh);
        }
        let found = pagemap.scan(start, end, &Query::SHARED_WRITTEN_AND_PROTECT)?;
        // After that, so that a page that vanishes between the two is found by one of them.
        let unmarked = pagemap.scan(start, end, &Query::UNMARKED)?;
        for region in &unmarked {
            // Where the mapping has gone meanwhile, the next scan will miss it.
            let _ = tracker.protect(region.start, region.end - region.start);
        }
        let regions = found.iter().chain(&unmarked);
        let touched = regions.map(|region| Range { start: region.start, len: region.end - region.start });
        let offsets = piece.offsets(&touched.collect());
        self.objects.note(piece.key, |note| note.written = note.written.union(&offsets));
        Ok(Seen::Tracked)
    }

    fn unsure(&self, piece: &Piece, addresses: &RangeSet) {
        let offsets = piece.offsets(addresses);
        self.objects.note(piece.key, |note| note.unsure = note.unsure.union(&offsets));
    }
}

impl Drop for SharedMappings {
    fn drop(&mut self) {
        for piece in &self.pieces {
            self.unsure(piece, &RangeSet::new(vec![piece.range]));
        }
        self.objects.claim(self.number, &[]);
    }
}
