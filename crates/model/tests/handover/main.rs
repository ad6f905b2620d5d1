//! The handover, checked in every state that two hosts, a decider and a bad network can get into.
//!
//! Every message may be lost, doubled, late or out of order; each node may die between any two effects and come back; hosts
//! restart (frozen copies are gone); the decider's answers get lost and its changes come late; moves are cancelled at any
//! time; a target cannot start. Bounded by how often each may happen; `FERRY_SOAK=1` raises the bounds.

mod alone;
mod checker;
mod images;
mod mutation;
mod world;

use checker::Checker;
use mutation::Mutation;
use stateright::{Checker as _, DiscoveryClassification, HasDiscoveries, Model};
use std::time::{Duration, Instant};
use world::{Config, Faults};

/// Every state.
fn check(what: &str, config: Config) {
    check_within(what, config, Duration::from_secs(1800));
}

/// Every state, or as many as fit into this time, from the nearest on.
fn check_within(what: &str, config: Config, time_max: Duration) {
    let start = Instant::now();
    let checked = Checker(config).checker().threads(2).timeout(time_max).spawn_bfs().join();
    println!(
        "{what}: {} states ({} transitions, depth {}) in {:.1} s",
        checked.unique_state_count(),
        checked.state_count(),
        checked.max_depth(),
        start.elapsed().as_secs_f64()
    );
    for (name, path) in checked.discoveries() {
        if matches!(checked.discovery_classification(name), DiscoveryClassification::Counterexample) {
            panic!("{what}: {name} does not hold:\n{}", steps(path));
        }
    }
    checked.assert_properties();
}

/// The way into a state, for whoever has to understand it.
fn steps(path: stateright::Path<world::World, checker::Action>) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (world, action) in path.into_vec() {
        for host in &world.hosts {
            let stage = host.role.as_ref().map_or("-", |role| role.seen().stage());
            let up = if host.up { "" } else { " (down)" };
            let _ = write!(text, "{stage}{up}, {:?}, waits for {:?}; ", host.copy, host.waiting);
        }
        let _ = writeln!(text, "gone {} {:?}", world.gone, world.broken);
        if let Some(checker::Action { event, cut }) = action {
            let event = match event {
                checker::Event::Deliver(to, message) => format!("deliver to {to} {:?}", message.body),
                event => format!("{event:?}"),
            };
            let _ = writeln!(
                text,
                "    {event} {}",
                cut.map_or(String::new(), |cut| format!("and crash after {cut}"))
            );
        }
    }
    text
}

const NONE: Faults = Faults {
    moves: 1,
    crashes: 0,
    reboots: 0,
    kills: 0,
    unknowns: 0,
    cancels: 0,
    cannot_starts: 0,
    fences: 0,
};

/// One of each fault, in any order, at any time of one move.
const ONE_OF_EACH: Faults =
    Faults { crashes: 1, reboots: 1, kills: 1, unknowns: 1, cancels: 1, cannot_starts: 1, fences: 1, ..NONE };

/// Again after a cancel, or there and back: what is late from the first move meets the second.
const TWO_MOVES: Faults = Faults { moves: 2, crashes: 1, cancels: 1, unknowns: 1, ..NONE };

fn config(embedded: bool, post_copy: bool, faults: Faults) -> Config {
    Config { embedded, post_copy, follow: post_copy, clone: false, faults, mutation: Mutation::None }
}

#[test]
fn the_owners_journal_decides() {
    check("pre-copy, embedded decider, one of each fault", config(true, false, ONE_OF_EACH));
}

#[test]
fn a_decider_of_its_own_decides() {
    check("pre-copy, separate decider, one of each fault", config(false, false, ONE_OF_EACH));
}

#[test]
fn post_copy_with_the_owners_journal() {
    check("post-copy, embedded decider, one of each fault", config(true, true, ONE_OF_EACH));
}

#[test]
fn post_copy_with_a_decider_of_its_own() {
    check("post-copy, separate decider, one of each fault", config(false, true, ONE_OF_EACH));
}

/// Allowed to leave pages behind, and all of them were sent: safe as a pre-copy, with its source's copy gone too.
#[test]
fn what_may_leave_pages_behind_and_does_not_is_a_pre_copy() {
    for embedded in [true, false] {
        let config = Config { follow: false, ..config(embedded, true, ONE_OF_EACH) };
        check("pages may follow and none does, one of each fault", config);
    }
}

#[test]
fn a_clone_never_costs_its_original() {
    let faults = Faults { fences: 0, ..ONE_OF_EACH };
    check("clone, one of each fault", Config { clone: true, ..config(true, false, faults) });
}

#[test]
fn nodes_die_twice() {
    let faults = Faults { crashes: 2, unknowns: 1, cancels: 1, cannot_starts: 1, ..NONE };
    check("pre-copy, embedded decider, two crashes", config(true, false, faults));
    check("post-copy, separate decider, two crashes", config(false, true, faults));
}

#[test]
fn a_second_move_meets_what_is_late_from_the_first() {
    check("two moves, embedded decider", config(true, false, TWO_MOVES));
    check("two post-copy moves, separate decider", config(false, true, TWO_MOVES));
}

/// One suspension and what may follow: two restores, at either host, at once.
const IMAGE: images::Left = images::Left {
    suspends: 1,
    restores: 2,
    crashes: 1,
    reboots: 0,
    kills: 0,
    unknowns: 1,
    cancels: 1,
    cannot_starts: 1,
};

fn check_images(what: &str, config: images::Config) {
    let start = Instant::now();
    let checked =
        images::Images(config).checker().threads(2).timeout(Duration::from_secs(1800)).spawn_bfs().join();
    println!(
        "{what}: {} states ({} transitions, depth {}) in {:.1} s",
        checked.unique_state_count(),
        checked.state_count(),
        checked.max_depth(),
        start.elapsed().as_secs_f64()
    );
    for (name, path) in checked.discoveries() {
        if matches!(checked.discovery_classification(name), DiscoveryClassification::Counterexample) {
            panic!("{what}: {name} does not hold:\n{path}");
        }
    }
    checked.assert_properties();
}

#[test]
fn an_image_is_restored_once_whatever_fails() {
    for embedded in [true, false] {
        let check = |what: &str, left| {
            let config = images::Config { embedded, left, broken: images::Broken::Nothing };
            check_images(&format!("an image, embedded {embedded}, {what}"), config);
        };
        check("a crash, an answer lost, cannot start", IMAGE);
        let no = images::Left { crashes: 0, cannot_starts: 0, ..IMAGE };
        check("a restart of a host, a copy killed", images::Left { reboots: 1, kills: 1, ..no });
        if std::env::var_os("FERRY_SOAK").is_some() {
            let all = images::Left { reboots: 1, kills: 1, ..IMAGE };
            check("one of each fault", all);
        }
    }
}

#[test]
fn a_second_image_meets_what_is_late_from_the_first() {
    let left = images::Left { suspends: 2, cannot_starts: 0, ..IMAGE };
    for embedded in [true, false] {
        let config = images::Config { embedded, left, broken: images::Broken::Nothing };
        check_images(&format!("two suspensions, embedded {embedded}"), config);
    }
}

#[test]
fn broken_rules_of_images_are_noticed() {
    use images::Broken;
    let left = images::Left { cancels: 0, kills: 0, ..IMAGE };
    for broken in [
        Broken::SuspendThawsInDoubt,
        Broken::SuspendDestroysEarly,
        Broken::SuspendingNotJournalled,
        Broken::RestoreStartsUnasked,
        Broken::StartingNotJournalled,
        Broken::NotPutBack,
    ] {
        for embedded in [true, false] {
            let config = images::Config { embedded, left, broken };
            let checker = images::Images(config).checker().threads(2);
            let checked = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
            let found = checked.discoveries().into_keys().any(|name| {
                matches!(checked.discovery_classification(name), DiscoveryClassification::Counterexample)
            });
            let states = checked.unique_state_count();
            assert!(found, "{broken:?} (embedded {embedded}) went unnoticed in {states} states");
        }
    }
}

/// For each of the larger bounds: what is known of its states is 12 GiB by then.
const SOAK: Duration = Duration::from_secs(120);

/// The larger bounds of `cargo xtask soak`.
#[test]
fn soak() {
    if std::env::var_os("FERRY_SOAK").is_none() {
        println!("set FERRY_SOAK=1 for the larger bound");
        return;
    }
    for (embedded, post_copy) in [(true, false), (false, false), (true, true), (false, true)] {
        let what = format!("embedded {embedded}, post-copy {post_copy}");
        let twice = Faults { crashes: 2, reboots: 2, ..ONE_OF_EACH };
        check_within(&format!("{what}, two crashes and restarts"), config(embedded, post_copy, twice), SOAK);
        let again = Faults { moves: 2, ..ONE_OF_EACH };
        check_within(
            &format!("{what}, two moves, one of each fault"),
            config(embedded, post_copy, again),
            SOAK,
        );
    }
}

/// Breaks a rule and expects the checker to notice.
fn noticed(mutation: Mutation, post_copy: bool, faults: Faults) {
    for embedded in [true, false] {
        let config = Config { embedded, post_copy, follow: post_copy, clone: false, faults, mutation };
        let checked =
            Checker(config).checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checked.discoveries().into_keys().any(|name| {
            matches!(checked.discovery_classification(name), DiscoveryClassification::Counterexample)
        });
        assert!(
            found,
            "{mutation:?} (embedded {embedded}) went unnoticed in {} states",
            checked.unique_state_count()
        );
    }
}

#[test]
fn broken_rules_are_noticed() {
    let crash = Faults { crashes: 1, ..NONE };
    let unknown = Faults { unknowns: 1, ..NONE };
    let both = Faults { crashes: 1, unknowns: 1, cancels: 1, ..NONE };
    noticed(Mutation::TargetDiscardsOnTimeout, false, crash);
    noticed(Mutation::SourceThawsInDoubt, false, unknown);
    noticed(Mutation::SourceCancelsLate, false, unknown);
    noticed(Mutation::DecidingNotJournalled, false, both);
    noticed(Mutation::ThawBeforeStarting, false, Faults { cannot_starts: 1, ..crash });
    noticed(Mutation::StartingNotJournalled, false, Faults { cannot_starts: 1, ..crash });
    noticed(Mutation::TargetStartsUnasked, false, Faults { cancels: 1, ..NONE });
    noticed(Mutation::SourceDestroysEarly, false, Faults { cannot_starts: 1, ..NONE });
    noticed(Mutation::AbortedNotJournalled, false, Faults { reboots: 1, ..both });
    noticed(Mutation::PreparedNotJournalled, false, crash);
    noticed(Mutation::PagesDroppedAtRunning, true, NONE);
}
