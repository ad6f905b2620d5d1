//! The private memory of a task as a tracked space, from outside: a userfaultfd of its address space in asynchronous write-protect
//! mode, and one PAGEMAP_SCAN over everything.
//!
//! The userfaultfd has to be opened by the task itself (one remote call, `ferry_sys::userfaultfd::SYSCALL`); whoever holds the ptrace
//! does that, takes the descriptor, has it closed there, and hands it in. Everything else needs no stop and no attachment.
//!
//! A scan trusts nothing that it knew before. It reads the mappings anew and asks the kernel which pages with content lie in mappings
//! that are not tracked: memory that is new, was mapped again at an old place, was moved by mremap or grew by brk. All of these lose
//! their tracking without a word. Such mappings are tracked from then on, and all their content is dirty. Pages that were given back
//! (`MADV_DONTNEED`, munmap) are simply not among the content any more. Nothing that is not there is ever protected, so page tables do not
//! grow by it.
//!
//! Shared mappings are spaces of their own in a move (others write to them, too, past this task's tracking), and not part of this space:
//! what this task writes to one is noted for it ([`super::shared`]), and one for which nobody asks is named. A range that has a userfaultfd of the workload's own is named and copied in the pause. What the tracking does
//! not see: memory that a device writes to by itself, long after the kernel was asked to (direct I/O under way at a scan).

use super::look::{Look, guards, protect, whole as whole_part};
use super::opened::Opened;
use super::shared::{SharedMappings, SharedObjects};
use crate::access::Via;
use crate::engine::{Found, RangeSet, TrackedSpace, Untracked};
use crate::space::{Range, SpaceId};
use ferry_sys::pagemap::{self, IS_TRACKED, Pagemap, Part, Query, Region};
use ferry_sys::proc::{self, maps::Mapping};
use ferry_sys::userfaultfd::{FIRST, LENGTH, WriteTracker};
use std::io;
use std::os::fd::OwnedFd;

/// Where the addresses of a task end that may be named.
const LAST: u64 = FIRST + LENGTH;

/// First address that belongs to the kernel: what the mappings list there (`[vsyscall]`) is not memory of the task.
const KERNEL: u64 = 1 << 63;

/// Why a task cannot be tracked any longer.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// It has ended, or its address space is another one since an execve.
    #[error(
        "Task {pid} has ended or executes another program: track it anew, with a userfaultfd of the new one"
    )]
    Gone {
        /// Its pid.
        pid: i32,
    },
    /// Something is still tracked after it should not be.
    #[error(
        "Memory of task {pid} at {start:#x} is still tracked; it ends when the last copy of the userfaultfd is closed"
    )]
    StillTracked {
        /// Its pid.
        pid: i32,
        /// Where.
        start: u64,
    },
}

impl From<TrackError> for io::Error {
    fn from(error: TrackError) -> Self {
        Self::other(error)
    }
}

/// The private memory of one address space. Dropping it ends the tracking, if the task itself holds no copy of the descriptor.
pub struct TaskTracker {
    space: SpaceId,
    pid: i32,
    tracker: WriteTracker,
    memory: Opened,
    shared: SharedMappings,
    /// The next scan reports all content: it is the first, or what the last one found is lost.
    all: bool,
    /// Anonymous memory is left out.
    files_only: bool,
    /// Pages that are guards, if the last scan was one of memory that stands still.
    guards: Option<RangeSet>,
}

impl TaskTracker {
    /// Takes a userfaultfd that task `pid` has opened and on which nothing was agreed yet. The caller sees to it that `pid` stays that
    /// task's (it holds a pidfd, or is its parent).
    ///
    /// # Errors
    /// EINVAL where the kernel has no asynchronous mode (before Linux 6.7); EPERM where this process may not read the task.
    pub fn new(space: SpaceId, pid: i32, userfaultfd: OwnedFd) -> io::Result<Self> {
        let tracker = WriteTracker::begin(userfaultfd)?;
        let memory = Opened::open(&Via::Task { pid }, false)?;
        let shared = SharedMappings::new(SharedObjects::default());
        Ok(Self { space, pid, tracker, memory, shared, all: true, files_only: false, guards: None })
    }

    /// Also notes what the task writes to shared objects.
    #[must_use]
    pub fn noting(self, objects: &SharedObjects) -> Self {
        Self { shared: SharedMappings::new(objects.clone()), ..self }
    }

    /// Tracks private mappings of files alone, and what is shared: anonymous memory is no part of it.
    #[must_use]
    pub fn files_only(self) -> Self {
        Self { files_only: true, ..self }
    }

    /// Pages that are guards (`MADV_GUARD_INSTALL`), in any of its mappings, if [`TrackedSpace::scan_still`] was the last that has looked.
    #[must_use]
    pub fn guards(&self) -> Option<&RangeSet> {
        self.guards.as_ref()
    }

    /// The task.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// What is tracked, and the parts in which it is scanned.
    fn own(&self, mappings: &[Mapping]) -> (RangeSet, Vec<Part>) {
        if !self.files_only {
            let private = mappings.iter().filter(|mapping| !mapping.shared).map(whole).collect();
            return (private, parts(mappings));
        }
        let files = of_files(mappings);
        // Not over what lies between: there may be much of it.
        let part = |range: &Range| Part { start: range.start, end: range.end(), anonymous: false };
        let parts = files.ranges().iter().map(part).collect();
        (files, parts)
    }

    fn try_scan(&mut self) -> io::Result<Found> {
        let mappings = mappings_of(self.pid)?;
        let pagemap = Pagemap::open(self.pid)?;
        let (private, parts) = self.own(&mappings);

        let look = Look::at(&pagemap, &parts, &private)?;
        let content = look.content.intersection(&private);
        // A private page of a file that was given back leaves a marker, which looks like a page that was swapped out and not written
        // since. Reading it brings the file's page back, which the next scan does not find: it is gone then.
        let files = of_files(&mappings);
        let unsure = look.out.intersection(&files);
        let (fresh, mut untracked) = self.track(&mappings, &look.loose.intersection(&private))?;

        let runs = if self.all { private.clone() } else { look.written.union(&fresh) };
        let mut dirty = protect(&pagemap, &parts, &runs)?.union(&unsure);
        if self.all || !fresh.is_empty() {
            // Not only what is not protected: pages that mremap has brought along may still be, from where they were before.
            let now = set(&pagemap.scan_parts(&parts, &Query::PRIVATE_CONTENT)?).intersection(&private);
            dirty = dirty.union(&if self.all { now } else { now.intersection(&fresh) });
        }
        // What was not there when it was looked at, and is now.
        let content = content.union(&dirty.intersection(&private));
        dirty = dirty.difference(&untracked.iter().map(|each| each.range).collect());
        self.shared.scan(&mappings, &|| mappings_of(self.pid), &self.tracker, &pagemap)?;
        untracked.extend(self.others(&mappings));
        untracked.sort_by_key(|each| each.range.start);
        Ok(Found { dirty, content, backed: files, untracked })
    }

    /// A scan of memory that nobody writes to any more: nothing is protected for a next one.
    fn try_scan_still(&mut self) -> io::Result<Found> {
        let mappings = mappings_of(self.pid)?;
        let pagemap = Pagemap::open(self.pid)?;
        let files = of_files(&mappings);
        let (private, parts) = self.own(&mappings);
        let look = Look::at(&pagemap, &parts, &private)?;
        let content = look.content.intersection(&private);
        // What is not tracked (any more, or yet) is not protected by us either: all of it may have been written.
        let dirty =
            look.written.union(&look.loose).union(&look.out.intersection(&files)).intersection(&content);
        self.shared.scan(&mappings, &|| mappings_of(self.pid), &self.tracker, &pagemap)?;
        let untracked = self.others(&mappings).collect();
        // The look has gone over anonymous memory already, which is most of it.
        let others: RangeSet = parts.iter().filter(|part| !part.anonymous).map(whole_part).collect();
        let all: RangeSet = mappings.iter().map(whole).collect();
        let others = guards(&pagemap, &all.intersection(&others))?;
        self.guards = Some(look.guards.union(&others));
        Ok(Found { dirty, content, backed: files, untracked })
    }

    /// Shared memory whose writes are nobody's to note.
    fn others<'a>(&'a self, mappings: &'a [Mapping]) -> impl Iterator<Item = Untracked> + 'a {
        let others = mappings.iter().filter(|mapping| mapping.shared && !self.shared.have(mapping));
        others.map(|mapping| Untracked {
            range: whole(mapping),
            why: format!("shared memory {}: others may write to it, it is a space of its own", name(mapping)),
        })
    }

    /// Tracks every private mapping that has content in `loose`. What is tracked now, and what cannot be.
    fn track(&self, mappings: &[Mapping], loose: &RangeSet) -> io::Result<(RangeSet, Vec<Untracked>)> {
        let (mut fresh, mut untracked) = (Vec::new(), Vec::new());
        let mut rest = loose.ranges();
        for (at, mapping) in mappings.iter().enumerate().filter(|(_, mapping)| !mapping.shared) {
            rest = &rest[rest.partition_point(|range| range.end() <= mapping.start)..];
            if rest.first().is_none_or(|range| range.start >= mapping.end) {
                continue;
            }
            let Range { start, len } = with_gaps(mappings, at);
            let tracked = self.tracker.track(start, len).or_else(|error| match gone(&error) {
                true => Err(error),
                // What has come there meanwhile cannot be tracked.
                false => self.tracker.track(mapping.start, mapping.end - mapping.start),
            });
            match tracked {
                Ok(()) => fresh.push(whole(mapping)),
                Err(error) if gone(&error) => return Err(TrackError::Gone { pid: self.pid }.into()),
                Err(error) => untracked.push(Untracked {
                    range: whole(mapping),
                    why: match error.kind() {
                        io::ErrorKind::ResourceBusy => {
                            format!("{}: the workload has a userfaultfd of its own on it", name(mapping))
                        }
                        _ => format!("{}: {error}", name(mapping)),
                    },
                }),
            }
        }
        Ok((RangeSet::new(fresh), untracked))
    }
}

/// A mapping with the gaps around it. The list is read before anything is done by it, and the task goes on meanwhile: what it maps anew in the
/// place of one that has gone may be larger. The border of what is tracked would cut that in two, and its `mremap` would fail; in a gap
/// there is nothing to be cut.
fn with_gaps(mappings: &[Mapping], at: usize) -> Range {
    let Mapping { start, end, .. } = mappings[at];
    let start = at.checked_sub(1).map_or(FIRST, |before| mappings[before].end).min(start);
    let end = mappings.get(at + 1).map_or(LAST, |behind| behind.start).max(end);
    Range { start, len: end - start }
}

impl TrackedSpace for TaskTracker {
    fn id(&self) -> SpaceId {
        self.space
    }

    fn arm(&mut self) -> io::Result<()> {
        self.all = true;
        mappings_of(self.pid).map(drop)
    }

    fn scan(&mut self) -> io::Result<Found> {
        self.guards = None;
        let found = self.try_scan();
        // Half of a scan may have protected pages that nobody was told of.
        self.all = found.is_err();
        found
    }

    fn scan_still(&mut self) -> io::Result<Found> {
        if self.all {
            let found = self.scan()?;
            let all = mappings_of(self.pid)?.iter().map(whole).collect();
            self.guards = Some(guards(&Pagemap::open(self.pid)?, &all)?);
            return Ok(found);
        }
        self.guards = None;
        let found = self.try_scan_still();
        self.all = found.is_err();
        found
    }

    fn read(&self, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        self.memory.read_ranges(ranges, buffer)
    }

    fn disarm(&mut self) -> io::Result<()> {
        self.all = true;
        let Ok(mappings) = mappings_of(self.pid) else { return Ok(()) };
        let ours = |mapping: &Mapping| !mapping.shared || self.shared.have(mapping);
        for (at, mapping) in mappings.iter().enumerate().filter(|(_, mapping)| ours(mapping)) {
            let Range { start, len } = with_gaps(&mappings, at);
            // One that is not tracked, or is gone by now, is refused: what counts is what is left, below.
            if self.tracker.untrack(start, len).is_err() {
                let _ = self.tracker.untrack(mapping.start, mapping.end - mapping.start);
            }
        }
        let end = mappings.last().map_or(0, |mapping| mapping.end);
        let left = Pagemap::open(self.pid)?.scan(0, end, &Query::PRIVATE_CONTENT)?;
        match left.iter().find(|region| region.categories & IS_TRACKED != 0) {
            Some(region) => Err(TrackError::StillTracked { pid: self.pid, start: region.start }.into()),
            None => Ok(()),
        }
    }
}

/// All mappings of a task itself.
pub(super) fn mappings_of(pid: i32) -> io::Result<Vec<Mapping>> {
    let text = match proc::read(pid, "maps") {
        Err(error) if gone(&error) => return Err(TrackError::Gone { pid }.into()),
        text => text?,
    };
    let mut all = proc::maps::parse(&text)?;
    all.retain(|mapping| mapping.end < KERNEL && !of_the_kernel(mapping));
    // A task that has ended and was not waited for has a list, and nothing in it.
    if all.is_empty() { Err(TrackError::Gone { pid }.into()) } else { Ok(all) }
}

/// Whether an error says that the task or its address space is no more.
fn gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::SRCH, Errno::NOENT, Errno::NOMEM]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.raw_os_error())
}

/// `[vdso]`, `[vvar]` and their like: every address space has its own kernel's.
fn of_the_kernel(mapping: &Mapping) -> bool {
    mapping.inode == 0 && mapping.name.starts_with(b"[v")
}

/// Private mappings of files: a page of theirs without content of its own does not read as zero.
fn of_files(mappings: &[Mapping]) -> RangeSet {
    mappings.iter().filter(|mapping| !mapping.shared && mapping.inode != 0).map(whole).collect()
}

/// The parts that are scanned, each in its way.
fn parts(mappings: &[Mapping]) -> Vec<Part> {
    let anonymous = |mapping: &Mapping| !mapping.shared && mapping.inode == 0;
    pagemap::parts(mappings.iter().map(|mapping| (mapping.start, mapping.end, anonymous(mapping))))
}

pub(super) fn whole(mapping: &Mapping) -> Range {
    Range { start: mapping.start, len: mapping.end - mapping.start }
}

fn set(regions: &[Region]) -> RangeSet {
    regions.iter().map(range).collect()
}

pub(super) fn range(region: &Region) -> Range {
    Range { start: region.start, len: region.end - region.start }
}

fn name(mapping: &Mapping) -> String {
    let (start, end) = (mapping.start, mapping.end);
    if mapping.name.is_empty() {
        format!("{start:#x}-{end:#x}")
    } else {
        format!("{} at {start:#x}-{end:#x}", String::from_utf8_lossy(&mapping.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tracked_reaches_over_gaps_to_its_neighbours() {
        let mapping = |start, end| Mapping { start, end, ..Mapping::default() };
        let all =
            [mapping(0x40_0000, 0x50_0000), mapping(0x50_0000, 0x60_0000), mapping(0x90_0000, 0xa0_0000)];
        let reach = |at| with_gaps(&all, at);
        assert_eq!(reach(0), Range { start: FIRST, len: 0x50_0000 - FIRST });
        assert_eq!(reach(1), Range { start: 0x50_0000, len: 0x40_0000 });
        assert_eq!(reach(2), Range { start: 0x60_0000, len: LAST - 0x60_0000 });
        // Where the kernel lets a program map more than others.
        let odd = [mapping(0x1000, 0x2000), mapping(LAST, LAST + 0x1000)];
        assert_eq!((with_gaps(&odd, 0).start, with_gaps(&odd, 1).end()), (0x1000, LAST + 0x1000));
    }
}
