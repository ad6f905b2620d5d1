//! Who gives birth to whom, and who begins a session when: a pure function of the tree's relations.
//!
//! A process inherits session and group at its birth. A leader's children that are older than its session must be born before
//! it calls setsid; orphans must be born within their session by somebody who then ends; a session or group whose leader has
//! ended needs a stand-in with the leader's number. Stand-ins are killed when everybody is born and in place.

use crate::records::task::{Life, Task};
use std::collections::{BTreeMap, BTreeSet};

/// The number by which init is named here.
pub const INIT: i32 = 0;

/// One step of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Gives birth to a process of the tree.
    Bear(i32),
    /// Gives birth to a stand-in with this number.
    BearStandIn(i32),
    /// Begins a session.
    BeginSession,
}

/// All births, in an order in which they are possible, and who joins which group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Births {
    /// For each process that does anything: its number ([`INIT`] first) and its acts in order. A process comes after the one
    /// that bears it.
    pub acts: Vec<(i32, Vec<Act>)>,
    /// Processes that begin a group of their own (not leaders of sessions, which have one).
    pub group_leaders: Vec<i32>,
    /// Processes that join a group, after all groups have begun.
    pub joins: Vec<(i32, i32)>,
    /// Stand-ins with who has borne them: to be killed and collected at the end, later ones first.
    pub stand_ins: Vec<(i32, i32)>,
}

/// Why a tree cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// Sessions of a parent and its children do not fit any order of births.
    #[error("Process {pid} is in session {session}, which its parent {parent} never was in")]
    Session {
        /// Process.
        pid: i32,
        /// Its session.
        session: i32,
        /// Its parent.
        parent: i32,
    },
    /// Two processes with one number, or a number that is none.
    #[error("Process {0} appears twice, or its number is none")]
    Number(i32),
    /// No number is left for a stand-in.
    #[error("No process id is left for helpers")]
    Full,
}

/// Largest process id of 64-bit Linux.
const PID_MAX: i32 = 4 << 20;

/// Plans all births.
///
/// # Errors
/// [`Impossible`] for relations that no order of births gives.
pub fn plan(tasks: &[Task]) -> Result<Births, Impossible> {
    let mut by_pid: BTreeMap<i32, &Task> = BTreeMap::new();
    for task in tasks {
        if !(1..=PID_MAX).contains(&task.pid) || by_pid.insert(task.pid, task).is_some() {
            return Err(Impossible::Number(task.pid));
        }
    }
    let mut planner = Planner {
        children: BTreeMap::new(),
        needs: BTreeMap::new(),
        acts: BTreeMap::new(),
        births: Births::default(),
        taken: taken(tasks),
        by_pid,
    };
    for task in tasks {
        let parent = if planner.by_pid.contains_key(&task.parent) { task.parent } else { INIT };
        planner.children.entry(parent).or_default().push(task.pid);
    }
    for task in tasks.iter().rev() {
        let need = planner.need_of(task)?;
        planner.needs.insert(task.pid, need);
    }
    planner.place_roots()?;
    for task in tasks {
        planner.place_children(task)?;
    }
    planner.place_groups(tasks)?;
    planner.order();
    Ok(planner.births)
}

/// Every number that is used: processes, threads, groups, sessions.
fn taken(tasks: &[Task]) -> BTreeSet<i32> {
    let own = tasks.iter().flat_map(|task| [task.pid, task.group, task.session]);
    own.chain(tasks.iter().flat_map(|task| task.threads.iter().map(|thread| thread.tid))).collect()
}

struct Planner<'a> {
    by_pid: BTreeMap<i32, &'a Task>,
    children: BTreeMap<i32, Vec<i32>>,
    /// The session in which a process must be born, where that matters.
    needs: BTreeMap<i32, Option<i32>>,
    /// Before and after the process begins its session.
    acts: BTreeMap<i32, (Vec<Act>, Vec<Act>)>,
    births: Births,
    taken: BTreeSet<i32>,
}

impl Planner<'_> {
    fn need_of(&self, task: &Task) -> Result<Option<i32>, Impossible> {
        if task.session != task.pid {
            return Ok(Some(task.session));
        }
        let mut need = None;
        for child in self.children.get(&task.pid).into_iter().flatten() {
            let Some(session) =
                self.needs.get(child).copied().flatten().filter(|session| *session != task.pid)
            else {
                continue;
            };
            if need.is_some_and(|need| need != session) {
                return Err(Impossible::Session { pid: *child, session, parent: task.pid });
            }
            need = Some(session);
        }
        Ok(need)
    }

    fn after(&mut self, actor: i32) -> &mut Vec<Act> {
        &mut self.acts.entry(actor).or_default().1
    }

    /// A number that nobody has, for a stand-in.
    fn number(&mut self) -> Result<i32, Impossible> {
        // From the top of the small numbers: far from where a fresh namespace counts.
        let number = (2..32_000).rev().find(|number| !self.taken.contains(number)).ok_or(Impossible::Full)?;
        self.taken.insert(number);
        Ok(number)
    }

    /// Children of init: born there, or within the session that they are in.
    fn place_roots(&mut self) -> Result<(), Impossible> {
        for pid in self.children.get(&INIT).cloned().unwrap_or_default() {
            match self.needs[&pid].unwrap_or(INIT) {
                INIT => self.after(INIT).push(Act::Bear(pid)),
                session => {
                    let parent = match self.by_pid.get(&session) {
                        // A zombie that led the session ends anyway, and its children go to init.
                        Some(leader) if matches!(leader.life, Life::Zombie { .. }) => session,
                        Some(_) => {
                            let helper = self.number()?;
                            self.stand_in(session, helper);
                            helper
                        }
                        None => self.absent_leader(session),
                    };
                    self.after(parent).push(Act::Bear(pid));
                }
            }
        }
        Ok(())
    }

    fn stand_in(&mut self, parent: i32, number: i32) {
        self.after(parent).push(Act::BearStandIn(number));
        self.births.stand_ins.push((number, parent));
    }

    /// A stand-in for the leader of a session that has ended.
    fn absent_leader(&mut self, session: i32) -> i32 {
        if !self.births.stand_ins.iter().any(|(number, _)| *number == session) {
            self.stand_in(INIT, session);
            self.acts.entry(session).or_default().0.push(Act::BeginSession);
        }
        session
    }

    fn place_children(&mut self, task: &Task) -> Result<(), Impossible> {
        let leads = task.session == task.pid;
        let born_in = self.needs[&task.pid].unwrap_or(INIT);
        for child in self.children.get(&task.pid).cloned().unwrap_or_default() {
            let need = self.needs[&child];
            let acts = self.acts.entry(task.pid).or_default();
            match need {
                None => acts.1.push(Act::Bear(child)),
                Some(session) if session == task.session => acts.1.push(Act::Bear(child)),
                Some(session) if leads && session == born_in => acts.0.push(Act::Bear(child)),
                Some(session) => return Err(Impossible::Session { pid: child, session, parent: task.pid }),
            }
        }
        if leads {
            self.acts.entry(task.pid).or_default().0.push(Act::BeginSession);
        }
        Ok(())
    }

    fn place_groups(&mut self, tasks: &[Task]) -> Result<(), Impossible> {
        for task in tasks.iter().filter(|task| task.group != 0 && task.session != task.pid) {
            if task.group == task.pid {
                self.births.group_leaders.push(task.pid);
                continue;
            }
            let known = self.by_pid.contains_key(&task.group)
                || self.births.stand_ins.iter().any(|(number, _)| *number == task.group);
            let left = self.by_pid.get(&task.group).is_some_and(|leader| leader.group != leader.pid);
            if left && !self.births.group_leaders.contains(&task.group) {
                // It began the group and went to another: so it does again, after everybody has joined.
                self.births.group_leaders.push(task.group);
            }
            if !known {
                let session = match task.session {
                    0 => INIT,
                    session if self.by_pid.contains_key(&session) => session,
                    session => self.absent_leader(session),
                };
                self.stand_in(session, task.group);
                self.births.group_leaders.push(task.group);
            }
            self.births.joins.push((task.pid, task.group));
        }
        let leaders = self.births.group_leaders.clone();
        self.births.joins.sort_by_key(|(pid, _)| leaders.contains(pid));
        Ok(())
    }

    /// Writes the acts down from init outwards.
    fn order(&mut self) {
        let mut waiting = std::collections::VecDeque::from([INIT]);
        while let Some(actor) = waiting.pop_front() {
            let Some((before, after)) = self.acts.remove(&actor) else { continue };
            let acts: Vec<Act> = before.into_iter().chain(after).collect();
            waiting.extend(acts.iter().filter_map(|act| match act {
                Act::Bear(pid) | Act::BearStandIn(pid) => Some(*pid),
                Act::BeginSession => None,
            }));
            self.births.acts.push((actor, acts));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn task(pid: i32, parent: i32, group: i32, session: i32) -> Task {
        Task { pid, parent, group, session, ..Task::default() }
    }

    /// Plays the births and answers with session, group and parent of everybody, stand-ins gone.
    fn play(tasks: &[Task], births: &Births) -> BTreeMap<i32, (i32, i32, i32)> {
        let mut alive: BTreeMap<i32, (i32, i32, i32)> = BTreeMap::from([(INIT, (INIT, INIT, INIT))]);
        for (actor, acts) in &births.acts {
            for act in acts {
                let (session, group, _) = alive[actor];
                match act {
                    Act::Bear(pid) | Act::BearStandIn(pid) => {
                        assert!(
                            alive.insert(*pid, (session, group, *actor)).is_none(),
                            "{pid} is born twice"
                        );
                    }
                    Act::BeginSession => {
                        assert!(
                            alive.values().all(|(_, group, _)| group != actor),
                            "a leader of a group begins a session"
                        );
                        alive.insert(*actor, (*actor, *actor, alive[actor].2));
                    }
                }
            }
        }
        for pid in &births.group_leaders {
            alive.get_mut(pid).unwrap().1 = *pid;
        }
        for (pid, group) in &births.joins {
            let session = alive[pid].0;
            assert!(alive.values().any(|(s, g, _)| g == group && *s == session), "{pid} cannot join {group}");
            alive.get_mut(pid).unwrap().1 = *group;
        }
        let gone: BTreeSet<i32> = births.stand_ins.iter().map(|(pid, _)| *pid).collect();
        let zombies: BTreeSet<i32> =
            tasks.iter().filter(|t| t.life != Life::Running).map(|t| t.pid).collect();
        alive.retain(|pid, _| !gone.contains(pid) && *pid != INIT);
        for relation in alive.values_mut() {
            if gone.contains(&relation.2) || zombies.contains(&relation.2) {
                relation.2 = INIT;
            }
        }
        alive
    }

    fn check(tasks: &[Task]) {
        let found = play(tasks, &plan(tasks).unwrap());
        let wanted = tasks.iter().map(|t| (t.pid, (t.session, t.group, t.parent))).collect();
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

    /// A random history of forks, setsid, setpgid and exits, as a kernel would have it.
    fn history() -> impl Strategy<Value = Vec<Task>> {
        proptest::collection::vec((0u8..4, any::<u16>(), any::<u16>()), 0..60).prop_map(|steps| {
            let mut alive: BTreeMap<i32, (i32, i32, i32)> = BTreeMap::from([(2, (2, 2, 0))]);
            let mut next = 3;
            for (what, who, whom) in steps {
                let pids: Vec<i32> = alive.keys().copied().collect();
                let pid = pids[who as usize % pids.len()];
                let (session, group, parent) = alive[&pid];
                match what {
                    0 | 1 => {
                        alive.insert(next, (session, group, pid));
                        next += 1;
                    }
                    2 if alive.values().all(|(_, group, _)| *group != pid) => {
                        alive.insert(pid, (pid, pid, parent));
                    }
                    3 if whom % 3 == 0 && session != pid => {
                        alive.insert(pid, (session, pid, parent));
                    }
                    3 if whom % 3 == 1 && session != pid => {
                        let other = pids[whom as usize % pids.len()];
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
            let mut tasks: Vec<Task> = Vec::new();
            let mut left: Vec<(i32, (i32, i32, i32))> = alive.into_iter().collect();
            while !left.is_empty() {
                let (ready, rest): (Vec<_>, Vec<_>) = left
                    .into_iter()
                    .partition(|(_, (_, _, parent))| *parent == 0 || tasks.iter().any(|t| t.pid == *parent));
                tasks.extend(
                    ready
                        .into_iter()
                        .map(|(pid, (session, group, parent))| task(pid, parent, group, session)),
                );
                left = rest;
            }
            tasks
        })
    }

    proptest! {
        #[test]
        fn what_a_kernel_can_have_can_be_built(tasks in history()) {
            // A leader of a group that has left it for another's is the one thing that births alone do not give back.
            if let Ok(births) = plan(&tasks) {
                let found = play(&tasks, &births);
                for task in &tasks {
                    prop_assert_eq!(found[&task.pid], (task.session, task.group, task.parent));
                }
            }
        }
    }
}
