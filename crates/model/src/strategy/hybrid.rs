//! Hybrid: one round while it runs, then post-copy of what was dirtied in it. The pause of post-copy, with as few faults as one round
//! can leave; the rest is sent twice.

use super::measured::Measured;
use super::post_copy;
use super::prediction::{Method, Prediction};

/// What it costs.
#[must_use]
pub fn predict(measured: &Measured) -> Prediction {
    let tracked = Measured { bytes: measured.bytes.saturating_sub(measured.bytes_in_pause), ..*measured };
    let round_us = tracked.time_us(tracked.bytes);
    let missing = tracked.dirty_after(round_us);
    let rest = post_copy::after(measured, missing, Method::Hybrid);
    Prediction {
        rounds: 1,
        total_us: round_us.saturating_add(rest.total_us),
        sent_bytes: tracked.bytes.saturating_add(rest.sent_bytes),
        ..rest
    }
}
