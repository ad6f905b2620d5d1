//! Post-copy's second half, checked in every state: a program with two threads and a child in missing memory, the pager that serves it,
//! the shim and the capsule's init that hold it, too, and the source. Each may die between any two steps, also when the pager has read
//! what happened and has not used it. Nobody may ever read zeros, or anything old, and in the end everything is there.
//!
//! The pager is the real one; the kernel is what was found out about it. Bounded by how often each thing may happen; `FERRY_SOAK=1`
//! raises the bounds.

mod kernel;
mod world;

use stateright::{Checker as _, DiscoveryClassification, HasDiscoveries, Model, Property};
use std::time::{Duration, Instant};
use world::{Action, Broken, Left, World};

/// Steps within which everything is well once nobody dies any more.
const STEPS_MAX: usize = 200;

struct Holders {
    broken: Broken,
    left: Left,
}

impl Holders {
    /// Nothing fails any more, and the program does nothing new: does everything come in?
    fn settles(&self, world: &World) -> bool {
        let mut world = world.clone();
        let nothing = Left { pagers: 0, shims: 0, links: 0, touches: 0, changes: 0, forks: 0 };
        world.left = nothing;
        for _ in 0..STEPS_MAX {
            if world.kernel.broken.is_some() {
                return false;
            }
            if world.is_well() {
                return true;
            }
            // Hearing is always possible, and asked for last.
            let actions = world.actions(self.broken);
            let quiet =
                |action: &&Action| !matches!(action, Action::Hear { .. } | Action::Done | Action::SourceEnds);
            let next = actions.iter().find(quiet).or(actions.first()).cloned();
            let Some(next) = next else { return false };
            world.apply(&next, self.broken);
            // What was told is heard between any two steps.
            if world.pager.is_some() {
                world.apply(&Action::Hear { cut: false }, self.broken);
            }
        }
        false
    }
}

impl Model for Holders {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.broken, self.left)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.kernel.broken.is_none() {
            actions.extend(world.actions(self.broken));
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.apply(&action, self.broken);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nobody reads anything else", |_, world: &World| world.kernel.broken.is_none()),
            Property::always("in the end everything is there", Self::settles),
            Property::sometimes("a child has what was missing", |_, world: &World| {
                world.kernel.memories.len() > 1 && world.is_well() && !world.source
            }),
        ]
    }
}

/// One death of each, and a program that does two things.
const LEFT: Left = Left { pagers: 1, shims: 1, links: 0, touches: 2, changes: 1, forks: 1 };

fn check(what: &str, left: Left) {
    let start = Instant::now();
    let model = Holders { broken: Broken::Nothing, left };
    let checked = model.checker().threads(2).timeout(Duration::from_secs(1800)).spawn_bfs().join();
    println!(
        "{what}: {} states ({} transitions, depth {}) in {:.1} s",
        checked.unique_state_count(),
        checked.state_count(),
        checked.max_depth(),
        start.elapsed().as_secs_f64()
    );
    for (name, path) in checked.discoveries() {
        if matches!(checked.discovery_classification(name), DiscoveryClassification::Counterexample) {
            let steps: Vec<String> = path.into_actions().iter().map(|action| format!("{action:?}")).collect();
            panic!("{what}: {name} does not hold:\n{}", steps.join("\n"));
        }
    }
    checked.assert_properties();
}

#[test]
fn nobody_reads_zeros_whoever_dies() {
    check("pager and shim die", LEFT);
    check("the pager dies twice", Left { pagers: 2, shims: 0, touches: 1, ..LEFT });
    check("the link is cut, the pager dies", Left { shims: 0, links: 1, touches: 1, ..LEFT });
    if std::env::var_os("FERRY_SOAK").is_some() {
        check("each dies twice, more is done", Left { pagers: 2, shims: 2, links: 1, changes: 2, ..LEFT });
    }
}

#[test]
fn broken_rules_are_noticed() {
    use Broken::{
        CompletionForgotten, NoThirdHolder, NobodyWoken, PlacesBeforeReplay, PrivateRing, SourceEndsEarly,
        TwoTables,
    };
    let all = [
        TwoTables,
        PrivateRing,
        NobodyWoken,
        NoThirdHolder,
        SourceEndsEarly,
        CompletionForgotten,
        PlacesBeforeReplay,
    ];
    for broken in all {
        let checker = Holders { broken, left: LEFT }.checker().threads(2);
        let checked = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checked.discoveries().into_keys().any(|name| {
            matches!(checked.discovery_classification(name), DiscoveryClassification::Counterexample)
        });
        assert!(found, "{broken:?} was not noticed");
    }
}
