//! What is measured before and during a move, and how much is dirty after some time.
//!
//! Programs do not dirty fresh pages for ever: they write to a working set again and again. With rate `r` and working set `w`
//! (bytes) about `w (1 - e^(-r t / w))` is dirty after `t`: `r t` at first, never more than `w`.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Size of a page, bytes.
pub const PAGE_BYTES: u64 = 4096;

/// Bytes per second below which a link counts as this fast: predictions stay finite.
const BANDWIDTH_MIN: u64 = 1;

/// A workload, a link and two hosts, as measured.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
pub struct Measured {
    /// Bytes of memory with content.
    #[n(0)]
    pub bytes: u64,
    /// Of these, bytes that must travel before the resume whatever the method: what cannot be tracked, what cannot be missing.
    #[n(1)]
    pub bytes_in_pause: u64,
    /// Bytes dirtied in a second, as seen in a short time: each page counts once.
    #[n(2)]
    pub dirty_bytes_per_s: u64,
    /// Bytes that it writes to at all.
    #[n(3)]
    pub working_set_bytes: u64,
    /// Bytes that the link carries in a second, all streams together.
    #[n(4)]
    pub bandwidth_bytes_per_s: u64,
    /// What every pause costs beside memory: freeze, execution state, commit, resume. Microseconds.
    #[n(5)]
    pub fixed_us: u64,
    /// One fault served over the link, microseconds.
    #[n(6)]
    pub fault_us: u64,
}

impl Measured {
    /// Bytes that are dirty `us` microseconds after all were clean. Never more than the working set or the memory.
    #[must_use]
    pub fn dirty_after(&self, us: u64) -> u64 {
        let set = self.working_set_bytes.min(self.bytes) as f64;
        if set <= 0.0 {
            return 0;
        }
        let written = self.dirty_bytes_per_s as f64 * us as f64 / 1e6;
        // -expm1 keeps its precision where little was written.
        (set * -(-written / set).exp_m1()).ceil().min(set) as u64
    }

    /// Microseconds that `bytes` take over the link, rounded up.
    #[must_use]
    pub fn time_us(&self, bytes: u64) -> u64 {
        let us = u128::from(bytes) * 1_000_000;
        let bandwidth = u128::from(self.bandwidth_bytes_per_s.max(BANDWIDTH_MIN));
        u64::try_from(us.div_ceil(bandwidth)).unwrap_or(u64::MAX)
    }
}

/// One finished round of a pre-copy.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
pub struct Round {
    /// Its number, from 0.
    #[n(0)]
    pub number: u32,
    /// Whether it was the one inside of the pause.
    #[n(1)]
    pub last: bool,
    /// Bytes that the scan at its beginning found dirty.
    #[n(2)]
    pub dirty_bytes: u64,
    /// Bytes whose content was sent.
    #[n(3)]
    pub sent_bytes: u64,
    /// Bytes that were all zero: told, not sent.
    #[n(4)]
    pub zero_bytes: u64,
    /// Bytes that the source had given back: the target was told that they are zero.
    #[n(5)]
    pub discarded_bytes: u64,
    /// Bytes that could not be read when their turn came; they are dirty again.
    #[n(6)]
    pub skipped_bytes: u64,
    /// Bytes that wait for the pause because they cannot be tracked.
    #[n(7)]
    pub held_back_bytes: u64,
    /// Bytes with content that have no place at the target yet; they are sent when it has one.
    #[n(11)]
    pub outside_bytes: u64,
    /// From the scan before to this one, microseconds; 0 for the first.
    #[n(8)]
    pub since_scan_us: u64,
    /// What finding the dirty pages took, microseconds.
    #[n(9)]
    pub scan_us: u64,
    /// The whole round, until the target had everything, microseconds.
    #[n(10)]
    pub duration_us: u64,
}

impl Round {
    /// Bytes dirtied in a second between the two last scans; none for the first round.
    #[must_use]
    pub fn dirty_bytes_per_s(&self) -> Option<u64> {
        per_second(self.dirty_bytes, self.since_scan_us)
    }

    /// Bytes sent in a second; none where nothing was sent.
    #[must_use]
    pub fn bytes_per_s(&self) -> Option<u64> {
        per_second(self.sent_bytes, self.duration_us).filter(|rate| *rate > 0)
    }
}

fn per_second(bytes: u64, us: u64) -> Option<u64> {
    let rate = (u128::from(bytes) * 1_000_000).checked_div(u128::from(us))?;
    Some(u64::try_from(rate).unwrap_or(u64::MAX))
}
