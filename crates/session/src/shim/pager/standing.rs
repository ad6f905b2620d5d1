//! How far the pager is: words in memory that it shares with the shim, which answers for it without waiting.

use crate::shim::protocol::{PagerStatus, STREAMS_MAX};
use ferry_model::ids::Hash;
use ferry_sys::userfaultfd::{EventLog, WORDS};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

// Which word is what.
const STEP: usize = 0;
const MISSING: usize = 1;
const PLACED: usize = 2;
const FAULTS: usize = 3;
const CONNECTED: usize = 4;
const RESTARTS: usize = 5;
const RELEASED: usize = 6;
const HASH: usize = 8;
/// Number of the last ways that were given, how many they are, and their numbers in the table.
const WAYS_GIVEN: usize = 12;
const WAYS_COUNT: usize = 13;
const WAYS: usize = 14;
/// Number of the last ways that the pager has closed.
const WAYS_CLOSED: usize = 31;
const HISTOGRAM: usize = 32;
const BUCKETS: usize = 80;
/// Length of a text and the text.
const FAILED: usize = 112;
const FAILED_BYTES: usize = 15 * 8;

/// Where the pager stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Pages are missing.
    Fetching,
    /// None is; the source has not agreed yet.
    AllIn,
    /// It has.
    Agreed,
}

/// The words by their meaning.
#[derive(Clone, Copy)]
pub(super) struct Standing<'a>(pub(super) &'a EventLog);

impl Standing<'_> {
    pub(super) fn step(self) -> Step {
        match self.0.word(STEP).load(Acquire) {
            0 => Step::Fetching,
            1 => Step::AllIn,
            _ => Step::Agreed,
        }
    }

    pub(super) fn set_step(self, step: Step) {
        self.0.word(STEP).store(step as u64, Release);
    }

    pub(super) fn set_missing(self, bytes: u64) {
        self.0.word(MISSING).store(bytes, Relaxed);
    }

    pub(super) fn add_placed(self, bytes: u64) {
        self.0.word(PLACED).fetch_add(bytes, Relaxed);
    }

    pub(super) fn add_fault(self) {
        self.0.word(FAULTS).fetch_add(1, Relaxed);
    }

    pub(super) fn set_connected(self, connected: bool) {
        self.0.word(CONNECTED).store(u64::from(connected), Relaxed);
    }

    pub(super) fn add_restart(self) {
        self.0.word(RESTARTS).fetch_add(1, Relaxed);
    }

    pub(super) fn restarts(self) -> u64 {
        self.0.word(RESTARTS).load(Relaxed)
    }

    /// Init holds no copies any more: the pager may let go.
    pub(super) fn set_released(self) {
        self.0.word(RELEASED).store(1, Release);
    }

    pub(super) fn is_released(self) -> bool {
        self.0.word(RELEASED).load(Acquire) == 1
    }

    pub(super) fn set_hash(self, hash: Hash) {
        for (at, word) in hash.0.chunks_exact(8).enumerate() {
            self.0.word(HASH + at).store(word.try_into().map_or(0, u64::from_le_bytes), Relaxed);
        }
    }

    pub(super) fn hash(self) -> Hash {
        let mut hash = [0; 32];
        for (at, place) in hash.chunks_exact_mut(8).enumerate() {
            place.copy_from_slice(&self.0.word(HASH + at).load(Relaxed).to_le_bytes());
        }
        Hash(hash)
    }

    /// New ways to the source, by their numbers in the table.
    pub(super) fn give_ways(self, numbers: &[i32]) {
        for (at, number) in numbers.iter().take(STREAMS_MAX as usize).enumerate() {
            self.0.word(WAYS + at).store(u64::from(number.cast_unsigned()), Relaxed);
        }
        self.0.word(WAYS_COUNT).store(numbers.len() as u64, Relaxed);
        self.0.word(WAYS_GIVEN).fetch_add(1, Release);
    }

    /// The ways that were given last are closed next: their numbers may be another's then.
    pub(super) fn set_ways_closed(self, given: u64) {
        self.0.word(WAYS_CLOSED).store(given, Release);
    }

    /// Takes over what another table's shim and pager have counted. Ways have no numbers here.
    pub(super) fn copy(self, before: Standing<'_>) {
        for at in 0..WORDS {
            self.0.word(at).store(before.0.word(at).load(Acquire), Release);
        }
        self.set_ways_closed(self.0.word(WAYS_GIVEN).load(Acquire));
        self.set_connected(false);
    }

    /// How often ways were given, and the last of them, where they are still open.
    pub(super) fn ways(self) -> (u64, Vec<i32>) {
        let given = self.0.word(WAYS_GIVEN).load(Acquire);
        if self.0.word(WAYS_CLOSED).load(Acquire) == given {
            return (given, Vec::new());
        }
        let count = (self.0.word(WAYS_COUNT).load(Relaxed) as usize).min(STREAMS_MAX as usize);
        let number = |at| (self.0.word(WAYS + at).load(Relaxed) as u32).cast_signed();
        (given, (0..count).map(number).collect())
    }

    /// Somebody waited so long for a page.
    pub(super) fn add_wait(self, waited: Duration) {
        let us = waited.as_micros().max(1) as f64;
        let bucket = ((us.log2() * 4.0) as usize).min(BUCKETS - 1);
        self.0.word(HISTOGRAM + bucket).fetch_add(1, Relaxed);
    }

    /// Microseconds that this part of all waits took at most, in steps of a fifth.
    fn waited_us(self, part: f64) -> u64 {
        let counts: Vec<u64> = (0..BUCKETS).map(|at| self.0.word(HISTOGRAM + at).load(Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let wanted = (all as f64 * part).ceil() as u64;
        let mut sum = 0;
        for (bucket, count) in counts.iter().enumerate() {
            sum += count;
            if all > 0 && sum >= wanted.max(1) {
                return 2f64.powf((bucket + 1) as f64 / 4.0).round() as u64;
            }
        }
        0
    }

    /// Why nothing goes on. Cut to what fits.
    pub(super) fn set_failed(self, why: &str) {
        let mut end = why.len().min(FAILED_BYTES);
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        for (at, part) in why.as_bytes()[..end].chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0.word(FAILED + 1 + at).store(u64::from_le_bytes(word), Relaxed);
        }
        self.0.word(FAILED).store(end as u64, Release);
    }

    fn failed(self) -> Option<String> {
        let len = (self.0.word(FAILED).load(Acquire) as usize).min(FAILED_BYTES);
        let words = (0..len.div_ceil(8)).map(|at| self.0.word(FAILED + 1 + at).load(Relaxed));
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.truncate(len);
        (len > 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn status(self) -> PagerStatus {
        PagerStatus {
            missing_bytes: self.0.word(MISSING).load(Relaxed),
            placed_bytes: self.0.word(PLACED).load(Relaxed),
            faults: self.0.word(FAULTS).load(Relaxed),
            fault_us_median: self.waited_us(0.5),
            fault_us_p99: self.waited_us(0.99),
            connected: self.0.word(CONNECTED).load(Relaxed) == 1,
            complete: (self.step() == Step::Agreed).then(|| self.hash()),
            restarts: self.restarts() as u32,
            failed: self.failed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pager_writes_the_shim_reads() {
        let (log, file) = EventLog::create().unwrap();
        let other = EventLog::open(std::os::fd::AsFd::as_fd(&file)).unwrap();
        let (pager, shim) = (Standing(&log), Standing(&other));
        assert_eq!(shim.status(), PagerStatus::default());
        for us in 1..=100 {
            pager.add_wait(Duration::from_micros(us * 10));
            pager.add_fault();
        }
        let hash = Hash::of(b"all");
        pager.set_hash(hash);
        pager.set_step(Step::AllIn);
        assert_eq!(shim.status().complete, None);
        pager.set_step(Step::Agreed);
        pager.set_connected(true);
        pager.set_failed(&"ä".repeat(100));
        let status = shim.status();
        assert_eq!((status.faults, status.complete, status.connected), (100, Some(hash), true));
        assert!((450..=620).contains(&status.fault_us_median), "{status:?}");
        assert!((950..=1250).contains(&status.fault_us_p99), "{status:?}");
        assert_eq!(status.failed, Some("ä".repeat(60)));
        shim.give_ways(&[5, 9]);
        assert_eq!(pager.ways(), (1, vec![5, 9]));
    }
}
