//! Slowing a running workload down, so that rounds can catch up with what it writes: it stands still for a part of each period.
//!
//! By its cgroup's freezer and not by a quota of the processor: that works in every cgroup layout, and what has just been written to is
//! given back to nobody. Its clients see pauses of a few milliseconds. It ends with whoever asked for it: a move that fails, is
//! cancelled or loses its node leaves the workload at its full speed.

use super::protocol::Phase;
use super::workload::{Workload, unable};
use ferry_model::error::{Error, Kind, Result};
use std::time::{Duration, Instant};

/// It runs and stands still once in this time: short beside what clients wait for, long beside what stopping takes.
const PERIOD: Duration = Duration::from_millis(20);

/// How a workload is slowed down.
#[derive(Debug)]
pub(super) struct Throttle {
    /// The share of each period in which it runs.
    runs_for: Duration,
    stands: bool,
    /// When that changes.
    until: Instant,
}

impl Workload {
    /// From now on it runs for `share_percent` of the time; 100 for all of it.
    pub(super) fn throttle(&mut self, share_percent: u32) -> Result<()> {
        self.require(&[Phase::Running], "be slowed down")?;
        if !(1..=100).contains(&share_percent) {
            return Err(Error::new(Kind::Usage, format!("{share_percent} % is no share of the processor")));
        }
        self.full_speed()?;
        if share_percent < 100 {
            let runs_for = PERIOD * share_percent / 100;
            self.throttle = Some(Throttle { runs_for, stands: false, until: Instant::now() + runs_for });
        }
        Ok(())
    }

    /// Ends it.
    pub(super) fn full_speed(&mut self) -> Result<()> {
        match self.throttle.take() {
            Some(Throttle { stands: true, .. }) => self.run_on(),
            _ => Ok(()),
        }
    }

    /// Whoever asks something of a workload that is slowed down finds it running; the period begins anew.
    pub(super) fn run_for_a_moment(&mut self) -> Result<()> {
        let Some(throttle) = &mut self.throttle else { return Ok(()) };
        throttle.until = Instant::now() + throttle.runs_for;
        if std::mem::take(&mut throttle.stands) { self.run_on() } else { Ok(()) }
    }

    /// Stops it or lets it go on, if that is due. When it is due next.
    pub(super) fn throttle_due(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let throttle = self.throttle.as_mut()?;
        if throttle.until > now {
            return Some(throttle.until - now);
        }
        let stand = !throttle.stands;
        let cgroup = self.cgroup().ok()?;
        // What fails is tried again in the next period: a workload that runs is never wrong.
        let done = if stand { cgroup.freeze() } else { cgroup.thaw() };
        let throttle = self.throttle.as_mut()?;
        if done.is_ok() {
            throttle.stands = stand;
        }
        let lasts = if stand { PERIOD - throttle.runs_for } else { throttle.runs_for };
        throttle.until = now + lasts;
        Some(lasts)
    }

    fn run_on(&mut self) -> Result<()> {
        self.cgroup()?.thaw().map_err(|e| unable("The workload does not thaw", &e))
    }
}
