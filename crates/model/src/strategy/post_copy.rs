//! Post-copy: the execution state travels, it runs at the target, and pages follow: those that it touches first, the others in the
//! background. The pause does not depend on the size of the memory, and it always ends; until the last page both hosts are needed,
//! and losing either loses the workload.

use super::measured::{Measured, PAGE_BYTES};
use super::prediction::{Ending, Method, Prediction};

/// What a resume with missing pages takes beyond one with all of them, microseconds: its ranges are told, registered and checked, and the
/// first pages that it touches are waited for. A writer of 1 to 8 GiB stood still for 8 to 15 ms longer, and its client waited 20 ms more
/// (medians, docs/bench.md).
pub(super) const RESUME_US: u64 = 20_000;

/// What it costs.
#[must_use]
pub fn predict(measured: &Measured) -> Prediction {
    after(measured, measured.bytes.saturating_sub(measured.bytes_in_pause), Method::PostCopy)
}

/// What it costs when `missing` bytes are left to follow.
pub(super) fn after(measured: &Measured, missing: u64, method: Method) -> Prediction {
    let pause_only = measured.bytes_in_pause.min(measured.bytes);
    let downtime_us =
        measured.fixed_us.saturating_add(measured.time_us(pause_only)).saturating_add(RESUME_US);
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
