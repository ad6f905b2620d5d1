//! From a tree that is there to a later one: who stays, who ends, who is born.
//!
//! Puppets follow their source while it runs on. What cannot be had step by step (a process that now has another parent than its
//! old one's end explains, a session that it was never in) is born anew; where that does not help either, the whole tree is.

use super::planner::{Planner, taken};
use super::play::{People, Relations, alone, play};
use super::{Births, INIT};
use crate::records::task::{Life, Task};
use std::collections::{BTreeMap, BTreeSet};

/// How a tree becomes a later one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Succession {
    /// Processes that stay, zombies among them.
    pub stay: BTreeSet<i32>,
    /// Processes that end, and who collects each: in this order, before anybody is born.
    pub end: Vec<(i32, i32)>,
    /// Who is born, who begins a session, who changes the group.
    pub births: Births,
    /// Processes that stay and become zombies, with their wait status, in this order, after everything else.
    pub die: Vec<(i32, i32)>,
}

impl Succession {
    /// Whether anything has to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.is_empty() && self.births == Births::default() && self.die.is_empty()
    }

    /// Whether init has to do something.
    #[must_use]
    pub fn needs_init(&self) -> bool {
        let acts = self.births.acts.iter().any(|(actor, _)| *actor == INIT);
        acts || self.end.iter().any(|(_, collector)| *collector == INIT)
    }
}

/// How the tree `old` becomes `new`. None: it has to be built anew.
#[must_use]
pub fn succession(old: &[Task], new: &[Task]) -> Option<Succession> {
    let before: BTreeMap<i32, &Task> = old.iter().map(|task| (task.pid, task)).collect();
    let after: BTreeMap<i32, &Task> = new.iter().map(|task| (task.pid, task)).collect();
    let stay = staying(&before, &after);
    let there: BTreeMap<i32, &Task> = stay.iter().map(|pid| (*pid, before[pid])).collect();
    let ended = old.iter().rev().filter(|task| !stay.contains(&task.pid));
    let end = ended.map(|task| (task.pid, collector(task, &before))).collect();
    let mut planner = Planner::new(&there, new).ok()?;
    planner.taken.extend(taken(old));
    let births = planner.plan(new).ok()?;
    let people = people(&there);
    let reached = play(&people, new, &births)?;
    if reached != wanted(new, &after) {
        return None;
    }
    let dying = |task: &&Task| there.get(&task.pid).is_some_and(|before| !is_zombie(before));
    let status = |task: &Task| match task.life {
        Life::Zombie { status } => Some((task.pid, status)),
        _ => None,
    };
    let die = new.iter().rev().filter(dying).filter_map(status).collect();
    Some(Succession { stay, end, births, die })
}

fn is_zombie(task: &Task) -> bool {
    matches!(task.life, Life::Zombie { .. })
}

/// Who collects a process when it ends.
fn collector(task: &Task, all: &BTreeMap<i32, &Task>) -> i32 {
    all.get(&task.parent).filter(|parent| !is_zombie(parent)).map_or(INIT, |parent| parent.pid)
}

/// Processes whose puppets can be what they are to be later, once all others have ended.
fn staying(before: &BTreeMap<i32, &Task>, after: &BTreeMap<i32, &Task>) -> BTreeSet<i32> {
    let mut stay: BTreeSet<i32> = before.keys().filter(|pid| after.contains_key(pid)).copied().collect();
    // A parent that does not stay makes an orphan of its child, which then may not stay either.
    loop {
        let fits = |pid: &i32| can_stay(before[pid], after[pid], &stay, before, after);
        let left: BTreeSet<i32> = stay.iter().filter(|pid| fits(pid)).copied().collect();
        if left.len() == stay.len() {
            return stay;
        }
        stay = left;
    }
}

fn can_stay(
    old: &Task,
    new: &Task,
    stay: &BTreeSet<i32>,
    before: &BTreeMap<i32, &Task>,
    after: &BTreeMap<i32, &Task>,
) -> bool {
    let life = match (old.life, new.life) {
        (Life::Zombie { status }, Life::Zombie { status: then }) => status == then,
        (Life::Zombie { .. }, _) => false,
        _ => true,
    };
    let had = collector(old, before);
    let lives_on = |pid: i32| stay.contains(&pid) && after.get(&pid).is_some_and(|task| !is_zombie(task));
    let has = if had != INIT && lives_on(had) { had } else { INIT };
    // The kernel lets an orphan end by the ordinary signal.
    let orphaned = had != INIT && has == INIT;
    let signal = old.exit_signal == new.exit_signal || (orphaned && new.exit_signal == libc::SIGCHLD);
    let session = new.session == old.session || (new.session == new.pid && !is_zombie(old));
    let files = is_zombie(new) || old.shares_files_with == new.shares_files_with;
    life && has == collector(new, after) && signal && session && files
}

fn people(there: &BTreeMap<i32, &Task>) -> People {
    let relations = |task: &Task| {
        let parent =
            there.get(&task.parent).filter(|parent| !is_zombie(parent)).map_or(INIT, |parent| parent.pid);
        Relations { session: task.session, group: task.group, parent }
    };
    alone().into_iter().chain(there.iter().map(|(pid, task)| (*pid, relations(task)))).collect()
}

fn wanted(new: &[Task], after: &BTreeMap<i32, &Task>) -> People {
    let relations =
        |task: &Task| Relations { session: task.session, group: task.group, parent: collector(task, after) };
    new.iter().map(|task| (task.pid, relations(task))).collect()
}
