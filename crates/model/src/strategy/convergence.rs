//! When to stop a pre-copy: asked after every round, with all rounds so far.
//!
//! 1. If what is expected to be dirty now fits into the pause that was asked for, the next round is the last: unless another one takes
//!    next to no time and the last ones each left clearly less than the one before. What a short round finds is less still for the pause.
//! 2. If rounds or time have run out, it does not converge.
//! 3. If two rounds in a row left hardly less than the one before, more of them cost bandwidth and win nothing.
//!
//! What is dirty *now* is only known by looking, and looking is what a round begins with: it is estimated by the last round's rate
//! and length, never above what that round found per time.

use super::measured::{Measured, Round};
use std::fmt;

/// A round that leaves more than this many percent of what the one before left has made no progress. Rounds differ by some
/// percent by chance; at 90 even a slow convergence halves the rest within seven rounds.
pub const PROGRESS_PERCENT: u64 = 90;

/// Rounds that would fit go on while each leaves at most this many percent of what the one before has left. Short rounds end where what
/// they cost beside memory is dirtied, too: at 80 the pages of the pause are within a quarter of that.
pub const WORTH_PERCENT: u64 = 80;

/// And while the next one takes less than this, microseconds: who asked for a long pause wants few bytes sent.
pub const WORTH_US_MAX: u64 = 20_000;

/// And finds more than this: less is sent within a millisecond.
pub const WORTH_BYTES_MIN: u64 = 256 << 10;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest pause that is wanted, microseconds.
    pub downtime_us_max: u64,
    /// Most rounds while it runs.
    pub rounds_max: u32,
    /// Most time for them, microseconds.
    pub time_us_max: u64,
}

impl Default for Limits {
    /// 10 ms, 30 rounds, 5 minutes: beyond 30 rounds nothing was ever won in measurements of pre-copy, only bandwidth spent.
    fn default() -> Self {
        Self { downtime_us_max: 10_000, rounds_max: 30, time_us_max: 300_000_000 }
    }
}

/// What comes after a round, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another round while it runs.
    Another {
        /// The pause if it were stopped now, microseconds.
        downtime_us: u64,
    },
    /// Stop it: the rest fits.
    Last {
        /// The pause that is expected, microseconds.
        downtime_us: u64,
    },
    /// It does not converge: [`super::remedy`] says what is done.
    Stuck {
        /// Why rounds are not enough.
        why: Stuck,
        /// The pause if it were stopped now, microseconds.
        downtime_us: u64,
    },
}

/// Why a pre-copy does not converge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// So many rounds were allowed.
    Rounds(u32),
    /// So much time was allowed, microseconds.
    Time(u64),
    /// The last rounds left hardly less than those before: bytes that the last one found dirty.
    NoProgress(u64),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rounds(rounds) => write!(f, "{rounds} rounds were not enough"),
            Self::Time(us) => write!(f, "{:.1} s were not enough", *us as f64 / 1e6),
            Self::NoProgress(bytes) => {
                write!(f, "rounds make no progress: each finds about {} KiB dirty", bytes / 1024)
            }
        }
    }
}

/// Bytes that are expected to be dirty now, `rounds` done: those that the last round did not deliver, and what its rate gives for
/// its length, at most all memory.
#[must_use]
pub fn expected_dirty(measured: &Measured, rounds: &[Round]) -> u64 {
    let Some(last) = rounds.last() else { return measured.bytes };
    let rate = last.dirty_bytes_per_s().unwrap_or(measured.dirty_bytes_per_s);
    let dirtied = u128::from(rate) * u128::from(last.duration_us) / 1_000_000;
    let dirtied = u64::try_from(dirtied).unwrap_or(u64::MAX);
    dirtied.saturating_add(last.skipped_bytes).saturating_add(last.outside_bytes).min(measured.bytes)
}

/// What comes after the last of `rounds`. `measured` has the bandwidth and the fixed costs as of now.
#[must_use]
pub fn next(measured: &Measured, limits: &Limits, rounds: &[Round]) -> Next {
    let held_back = rounds.last().map_or(measured.bytes_in_pause, |round| round.held_back_bytes);
    let rest = expected_dirty(measured, rounds).saturating_add(held_back);
    let downtime_us = measured.fixed_us.saturating_add(measured.time_us(rest));
    if !rounds.is_empty() && downtime_us <= limits.downtime_us_max {
        let more = (rounds.len() as u64) < u64::from(limits.rounds_max) && is_worth_another(measured, rounds);
        return if more { Next::Another { downtime_us } } else { Next::Last { downtime_us } };
    }
    let spent_us = rounds.iter().fold(0_u64, |sum, round| sum.saturating_add(round.duration_us));
    let why = if rounds.len() as u64 >= u64::from(limits.rounds_max) {
        Stuck::Rounds(limits.rounds_max)
    } else if !rounds.is_empty() && spent_us >= limits.time_us_max {
        Stuck::Time(limits.time_us_max)
    } else if let Some(bytes) = no_progress(rounds) {
        Stuck::NoProgress(bytes)
    } else {
        return Next::Another { downtime_us };
    };
    Next::Stuck { why, downtime_us }
}

/// Whether the pause is clearly shorter after another round, which itself is short.
fn is_worth_another(measured: &Measured, rounds: &[Round]) -> bool {
    let next = expected_dirty(measured, rounds);
    let less = match rounds.get(1..) {
        Some([.., before, last]) => is_within(WORTH_PERCENT, last, before),
        _ => true,
    };
    less && next > WORTH_BYTES_MIN && measured.time_us(next) < WORTH_US_MAX
}

/// Whether a round found at most `percent` of what the one before it did.
fn is_within(percent: u64, after: &Round, before: &Round) -> bool {
    u128::from(after.dirty_bytes) * 100 <= u128::from(before.dirty_bytes) * u128::from(percent)
}

/// What the last round found dirty, if it and the one before left hardly less than what came before them. The first round sends
/// everything and says nothing about progress.
fn no_progress(rounds: &[Round]) -> Option<u64> {
    let [.., a, b, c] = rounds.get(1..)? else { return None };
    let stands = |before: &Round, after: &Round| !is_within(PROGRESS_PERCENT, after, before);
    (stands(a, b) && stands(b, c)).then_some(c.dirty_bytes)
}
