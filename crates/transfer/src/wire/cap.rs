//! A limit on the bytes per second of all streams together.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How much may go at once after a silence: what the limit gives in this time.
const BURST: Duration = Duration::from_millis(50);

/// Tokens are bytes: who takes more than there are waits until they would be there.
#[derive(Debug)]
pub struct Cap {
    bytes_per_s: u64,
    /// When everything that was taken so far has been paid for.
    paid: Mutex<Instant>,
}

impl Cap {
    /// At most `bytes_per_s`; 0 counts as 1.
    #[must_use]
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), paid: Mutex::new(Instant::now()) }
    }

    /// How many bytes go at once for nobody to wait for long, at most.
    pub(super) fn piece(&self) -> u64 {
        (self.bytes_per_s as f64 * BURST.as_secs_f64()) as u64
    }

    /// Takes `bytes`: how long to wait before they may go.
    pub(super) fn take(&self, bytes: u64, now: Instant) -> Duration {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        let Ok(mut paid) = self.paid.lock() else { return Duration::ZERO };
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = (*paid).max(earliest);
        *paid = start + cost;
        start.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_paid_for_and_silence_saves_little() {
        let cap = Cap::new(1_000_000);
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        assert!(cap.take(100_000, at(0)) <= Duration::from_millis(1));
        let wait = cap.take(100_000, at(0));
        assert!(wait >= Duration::from_millis(49) && wait <= Duration::from_millis(101), "{wait:?}");
        // A minute later there are no more than 50 ms worth of it.
        assert_eq!(cap.take(100_000, at(60_000)), Duration::ZERO);
        assert_eq!(cap.take(1, at(60_000)), Duration::from_millis(50));
    }
}
