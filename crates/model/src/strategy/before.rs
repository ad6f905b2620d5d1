//! What a move knows of the link and of a pause before it begins: what the last moves over the same link have shown, and where there was none,
//! what is assumed. The one place for such figures, so that an estimate and the move after it predict the same.

use super::measured::Measured;
use crate::event::{Cause, Event, What, summary};

/// What a link is taken to carry before anything was sent over it, bytes per second: what one encrypted stream carried on the
/// slowest machine that was measured.
pub const BANDWIDTH_ASSUMED: u64 = 256 << 20;

/// What a pause costs beside memory where nothing was measured, microseconds.
pub const FIXED_ASSUMED_US: u64 = 30_000;

/// One page fetched over the link, microseconds, until a move has measured it.
pub const FAULT_ASSUMED_US: u64 = 200;

/// Fewer bytes than this say nothing about a link: the first packets are slow.
const TELLING_BYTES: u64 = 8 << 20;

/// What earlier moves have shown; none: not yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Bytes that the link carried in a second.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// What a pause took beside memory, microseconds.
    pub fixed_us: Option<u64>,
    /// One page fetched on demand, microseconds.
    pub fault_us: Option<u64>,
}

impl Before {
    /// Takes in what a later move has shown. What it does not show stays as it was.
    pub fn add(&mut self, events: &[Event]) {
        self.bandwidth_bytes_per_s = bandwidth(events).or(self.bandwidth_bytes_per_s);
        self.fixed_us = fixed_us(events).or(self.fixed_us);
    }

    /// A workload as it was seen, over this link: with at most `bandwidth_max` bytes in a second, if that was asked for.
    #[must_use]
    pub fn with(&self, seen: &Measured, bandwidth_max: Option<u64>) -> Measured {
        let carries = self.bandwidth_bytes_per_s.unwrap_or(BANDWIDTH_ASSUMED);
        Measured {
            bandwidth_bytes_per_s: bandwidth_max.map_or(carries, |most| most.min(carries)),
            fixed_us: self.fixed_us.unwrap_or(FIXED_ASSUMED_US),
            fault_us: self.fault_us.unwrap_or(FAULT_ASSUMED_US),
            ..*seen
        }
    }
}

/// What the link carried in a second: in the first round, which is the longest, else all memory in the time that it took.
fn bandwidth(events: &[Event]) -> Option<u64> {
    let round = events.iter().find_map(|event| match &event.what {
        What::Round(done) if done.round.sent_bytes >= TELLING_BYTES && done.reused_bytes == 0 => {
            done.round.bytes_per_s()
        }
        _ => None,
    });
    let in_pause = || {
        let sums = summary(events);
        let us = sums.spent.iter().find(|spent| spent.cause == Cause::Memory)?.us;
        let bytes = sums.sent_in_pause_bytes;
        let rate = u128::from(bytes) * 1_000_000 / u128::from(us.max(1));
        (bytes >= TELLING_BYTES).then(|| u64::try_from(rate).unwrap_or(u64::MAX))
    };
    round.or_else(in_pause).filter(|rate| *rate > 0)
}

/// What its pause took beside memory; of one that leaves pages behind that would be another one than rounds end with.
fn fixed_us(events: &[Event]) -> Option<u64> {
    if events.iter().any(|event| matches!(event.what, What::Follow(_))) {
        return None;
    }
    let sums = summary(events);
    let memory_us = sums.spent.iter().find(|spent| spent.cause == Cause::Memory).map_or(0, |spent| spent.us);
    Some(sums.downtime_us?.saturating_sub(memory_us)).filter(|us| *us > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{PagesFollow, Phase, RoundDone};
    use crate::strategy::measured::Round;

    const MIB: u64 = 1 << 20;

    fn events(sent_bytes: u64, duration_us: u64) -> Vec<Event> {
        let round = RoundDone::from(Round { sent_bytes, duration_us, ..Round::default() });
        [
            (0, What::Round(round)),
            (100, What::PhaseStart { phase: Phase::Freeze }),
            (30_000, What::Spent { cause: Cause::Memory, us: 9_900 }),
            (40_100, What::PhaseEnd { phase: Phase::Resume }),
        ]
        .map(|(at_us, what)| Event { at_us, what })
        .to_vec()
    }

    #[test]
    fn the_last_move_that_shows_something_counts() {
        let mut before = Before::default();
        let seen = Measured { bytes: 5, dirty_bytes_per_s: 7, ..Measured::default() };
        let assumed = before.with(&seen, None);
        assert_eq!((assumed.bandwidth_bytes_per_s, assumed.fixed_us), (BANDWIDTH_ASSUMED, FIXED_ASSUMED_US));
        assert_eq!((assumed.bytes, assumed.dirty_bytes_per_s), (5, 7));
        before.add(&events(64 * MIB, 500_000));
        before.add(&events(1000, 10));
        assert_eq!((before.bandwidth_bytes_per_s, before.fixed_us), (Some(128 * MIB), Some(30_100)));
        assert_eq!(before.with(&seen, Some(MIB)).bandwidth_bytes_per_s, MIB);
        assert_eq!(before.with(&seen, Some(1 << 40)).bandwidth_bytes_per_s, 128 * MIB);
        let mut switched = events(64 * MIB, 500_000);
        switched.iter_mut().for_each(|event| event.at_us *= 2);
        switched.push(Event { at_us: 90_000, what: What::Follow(PagesFollow::default()) });
        before.add(&switched);
        assert_eq!(before.fixed_us, Some(30_100), "that is another sort of pause");
    }
}
