//! Trees as kernels have them, and what becomes of them.

use super::play::{People, alone, play};
use super::*;
use crate::records::task::Life;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn task(pid: i32, parent: i32, group: i32, session: i32) -> Task {
    Task { pid, parent, group, session, ..Task::default() }
}

fn check(tasks: &[Task]) {
    let found = relations(play(&alone(), tasks, &plan(tasks).unwrap()).unwrap());
    let wanted: BTreeMap<i32, (i32, i32, i32)> =
        tasks.iter().map(|t| (t.pid, (t.session, t.group, t.parent))).collect();
    assert_eq!(found, wanted);
}

#[test]
fn a_shell_with_a_pipeline() {
    check(&[
        task(2, 0, 2, 2),
        task(10, 2, 10, 2),
        task(11, 2, 10, 2),
        task(12, 11, 10, 2),
        task(13, 2, 13, 2),
    ]);
}

#[test]
fn a_daemon_whose_parents_have_ended() {
    // 7 was forked by 6, which led session 6 and has ended.
    check(&[task(2, 0, 2, 2), task(7, 0, 6, 6), task(8, 7, 6, 6)]);
}

#[test]
fn an_orphan_in_a_session_whose_leader_lives() {
    check(&[task(2, 0, 2, 2), task(9, 0, 2, 2), task(10, 9, 10, 2)]);
}

#[test]
fn a_child_older_than_its_parents_session() {
    check(&[task(2, 0, 2, 2), task(5, 2, 5, 5), task(6, 5, 2, 2), task(7, 5, 5, 5)]);
}

#[test]
fn a_group_whose_leader_has_ended() {
    check(&[task(2, 0, 2, 2), task(6, 2, 5, 2), task(7, 2, 5, 2)]);
}

#[test]
fn a_zombie_that_led_a_session() {
    let mut zombie = task(4, 2, 4, 4);
    zombie.life = Life::Zombie { status: 0 };
    check(&[task(2, 0, 2, 2), zombie, task(5, 0, 4, 4)]);
}

#[test]
fn a_child_in_a_session_that_its_parent_has_left() {
    check(&[task(2, 0, 2, 2), task(3, 0, 3, 3), task(4, 2, 3, 3)]);
}

#[test]
fn impossible_relations_are_refused() {
    // Process 2 cannot have been in two sessions before its own.
    let leaders = [task(2, 0, 2, 2), task(3, 0, 3, 3), task(6, 0, 6, 6)];
    let tasks = [&leaders[..], &[task(4, 2, 3, 3), task(5, 2, 6, 6)]].concat();
    assert_eq!(plan(&tasks), Err(Impossible::Session { pid: 5, session: 6, parent: 2 }));
    assert_eq!(plan(&[task(2, 0, 2, 2), task(2, 0, 2, 2)]), Err(Impossible::Number(2)));
}

/// Session, group and parent of everybody that lives, and the next number.
type Living = (BTreeMap<i32, (i32, i32, i32)>, i32);

type Step = (u8, u16, u16);

fn steps(kinds: u8) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0..kinds, any::<u16>(), any::<u16>()), 0..60)
}

/// Forks, ends, setsid, setpgid, as a kernel would have them.
fn live((alive, next): &mut Living, steps: &[Step]) {
    for (what, who, whom) in steps {
        let pids: Vec<i32> = alive.keys().copied().collect();
        let pid = pids[*who as usize % pids.len()];
        let (session, group, parent) = alive[&pid];
        match what {
            0 | 1 => {
                alive.insert(*next, (session, group, pid));
                *next += 1;
            }
            3 if alive.values().all(|(_, group, _)| *group != pid) => {
                alive.insert(pid, (pid, pid, parent));
            }
            4 if whom % 3 == 0 && session != pid => {
                alive.insert(pid, (session, pid, parent));
            }
            4 if whom % 3 == 1 && session != pid => {
                let other = pids[*whom as usize % pids.len()];
                if alive[&other].0 == session {
                    alive.insert(pid, (session, alive[&other].1, parent));
                }
            }
            _ if pids.len() > 1 => {
                alive.remove(&pid);
                for relation in alive.values_mut().filter(|relation| relation.2 == pid) {
                    relation.2 = 0;
                }
            }
            _ => {}
        }
    }
}

fn beginning() -> Living {
    (BTreeMap::from([(2, (2, 2, 0))]), 3)
}

/// Those who live, parents before their children.
fn tasks((alive, _): &Living) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut left: Vec<(i32, (i32, i32, i32))> = alive.iter().map(|(pid, one)| (*pid, *one)).collect();
    while !left.is_empty() {
        let (ready, rest): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|(_, (_, _, parent))| *parent == 0 || tasks.iter().any(|t| t.pid == *parent));
        let made = |(pid, (session, group, parent))| task(pid, parent, group, session);
        tasks.extend(ready.into_iter().map(made));
        left = rest;
    }
    tasks
}

fn two_moments(first: &[Step], second: &[Step]) -> (Vec<Task>, Vec<Task>) {
    let mut living = beginning();
    live(&mut living, first);
    let old = tasks(&living);
    live(&mut living, second);
    (old, tasks(&living))
}

/// Numbers that are in both.
fn in_both(old: &[Task], new: &[Task]) -> BTreeSet<i32> {
    old.iter().map(|task| task.pid).filter(|pid| new.iter().any(|task| task.pid == *pid)).collect()
}

proptest! {
    #[test]
    fn what_a_kernel_can_have_can_be_built(steps in steps(5)) {
        let mut living = beginning();
        live(&mut living, &steps);
        let tasks = tasks(&living);
        // A leader of a group that has left it for another's is the one thing that births alone do not give back.
        if let Ok(births) = plan(&tasks) {
            let found = relations(play(&alone(), &tasks, &births).unwrap());
            for task in &tasks {
                prop_assert_eq!(found[&task.pid], (task.session, task.group, task.parent));
            }
        }
    }

    #[test]
    fn a_tree_that_only_forks_and_ends_is_always_followed(first in steps(5), second in steps(3)) {
        let (old, new) = two_moments(&first, &second);
        if plan(&old).is_ok() {
            let followed = succession(&old, &new);
            // An orphan in a session that has nobody left who could bear it there is the exception.
            if let Some(followed) = followed {
                prop_assert_eq!(followed.stay, in_both(&old, &new));
            } else {
                let there = in_both(&old, &new);
                let lost = |task: &Task| {
                    let orphan = task.parent == 0 && !there.contains(&task.pid) && task.session != task.pid;
                    let group = there.iter().all(|pid| {
                        let before = old.iter().find(|task| task.pid == *pid);
                        before.is_none_or(|before| before.group != task.group)
                    });
                    orphan && group
                };
                prop_assert!(new.iter().any(lost), "{old:?} {new:?}");
            }
        }
    }

    #[test]
    fn who_stays_was_there_and_who_ends_does_not_stay(first in steps(5), second in steps(5)) {
        let (old, new) = two_moments(&first, &second);
        if let Some(followed) = succession(&old, &new) {
            prop_assert!(followed.stay.is_subset(&in_both(&old, &new)));
            let ended: BTreeSet<i32> = followed.end.iter().map(|(pid, _)| *pid).collect();
            prop_assert!(ended.is_disjoint(&followed.stay));
            prop_assert_eq!(ended.len() + followed.stay.len(), old.len());
        }
    }
}

#[test]
fn nothing_is_done_where_nothing_changed() {
    let tasks = [task(2, 0, 2, 2), task(10, 2, 10, 2), task(11, 10, 11, 11)];
    let followed = succession(&tasks, &tasks).unwrap();
    assert!(followed.is_empty() && !followed.needs_init());
    assert_eq!(followed.stay.len(), 3);
}

#[test]
fn a_number_that_another_process_has_now_is_born_again() {
    // 10 was a child of 2 and led a session; now it is one of 3's, in session 2.
    let old = [task(2, 0, 2, 2), task(3, 2, 2, 2), task(10, 2, 10, 10)];
    let new = [task(2, 0, 2, 2), task(3, 2, 2, 2), task(10, 3, 2, 2)];
    let followed = succession(&old, &new).unwrap();
    assert_eq!(followed.stay, BTreeSet::from([2, 3]));
    assert_eq!(followed.end, [(10, 2)]);
    assert_eq!(followed.births.acts, [(3, vec![Act::Bear(10)])]);
}

#[test]
fn a_child_that_ends_becomes_a_zombie_and_then_goes() {
    let zombie = Task { life: Life::Zombie { status: 9 }, ..task(3, 2, 2, 2) };
    let (alive, dead, gone) =
        ([task(2, 0, 2, 2), task(3, 2, 2, 2)], [task(2, 0, 2, 2), zombie], [task(2, 0, 2, 2)]);
    assert_eq!(succession(&alive, &dead).unwrap().die, [(3, 9)]);
    assert!(succession(&dead, &dead).unwrap().is_empty());
    assert_eq!(succession(&dead, &gone).unwrap().end, [(3, 2)]);
}

#[test]
fn an_orphan_goes_to_init_with_its_parents_end() {
    let old = [task(2, 0, 2, 2), task(3, 2, 2, 2), task(4, 3, 2, 2)];
    let new = [task(2, 0, 2, 2), task(4, 0, 2, 2)];
    let followed = succession(&old, &new).unwrap();
    assert_eq!(followed.stay, BTreeSet::from([2, 4]));
    // To a subreaper it cannot be given: it is born again there.
    let adopted = [task(2, 0, 2, 2), task(4, 2, 2, 2)];
    let followed = succession(&old, &adopted).unwrap();
    assert_eq!(followed.end, [(4, 3), (3, 2)]);
    assert_eq!(followed.births.acts, [(2, vec![Act::Bear(4)])]);
}

#[test]
fn an_orphan_is_born_in_a_session_whose_leader_has_ended() {
    let old = [task(2, 0, 2, 2), task(5, 0, 5, 5), task(6, 5, 5, 5)];
    let new = [task(2, 0, 2, 2), task(6, 0, 5, 5), task(9, 0, 5, 5)];
    let followed = succession(&old, &new).unwrap();
    assert_eq!(followed.stay, BTreeSet::from([2, 6]));
    assert_eq!(followed.births.stand_ins.iter().map(|(_, bearer)| *bearer).collect::<Vec<_>>(), [6]);
}

/// Session, group and parent of everybody.
fn relations(people: People) -> BTreeMap<i32, (i32, i32, i32)> {
    people.into_iter().map(|(pid, one)| (pid, (one.session, one.group, one.parent))).collect()
}
