//! What `auto` says to workloads that one can imagine.

use super::{MIB, can};
use ferry_model::strategy::auto::{self, Reason};
use ferry_model::strategy::convergence::Limits;
use ferry_model::strategy::measured::Measured;
use ferry_model::strategy::prediction::Method;

fn measured(mib: u64, dirty_mib_per_s: u64, set_mib: u64, bandwidth_mib_per_s: u64) -> Measured {
    Measured {
        bytes: mib * MIB,
        bytes_in_pause: 0,
        dirty_bytes_per_s: dirty_mib_per_s * MIB,
        working_set_bytes: set_mib * MIB,
        bandwidth_bytes_per_s: bandwidth_mib_per_s * MIB,
        fixed_us: 4000,
        fault_us: 100,
    }
}

#[test]
fn auto_names_the_method_and_the_reason() {
    let limits = Limits::default();
    let rows = [
        // Small programs: 2 MiB over 1 GiB/s are 2 ms.
        (measured(2, 100, 2, 1024), can(true, true), Method::StopAndCopy, Reason::Small),
        // 20,000 pages/s in 1 GiB over 10 Gbit/s.
        (measured(1024, 78, 1024, 1200), can(true, true), Method::PreCopy, Reason::Converges),
        // A hot MiB, written faster than the link carries.
        (measured(1024, 2000, 1, 1200), can(true, true), Method::PreCopy, Reason::Fits),
        // 60,000 pages/s at 128 MiB/s over all memory: a round leaves most of it dirty.
        (measured(1024, 234, 1024, 128), can(true, true), Method::PostCopy, Reason::DirtiesNearlyAll),
        // The same within 16 MiB: a round sends all the others.
        (measured(1024, 234, 16, 128), can(true, true), Method::Hybrid, Reason::DirtiesTooFast),
        // And within 64.
        (measured(1024, 234, 64, 128), can(true, true), Method::Hybrid, Reason::DirtiesTooFast),
        // It may not depend on two hosts, so the pause is longer.
        (measured(1024, 234, 1024, 128), can(true, false), Method::PreCopy, Reason::ShortestPause),
        (measured(1024, 78, 1024, 1200), can(false, true), Method::PostCopy, Reason::NoTracking),
        (measured(1024, 78, 1024, 1200), can(false, false), Method::StopAndCopy, Reason::NoTracking),
    ];
    for (number, (measured, can, method, reason)) in rows.into_iter().enumerate() {
        let choice = auto::choose(&measured, &limits, can);
        assert_eq!((choice.prediction.method, choice.reason), (method, reason), "row {number}: {choice}");
    }
}

#[test]
fn the_reason_is_a_sentence() {
    let choice = auto::choose(&measured(1024, 78, 1024, 1200), &Limits::default(), can(true, true));
    assert_eq!(
        choice.to_string(),
        "pre-copy, at most 10.0 ms of standstill: the link carries more than is dirtied"
    );
}

#[test]
fn what_cannot_be_tracked_travels_in_the_pause() {
    let free = measured(1024, 0, 0, 1024);
    let bound = Measured { bytes_in_pause: 512 * MIB, ..free };
    let downtime = |measured| {
        let all = auto::all(&measured, &Limits::default());
        all.map(|(_, prediction)| prediction.downtime_us)
    };
    assert_eq!(downtime(free), [1_004_000, 4000, 24_000, 24_000]);
    assert_eq!(downtime(bound), [1_004_000, 504_000, 524_000, 524_000]);
}
