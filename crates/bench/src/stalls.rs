//! When the machine itself stood still: a virtual machine whose host takes all of its processors away, some dozens of milliseconds at a
//! time, stops everything at once, and whoever measures a wait there measures that.
//!
//! A thread on each processor sleeps for a millisecond at a time, before everything else that runs there. Where all of them wake up late
//! for the same reason at the same time, no program could have done anything. Where one of them does, whoever was on it waits, and nobody
//! else: that is told apart.

use ferry_sys::schedule::{self, Affinity};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(1);

/// Whoever wakes up so much later did not sleep only.
const LATE_US: u64 = 3_000;

/// A span of the wall clock, which all lab hosts share, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Its beginning.
    pub from_us: u64,
    /// Its end.
    pub until_us: u64,
}

impl Span {
    /// From then until now.
    #[must_use]
    pub fn since(from_us: u64) -> Self {
        Self { from_us, until_us: now_us() }
    }

    /// Its length.
    #[must_use]
    pub fn us(&self) -> u64 {
        self.until_us.saturating_sub(self.from_us)
    }

    fn common(&self, other: &Self) -> Option<Self> {
        let common =
            Self { from_us: self.from_us.max(other.from_us), until_us: self.until_us.min(other.until_us) };
        (common.from_us < common.until_us).then_some(common)
    }
}

/// Now, by the wall clock.
#[must_use]
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// What of a time processors stood still, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoodStill {
    /// All of them.
    pub all_us: u64,
    /// At least one of them.
    pub any_us: u64,
}

/// Watches until it is dropped.
pub struct Stalls {
    processors: Vec<Arc<Mutex<Vec<Span>>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Stalls {
    /// Begins to watch.
    #[must_use]
    pub fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut processors, mut threads) = (Vec::new(), Vec::new());
        for processor in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let late = Arc::new(Mutex::new(Vec::new()));
            let (own, stop) = (late.clone(), stop.clone());
            threads.push(std::thread::spawn(move || look(processor, &own, &stop)));
            processors.push(late);
        }
        Self { processors, stop, threads }
    }

    /// For how long of `span` processors stood still.
    #[must_use]
    pub fn within(&self, span: &Span) -> StoodStill {
        let common = |late: &Arc<Mutex<Vec<Span>>>| {
            lock(late).iter().filter_map(|one| one.common(span)).collect::<Vec<Span>>()
        };
        let late: Vec<Vec<Span>> = self.processors.iter().map(common).collect();
        StoodStill { all_us: all(span, &late), any_us: any(&late) }
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What of the time is in any span at all, microseconds.
fn any(processors: &[Vec<Span>]) -> u64 {
    let mut spans: Vec<Span> = processors.iter().flatten().copied().collect();
    spans.sort_by_key(|span| span.from_us);
    let (mut sum, mut until) = (0, 0);
    for span in spans {
        sum += span.until_us.saturating_sub(span.from_us.max(until));
        until = until.max(span.until_us);
    }
    sum
}

/// What of `span` is in a span of each of `processors`, microseconds.
fn all(span: &Span, processors: &[Vec<Span>]) -> u64 {
    let mut common = vec![*span];
    for late in processors {
        common = common.iter().flat_map(|one| late.iter().filter_map(|other| one.common(other))).collect();
    }
    if processors.is_empty() { 0 } else { common.iter().map(Span::us).sum() }
}

fn look(processor: usize, late: &Mutex<Vec<Span>>, stop: &AtomicBool) {
    // Where that is not allowed every processor's thread may be on any: less is seen then, never more.
    let _ = schedule::set_affinity(0, &Affinity::one(processor));
    schedule::precede();
    while !stop.load(Ordering::Relaxed) {
        let before = now_us();
        std::thread::sleep(EVERY);
        let span = Span::since(before);
        if span.us() > LATE_US {
            lock(late).push(span);
        }
    }
}

fn lock(late: &Mutex<Vec<Span>>) -> MutexGuard<'_, Vec<Span>> {
    late.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_all_processors_share_counts() {
        let span = |from_us, until_us| Span { from_us, until_us };
        let first = vec![span(0, 10), span(100, 140), span(200, 300)];
        let second = vec![span(105, 150), span(290, 310)];
        let both = [first.clone(), second];
        assert_eq!(all(&span(0, 1000), &both), 35 + 10);
        assert_eq!(all(&span(110, 295), &both), 30 + 5);
        assert_eq!(all(&span(0, 1000), &[first.clone(), Vec::new()]), 0);
        assert_eq!(all(&span(0, 250), &[first]), 10 + 40 + 50);
        assert_eq!(all(&span(0, 250), &[]), 0);
    }

    #[test]
    fn what_any_of_them_stood_still_counts_once() {
        let span = |from_us, until_us| Span { from_us, until_us };
        assert_eq!(any(&[vec![span(0, 10), span(100, 140)], vec![span(105, 150), span(5, 7)]]), 10 + 50);
        assert_eq!(any(&[]), 0);
    }
}
