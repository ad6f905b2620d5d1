//! Post-copy: the execution state travels, it runs at the target, and pages follow: those that it touches first, the others in the
//! background. The pause does not depend on the size of the memory, and it always ends; until the last page both hosts are needed,
//! and losing either loses the workload.

use super::measured::{Measured, PAGE_BYTES};
use super::prediction::{Ending, Method, Prediction};

/// What it costs.
#[must_use]
pub fn predict(measured: &Measured) -> Prediction {
    after(measured, measured.bytes.saturating_sub(measured.bytes_in_pause), Method::PostCopy)
}

/// What it costs when `missing` bytes are left to follow.
pub(super) fn after(measured: &Measured, missing: u64, method: Method) -> Prediction {
    let pause_only = measured.bytes_in_pause.min(measured.bytes);
    let downtime_us = measured.fixed_us.saturating_add(measured.time_us(pause_only));
    let stream_us = measured.time_us(missing);
    // It waits for the pages that it works with, one by one, unless the background stream has brought them before.
    let asked_for = measured.working_set_bytes.min(missing).div_ceil(PAGE_BYTES);
    let degraded_us = asked_for.saturating_mul(measured.fault_us).min(stream_us);
    Prediction {
        method,
        ending: Ending::NotAsked,
        rounds: 0,
        total_us: downtime_us.saturating_add(stream_us),
        downtime_us,
        degraded_us,
        sent_bytes: pause_only.saturating_add(missing),
    }
}
