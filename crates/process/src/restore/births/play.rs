//! The kernel's rules for births, sessions and groups, played through without a kernel.

use super::{Act, Births, INIT};
use crate::records::task::{Life, Task};
use std::collections::{BTreeMap, BTreeSet};

/// What a process inherits and changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Relations {
    pub(super) session: i32,
    pub(super) group: i32,
    pub(super) parent: i32,
}

/// Everybody, [`INIT`] among them, by number.
pub(super) type People = BTreeMap<i32, Relations>;

/// Init and nobody else.
pub(super) fn alone() -> People {
    People::from([(INIT, Relations { session: INIT, group: INIT, parent: INIT })])
}

/// Plays the births to `people` and answers who is there then, zombies among them, stand-ins and init gone. None: the kernel would
/// refuse a step.
pub(super) fn play(people: &People, tasks: &[Task], births: &Births) -> Option<People> {
    let mut alive = people.clone();
    for (actor, acts) in &births.acts {
        for act in acts {
            let own = *alive.get(actor)?;
            match act {
                Act::Bear(pid) | Act::BearStandIn(pid) => {
                    // A number is in use as long as a session or group has it.
                    let used = |one: &Relations| one.session == *pid || one.group == *pid;
                    if alive.contains_key(pid) || alive.values().any(used) {
                        return None;
                    }
                    alive.insert(*pid, Relations { parent: *actor, ..own });
                }
                Act::BeginSession => {
                    if alive.values().any(|one| one.group == *actor) {
                        return None;
                    }
                    alive.insert(*actor, Relations { session: *actor, group: *actor, ..own });
                }
            }
        }
    }
    for pid in &births.group_leaders {
        let own = alive.get_mut(pid)?;
        if own.session == *pid {
            return None;
        }
        own.group = *pid;
    }
    for (pid, group) in &births.joins {
        let own = *alive.get(pid)?;
        let exists = alive.values().any(|one| (one.session, one.group) == (own.session, *group));
        if !exists || own.session == *pid {
            return None;
        }
        alive.insert(*pid, Relations { group: *group, ..own });
    }
    let gone: BTreeSet<i32> = births.stand_ins.iter().map(|(pid, _)| *pid).collect();
    let zombies: BTreeSet<i32> =
        tasks.iter().filter(|task| matches!(task.life, Life::Zombie { .. })).map(|task| task.pid).collect();
    alive.retain(|pid, _| !gone.contains(pid) && *pid != INIT);
    for one in alive.values_mut() {
        if gone.contains(&one.parent) || zombies.contains(&one.parent) {
            one.parent = INIT;
        }
    }
    Some(alive)
}
