//! Flags of the mappings of one process, remembered from draft to draft.
//!
//! The kernel tells them only together with a walk over all page tables, some 60 ms for each GiB. So they are not read again for each draft,
//! but when a mapping is new, and from time to time: a program may change them at any time without anybody being told.

use crate::capture::advice::{self, Advice};
use crate::capture::memory;
use ferry_sys::proc::maps::Mapping;
use std::time::{Duration, Instant};

/// How old they may be at least.
const AGE_MAX: Duration = Duration::from_secs(1);

/// What part of the time may go into reading them: one in so many.
const PART: u32 = 10;

/// The flags, and when they were read.
#[derive(Debug, Default)]
pub(super) struct Flags {
    advice: Advice,
    /// Since when they have been known, and how long it took to read them.
    read: Option<(Instant, Duration)>,
}

impl Flags {
    /// Those of a process that runs and has these mappings. One that is not known by then has none.
    pub(super) fn of(&mut self, pid: i32, maps: &[Mapping]) -> &Advice {
        let old = self.read.is_none_or(|(at, took)| at.elapsed() > AGE_MAX.max(took * PART));
        let known = if old { None } else { advice::of(&self.advice, maps) };
        self.advice = known.unwrap_or_else(|| {
            let begin = Instant::now();
            let advice = memory::observe(pid).unwrap_or_default();
            self.read = Some((begin, begin.elapsed()));
            advice
        });
        &self.advice
    }

    /// What was read, if no mapping is new since.
    pub(super) fn still(&self, pid: i32) -> Option<Advice> {
        let maps = memory::mappings(pid).ok()?;
        advice::of(&self.advice, &maps)
    }
}
