//! Looking at a running workload without moving it: how much memory it has, and how fast and how widely it writes to it. No page is
//! read, and the tracking ends with the look.

use super::planning;
use super::registry::Movements;
use crate::shim::client::Tracked;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::WorkloadId;
use ferry_model::strategy::estimate::{self, Look};
use ferry_model::strategy::measured::{Measured, PAGE_BYTES};
use ferry_transfer::engine::{RangeSet, TrackedSpace as _};
use ferry_transfer::linux::TaskTracker;
use std::time::{Duration, Instant};

/// Times between looks. The first is short, so that hardly a page is written to twice in it; all together show how wide it writes.
const LOOKS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(500),
    Duration::from_millis(500),
];

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Bytes of memory with content.
    pub bytes: u64,
    /// Of these, what cannot be tracked.
    pub bytes_in_pause: u64,
    /// Bytes dirtied in a second.
    pub dirty_bytes_per_s: u64,
    /// Bytes that it writes to at all.
    pub working_set_bytes: u64,
    /// How long it was looked at, microseconds.
    pub looked_us: u64,
}

impl Observed {
    /// As predictions take it, without what they have to know of the link and of a pause.
    #[must_use]
    pub fn measured(&self) -> Measured {
        Measured {
            bytes: self.bytes,
            bytes_in_pause: self.bytes_in_pause,
            dirty_bytes_per_s: self.dirty_bytes_per_s,
            working_set_bytes: self.working_set_bytes,
            ..Measured::default()
        }
    }
}

/// One process's memory while it is looked at.
pub(super) struct Watched {
    /// Drop it, and the tracking ends.
    pub tracker: TaskTracker,
    written: RangeSet,
    content_bytes: u64,
    untracked_bytes: u64,
}

impl Movements {
    /// Looks at a workload for a second and a half.
    ///
    /// # Errors
    /// It is being moved, does not run here, or nothing of it can be tracked.
    pub fn observe(&self, workload: WorkloadId) -> Result<Observed> {
        self.refuse_busy(workload)?;
        let mut shim = planning::shim(&self.node, workload)?;
        let mut watched = watch(shim.track()?)?;
        let seen = look(&mut watched, &LOOKS);
        // Closing what tracks ends the tracking; the shim forgets whom it was for.
        drop(watched);
        shim.untrack()?;
        seen
    }
}

/// Takes what a shim handed over to track by. Nothing is looked at yet.
pub(super) fn watch(tracked: Tracked) -> Result<Vec<Watched>> {
    let cannot = |cause: &std::io::Error| {
        Error::from_source(Kind::Unable, cause).context("The workload's memory cannot be tracked")
    };
    let mut watched = Vec::new();
    for (space, pid, userfaultfd) in tracked.spaces {
        let Some(userfaultfd) = userfaultfd else { continue };
        let mut tracker = TaskTracker::new(space, pid, userfaultfd).map_err(|cause| cannot(&cause))?;
        tracker.arm().map_err(|cause| cannot(&cause))?;
        watched.push(Watched { tracker, written: RangeSet::default(), content_bytes: 0, untracked_bytes: 0 });
    }
    if watched.is_empty() {
        return Err(Error::new(Kind::Unable, "Nothing of the workload's memory can be tracked"));
    }
    Ok(watched)
}

/// Looks as often as there are waits, after each of them.
pub(super) fn look(watched: &mut Vec<Watched>, waits: &[Duration]) -> Result<Observed> {
    // The first begins to track everything, and long before it ends the first pages may be written to again. A second one is as short as
    // those that count, and times are from the beginning of one to that of the next.
    scan(watched, true)?;
    let mut last = Instant::now();
    scan(watched, true)?;
    let mut looks = Vec::new();
    for wait in waits {
        std::thread::sleep(*wait);
        let since_us = u64::try_from(last.elapsed().as_micros()).unwrap_or(u64::MAX);
        last = Instant::now();
        looks.push(Look { since_us, dirty_bytes: scan(watched, false)? });
    }
    let sum = |of: fn(&Watched) -> u64| watched.iter().map(of).sum::<u64>();
    let bytes_in_pause = sum(|each| each.untracked_bytes);
    let bytes = sum(|each| each.content_bytes);
    let union = sum(|each| each.written.bytes());
    let looked_us = looks.iter().map(|look| look.since_us).sum();
    let dirty_bytes_per_s = estimate::rate(&looks);
    let tracked = bytes.saturating_sub(bytes_in_pause).max(PAGE_BYTES);
    let working_set_bytes = estimate::working_set(dirty_bytes_per_s, looked_us, union, tracked);
    Ok(Observed { bytes, bytes_in_pause, dirty_bytes_per_s, working_set_bytes, looked_us })
}

/// Scans all; the bytes that were dirty. One that has ended has nothing to move any more.
fn scan(watched: &mut Vec<Watched>, first: bool) -> Result<u64> {
    let mut dirty_bytes = 0;
    watched.retain_mut(|each| {
        let Ok(found) = each.tracker.scan() else { return false };
        if !first {
            dirty_bytes += found.dirty.bytes();
            each.written = each.written.union(&found.dirty);
        }
        let untracked: RangeSet = found.untracked.iter().map(|range| range.range).collect();
        each.untracked_bytes = found.content.intersection(&untracked).bytes();
        each.content_bytes = found.content.bytes();
        true
    });
    if watched.is_empty() {
        return Err(Error::new(Kind::Unable, "The workload ended while it was looked at"));
    }
    Ok(dirty_bytes)
}
