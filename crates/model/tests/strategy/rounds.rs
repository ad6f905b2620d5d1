//! When a running pre-copy is stopped, and what is done when it does not converge.

use super::MIB;
use ferry_model::strategy::convergence::{Limits, Next, Stuck, next};
use ferry_model::strategy::measured::{Measured, Round};
use ferry_model::strategy::remedy::{Instead, Possible, Remedy, SHARE_MIN_PERCENT, Wish, choose};
use proptest::prelude::*;

const MEASURED: Measured = Measured {
    bytes: 1024 * MIB,
    bytes_in_pause: 0,
    dirty_bytes_per_s: 78 * MIB,
    working_set_bytes: 1024 * MIB,
    bandwidth_bytes_per_s: 1024 * MIB,
    fixed_us: 4000,
    fault_us: 100,
};

/// Rounds that find `dirty` MiB each, over the link of [`MEASURED`].
fn rounds(dirty_mib: &[u64]) -> Vec<Round> {
    let mut before_us = 0;
    let mut all = Vec::new();
    for (number, mib) in dirty_mib.iter().enumerate() {
        let duration_us = MEASURED.time_us(mib * MIB);
        all.push(Round {
            number: number as u32,
            dirty_bytes: mib * MIB,
            sent_bytes: mib * MIB,
            since_scan_us: before_us,
            duration_us,
            ..Round::default()
        });
        before_us = duration_us;
    }
    all
}

#[test]
fn it_stops_when_the_rest_fits() {
    let limits = Limits::default();
    assert!(matches!(next(&MEASURED, &limits, &[]), Next::Another { downtime_us: 1_004_000 }));
    assert!(matches!(next(&MEASURED, &limits, &rounds(&[1024])), Next::Another { .. }));
    let hasty = Limits { rounds_max: 2, ..limits };
    let fits = |limits: &Limits, rounds: &[Round]| {
        matches!(next(&MEASURED, limits, rounds), Next::Last { downtime_us: 4000..10_000 })
    };
    assert!(fits(&hasty, &rounds(&[1024, 78])));
    // What cannot be tracked counts.
    let mut held_back = rounds(&[1024, 78]);
    held_back[1].held_back_bytes = 10 * MIB;
    assert!(!fits(&hasty, &held_back));
    // So does what could not be read.
    let mut skipped = rounds(&[1024, 78]);
    skipped[1].skipped_bytes = 10 * MIB;
    assert!(!fits(&hasty, &skipped));
}

#[test]
fn short_rounds_go_on_while_they_leave_clearly_less() {
    let limits = Limits::default();
    let last = |limits: &Limits, dirty_kib: &[u64]| {
        let mut rounds = rounds(&vec![1024; dirty_kib.len()]);
        for (round, kib) in rounds.iter_mut().zip(dirty_kib) {
            (round.dirty_bytes, round.since_scan_us) = (kib << 10, (kib << 10) * 1_000_000 / (78 * MIB));
            round.duration_us = 3_000 + MEASURED.time_us(kib << 10);
        }
        matches!(next(&MEASURED, limits, &rounds), Next::Last { .. })
    };
    const ALL: u64 = 1 << 20;
    assert!(!last(&limits, &[ALL, 78 << 10]), "it is not known yet what a short round finds");
    assert!(!last(&limits, &[ALL, 78 << 10, 8 << 10]));
    assert!(!last(&limits, &[ALL, 78 << 10, 8 << 10, 3 << 10]));
    assert!(last(&limits, &[ALL, 78 << 10, 8 << 10, 3 << 10, 2700]), "hardly less");
    assert!(last(&limits, &[ALL, 78 << 10, 8 << 10, 12]), "hardly anything");
    let patient = Limits { downtime_us_max: 1_000_000, ..limits };
    assert!(last(&patient, &[ALL, 600 << 10]), "who waits for that long anyway wants few bytes sent");
    assert!(last(&Limits { rounds_max: 3, ..limits }, &[ALL, 78 << 10, 8 << 10]), "no more are allowed");
}

#[test]
fn it_is_stuck_for_a_reason() {
    let limits = Limits::default();
    let why = |limits: &Limits, rounds: &[Round]| match next(&MEASURED, limits, rounds) {
        Next::Stuck { why, .. } => Some(why),
        _ => None,
    };
    let flat = rounds(&[1024, 500, 495, 490]);
    assert_eq!(why(&limits, &flat[..3]), None, "one round without progress may be chance");
    assert_eq!(why(&limits, &flat), Some(Stuck::NoProgress(490 * MIB)));
    let slow = rounds(&[1024, 800, 600, 450, 330]);
    assert_eq!(why(&limits, &slow), None);
    assert_eq!(why(&Limits { rounds_max: 5, ..limits }, &slow), Some(Stuck::Rounds(5)));
    assert_eq!(why(&Limits { time_us_max: 2_000_000, ..limits }, &slow), Some(Stuck::Time(2_000_000)));
    assert_eq!(Stuck::Rounds(5).to_string(), "5 rounds were not enough");
}

#[test]
fn the_wish_is_followed_where_it_is_possible() {
    let stuck = Stuck::Rounds(30);
    let ask = |wish, post_copy, share_percent| {
        let choice = choose(wish, stuck, &MEASURED, MIB, Possible { post_copy, share_percent });
        (choice.remedy, choice.instead)
    };
    assert_eq!(ask(Wish::Switch, true, 100), (Remedy::Switch, None));
    assert_eq!(ask(Wish::Switch, false, 100), (Remedy::Stop, Some(Instead::NoPostCopy)));
    assert_eq!(ask(Wish::Throttle, false, 100), (Remedy::Throttle { share_percent: 75 }, None));
    assert_eq!(ask(Wish::Throttle, false, SHARE_MIN_PERCENT), (Remedy::Stop, Some(Instead::ThrottledEnough)));
    assert_eq!(ask(Wish::Stop, true, 100), (Remedy::Stop, None));
    assert_eq!(ask(Wish::GiveUp, true, 100), (Remedy::GiveUp, None));
    let choice =
        choose(Wish::Switch, stuck, &MEASURED, MIB, Possible { post_copy: false, share_percent: 100 });
    assert_eq!(
        choice.to_string(),
        "30 rounds were not enough; post-copy is not possible here, so the rest travels while it stands still"
    );
}

#[test]
fn unless_told_otherwise_it_goes_over_to_post_copy_only_where_a_stop_would_take_longer() {
    let ask = |dirty_bytes, post_copy| {
        let possible = Possible { post_copy, share_percent: 100 };
        let choice = choose(Wish::default(), Stuck::Rounds(30), &MEASURED, dirty_bytes, possible);
        (choice.remedy, choice.instead)
    };
    assert_eq!(ask(13 * MIB, true), (Remedy::Stop, Some(Instead::StopIsShorter)));
    assert_eq!(ask(200 * MIB, true), (Remedy::Switch, None));
    assert_eq!(ask(13 * MIB, false), (Remedy::Stop, None), "nothing else was to be compared");
    assert_eq!(ask(200 * MIB, false), (Remedy::Stop, Some(Instead::NoPostCopy)));
}

proptest! {
    /// Whatever the measurements say, a pre-copy is stopped, and a throttled one does not throttle for ever.
    #[test]
    fn it_always_ends(dirty in proptest::collection::vec(0..2048_u64, 1..60), rounds_max in 1..40_u32) {
        let limits = Limits { rounds_max, ..Limits::default() };
        let all = rounds(&dirty);
        let ended = (1..=all.len()).find(|count| {
            !matches!(next(&MEASURED, &limits, &all[..*count]), Next::Another { .. })
        });
        prop_assert!(ended.map_or(all.len(), |count| count) <= rounds_max as usize);
    }

    #[test]
    fn throttling_goes_down_to_its_end(dirty in 0..10_000 * MIB, bandwidth in 0..10_000 * MIB) {
        let measured = Measured { dirty_bytes_per_s: dirty, bandwidth_bytes_per_s: bandwidth, ..MEASURED };
        let mut share = 100;
        for _ in 0..20 {
            let possible = Possible { post_copy: false, share_percent: share };
            match choose(Wish::Throttle, Stuck::Rounds(1), &measured, MIB, possible).remedy {
                Remedy::Throttle { share_percent } => {
                    prop_assert!(share_percent < share && share_percent >= SHARE_MIN_PERCENT);
                    share = share_percent;
                }
                other => {
                    prop_assert_eq!((other, share), (Remedy::Stop, SHARE_MIN_PERCENT));
                    return Ok(());
                }
            }
        }
        prop_assert!(false, "it never ends");
    }
}
