//! Stop-and-copy: everything travels in the pause. The shortest total time and the longest pause; it cannot fail to converge, and
//! needs nothing of the kernel.

use super::measured::Measured;
use super::prediction::{Ending, Method, Prediction};

/// What it costs.
#[must_use]
pub fn predict(measured: &Measured) -> Prediction {
    let downtime_us = measured.fixed_us.saturating_add(measured.time_us(measured.bytes));
    Prediction {
        method: Method::StopAndCopy,
        ending: Ending::NotAsked,
        rounds: 0,
        total_us: downtime_us,
        downtime_us,
        degraded_us: 0,
        sent_bytes: measured.bytes,
    }
}
