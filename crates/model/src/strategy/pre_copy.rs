//! Pre-copy: round `n + 1` sends what was dirtied in round `n`; the pause sends what was dirtied in the last.
//!
//! With the dirtying of [`Measured::dirty_after`] no round is longer than the one before, whatever the rate: so the question is only
//! whether the rest fits in time. Up to the pause that was asked for a prediction does not tell which round gets there with how
//! little (the rule goes on a little where that is cheap): the downtime is the most that it can be.

use super::convergence::Limits;
use super::measured::Measured;
use super::prediction::{Ending, Method, Prediction};

/// What it costs within `limits`.
#[must_use]
pub fn predict(measured: &Measured, limits: &Limits) -> Prediction {
    let pause_only = measured.bytes_in_pause.min(measured.bytes);
    let tracked = Measured { bytes: measured.bytes - pause_only, ..*measured };
    let rest_us = |bytes: u64| {
        let bytes = bytes.saturating_add(pause_only);
        measured.fixed_us.saturating_add(measured.time_us(bytes))
    };
    let mut round_us = tracked.time_us(tracked.bytes);
    let (mut rounds, mut total_us, mut sent_bytes) = (1, round_us, tracked.bytes);
    let first = tracked.dirty_after(round_us);
    let mut dirty = first;
    while rest_us(dirty) > limits.downtime_us_max
        && rounds < limits.rounds_max
        && total_us < limits.time_us_max
    {
        round_us = tracked.time_us(dirty);
        total_us = total_us.saturating_add(round_us);
        sent_bytes = sent_bytes.saturating_add(dirty);
        rounds += 1;
        dirty = tracked.dirty_after(round_us);
    }
    let ending = if rest_us(dirty) > limits.downtime_us_max {
        Ending::Diverges
    } else if measured.dirty_bytes_per_s >= measured.bandwidth_bytes_per_s {
        Ending::Fits
    } else {
        Ending::Converges
    };
    let downtime_us = match ending {
        Ending::Diverges => rest_us(dirty),
        _ => limits.downtime_us_max.min(rest_us(first)),
    };
    let sent_bytes = sent_bytes.saturating_add(dirty).saturating_add(pause_only);
    Prediction {
        method: Method::PreCopy,
        ending,
        rounds,
        total_us: total_us.saturating_add(rest_us(dirty)),
        downtime_us,
        degraded_us: 0,
        sent_bytes,
    }
}
