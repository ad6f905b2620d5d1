//! The driver of a handover, crashed before and after every single effect, over a channel that loses, doubles and reorders.
//!
//! The model checker tries every order of the machines; this runs the production driver that carries their effects out. A run
//! follows from its seed. First without a crash, to count its effects; then once for each of them, with a crash there, and the
//! host goes on from what its journal holds. In every run: never two copies run, no old one is resumed, no last one destroyed; and
//! when nothing fails any more the move ends with exactly one copy running and nothing left over.

mod world;

use world::{Chaos, Fate, Run};

/// Seeds of each test: some thousands of runs, in a few seconds.
const SEEDS: u64 = if cfg!(debug_assertions) { 10 } else { 60 };

/// Counts the effects of a run with `chaos`, then repeats it with a crash before each of them (the last one: after all).
fn at_every_effect(chaos: Chaos, fate: Fate) -> u64 {
    let mut runs = 0;
    for seed in 0..SEEDS {
        let effects = Run::new(seed, chaos).play(&[]).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert!(effects >= 15, "a whole move has more effects than {effects}");
        for at in 0..=effects {
            let crashes = [(at, fate)];
            let played = Run::new(seed, chaos).play(&crashes);
            assert!(
                played.is_ok(),
                "seed {seed}, {fate:?} at effect {at} of {effects}: {}",
                played.unwrap_err()
            );
            runs += 1;
        }
    }
    runs
}

#[test]
fn a_crash_at_every_effect_of_a_quiet_move() {
    assert!(at_every_effect(Chaos::NONE, Fate::NodeDies) > 900);
}

#[test]
fn a_crash_at_every_effect_while_messages_are_lost_doubled_and_late() {
    at_every_effect(Chaos::NETWORK, Fate::NodeDies);
}

#[test]
fn a_crash_at_every_effect_while_the_decider_is_not_heard_and_acts_fail() {
    at_every_effect(Chaos::ALL, Fate::NodeDies);
}

#[test]
fn a_host_that_restarts_at_every_effect() {
    at_every_effect(Chaos::NETWORK, Fate::HostRestarts);
}

#[test]
fn two_crashes_in_one_move() {
    for seed in 0..SEEDS {
        let effects = Run::new(seed, Chaos::ALL).play(&[]).unwrap();
        for first in 0..effects {
            let crashes = [(first, Fate::NodeDies), (first + 1 + seed % 7, Fate::NodeDies)];
            let played = Run::new(seed, Chaos::ALL).play(&crashes);
            assert!(played.is_ok(), "seed {seed}, crashes {crashes:?}: {}", played.unwrap_err());
        }
    }
}

/// The test can fail: a journal in which one step never is lets an old copy run, two of them, or none.
#[test]
fn a_journal_that_forgets_is_found() {
    for step in ["DECIDING", "PREPARED"] {
        let fails = |seed: u64, at: u64| {
            Run::forgetting(seed, Chaos::ALL, step).play(&[(at, Fate::NodeDies)]).is_err()
        };
        assert!((0..SEEDS).any(|seed| (0..40).any(|at| fails(seed, at))), "{step}");
    }
}
