//! Hybrid: rounds while it runs, as long as each leaves much less than the one before, then post-copy of what was dirtied in the last of
//! them. The pause of post-copy, with as few faults as rounds can leave. What was sent and dirtied again is given back at the target before
//! the pause.
//!
//! A writer that is faster than the link gets one round: what a second one sent would be written again as well. Where rounds do get smaller,
//! the next one is faster than what it spares: a round carries several times as much in a second as pages that follow one by one, and the
//! pause has to name every piece that follows.

use super::measured::{Measured, PAGE_BYTES};
use super::post_copy;
use super::prediction::{Method, Prediction};

/// So little may follow. In single pages it is named in 3 ms (0.3 µs each: 670 MiB in 170,000 pieces took 55), and in a second it is
/// there.
const ENOUGH_BYTES: u64 = 32 << 20;

/// Giving back a page that is missing again, microseconds, while it still runs: 2.5 to 3.3 were measured for 880 MiB in some 40,000 pieces
/// on a machine that others wanted.
const GIVE_BACK_US: u64 = 3;

/// Whether another round is worth it after one that sent `sent_bytes`, when `due_bytes` are to be sent again.
#[must_use]
pub fn is_worth_another(due_bytes: u64, sent_bytes: u64) -> bool {
    due_bytes > ENOUGH_BYTES && due_bytes <= sent_bytes / 2
}

/// What it costs.
#[must_use]
pub fn predict(measured: &Measured) -> Prediction {
    let tracked = Measured { bytes: measured.bytes.saturating_sub(measured.bytes_in_pause), ..*measured };
    let (mut due, mut rounds, mut rounds_us, mut sent_bytes) = (tracked.bytes, 0, 0_u64, 0_u64);
    loop {
        let (sent, round_us) = (due, tracked.time_us(due));
        rounds += 1;
        rounds_us = rounds_us.saturating_add(round_us);
        sent_bytes = sent_bytes.saturating_add(sent);
        due = tracked.dirty_after(round_us);
        if !is_worth_another(due, sent) {
            break;
        }
    }
    let rest = post_copy::after(measured, due, Method::Hybrid);
    let given_back_us = due.div_ceil(PAGE_BYTES).saturating_mul(GIVE_BACK_US);
    Prediction {
        rounds,
        total_us: rounds_us.saturating_add(rest.total_us).saturating_add(given_back_us),
        sent_bytes: sent_bytes.saturating_add(rest.sent_bytes),
        ..rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn writer(dirty_bytes_per_s: u64, bandwidth_bytes_per_s: u64) -> Measured {
        let (bytes, working_set_bytes) = (8 * GIB, 8 * GIB);
        Measured { bytes, working_set_bytes, dirty_bytes_per_s, bandwidth_bytes_per_s, ..Measured::default() }
    }

    #[test]
    fn rounds_go_on_while_they_get_smaller_and_until_little_is_left() {
        let slow = predict(&writer(80 << 20, 400 << 20));
        assert_eq!(slow.rounds, 4, "1.5 GiB, 310 and 62 MiB are worth a round each; 12 are not");
        let one = 8 * GIB + (8 * GIB) / 5;
        assert!(slow.sent_bytes < one + one / 8, "{slow:?}");
        let idle = predict(&writer(0, 400 << 20));
        assert_eq!((idle.rounds, idle.sent_bytes), (1, 8 * GIB));
    }

    #[test]
    fn who_writes_faster_than_the_link_gets_one_round() {
        assert_eq!(predict(&writer(240 << 20, 128 << 20)).rounds, 1);
    }

    #[test]
    fn a_round_has_to_halve_what_is_left() {
        assert!(is_worth_another(GIB, 2 * GIB));
        assert!(!is_worth_another(GIB + 1, 2 * GIB));
        assert!(!is_worth_another(ENOUGH_BYTES, u64::MAX));
        assert!(is_worth_another(ENOUGH_BYTES + 1, u64::MAX));
    }
}
