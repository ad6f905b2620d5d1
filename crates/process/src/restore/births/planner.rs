//! The planner behind [`plan`](super::plan) and [`succession`](super::succession): each process with what it does, in order.

use super::{Act, Births, INIT, Impossible, PID_MAX};
use crate::records::task::{Life, Task};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Every number that is used: processes, threads, groups, sessions.
pub(super) fn taken(tasks: &[Task]) -> BTreeSet<i32> {
    let own = tasks.iter().flat_map(|task| [task.pid, task.group, task.session]);
    own.chain(tasks.iter().flat_map(|task| task.threads.iter().map(|thread| thread.tid))).collect()
}

pub(super) struct Planner<'a> {
    /// Those that are there already, as they were last.
    there: &'a BTreeMap<i32, &'a Task>,
    by_pid: BTreeMap<i32, &'a Task>,
    children: BTreeMap<i32, Vec<i32>>,
    /// The session in which a process must be born, where that matters.
    needs: BTreeMap<i32, Option<i32>>,
    /// Before and after the process begins its session.
    acts: BTreeMap<i32, (Vec<Act>, Vec<Act>)>,
    births: Births,
    pub(super) taken: BTreeSet<i32>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(there: &'a BTreeMap<i32, &'a Task>, tasks: &'a [Task]) -> Result<Self, Impossible> {
        let mut by_pid: BTreeMap<i32, &Task> = BTreeMap::new();
        for task in tasks {
            if !(1..=PID_MAX).contains(&task.pid) || by_pid.insert(task.pid, task).is_some() {
                return Err(Impossible::Number(task.pid));
            }
        }
        Ok(Self {
            there,
            children: BTreeMap::new(),
            needs: BTreeMap::new(),
            acts: BTreeMap::new(),
            births: Births::default(),
            taken: taken(tasks),
            by_pid,
        })
    }

    pub(super) fn plan(mut self, tasks: &[Task]) -> Result<Births, Impossible> {
        for task in tasks.iter().filter(|task| !self.there.contains_key(&task.pid)) {
            let parent = if self.by_pid.contains_key(&task.parent) { task.parent } else { INIT };
            self.children.entry(parent).or_default().push(task.pid);
        }
        for task in tasks.iter().rev() {
            let need = self.need_of(task)?;
            self.needs.insert(task.pid, need);
        }
        self.place_roots()?;
        for task in tasks {
            self.place_children(task)?;
        }
        self.place_groups(tasks)?;
        self.order(tasks);
        Ok(self.births)
    }

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
                        Some(leader) if matches!(leader.life, Life::Zombie { .. }) => {
                            if self.has_ended(session) { self.absent_leader(session)? } else { session }
                        }
                        Some(_) => {
                            let helper = self.number()?;
                            self.stand_in(session, helper);
                            helper
                        }
                        None => self.absent_leader(session)?,
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

    /// Somebody in a session whose leader has ended: a stand-in with its number, or one beneath a member that is there.
    fn absent_leader(&mut self, session: i32) -> Result<i32, Impossible> {
        let alive = |task: &&&Task| !matches!(task.life, Life::Zombie { .. });
        let member = self.there.values().filter(alive).find(|task| task.session == session);
        if let Some(member) = member.map(|task| task.pid) {
            let helper = self.number()?;
            self.stand_in(member, helper);
            return Ok(helper);
        }
        if !self.births.stand_ins.iter().any(|(number, _)| *number == session) {
            self.stand_in(INIT, session);
            self.acts.entry(session).or_default().0.push(Act::BeginSession);
        }
        Ok(session)
    }

    fn place_children(&mut self, task: &Task) -> Result<(), Impossible> {
        let before = self.there.get(&task.pid);
        let leads = task.session == task.pid && before.is_none_or(|before| before.session != task.pid);
        let born_in = before.map_or(self.needs[&task.pid].unwrap_or(INIT), |before| before.session);
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
        let there = self.there;
        let stays = |task: &&Task| there.get(&task.pid).is_some_and(|before| before.group == task.group);
        // Groups that some of those who are there do not leave.
        let held: BTreeSet<i32> = tasks.iter().filter(stays).map(|task| task.group).collect();
        let placed = |task: &&Task| task.group == 0 || task.session == task.pid || stays(task);
        for task in tasks.iter().filter(|task| !placed(task)) {
            if task.group == task.pid {
                self.births.group_leaders.push(task.pid);
                continue;
            }
            let known = self.by_pid.contains_key(&task.group)
                || held.contains(&task.group)
                || self.births.stand_ins.iter().any(|(number, _)| *number == task.group);
            let left = self.by_pid.get(&task.group).is_some_and(|leader| leader.group != leader.pid);
            if left && !held.contains(&task.group) && !self.births.group_leaders.contains(&task.group) {
                // It began the group and went to another: so it does again, after everybody has joined.
                self.births.group_leaders.push(task.group);
            }
            if !known {
                let session = match task.session {
                    0 => INIT,
                    session if self.by_pid.contains_key(&session) => session,
                    session => self.absent_leader(session)?,
                };
                self.stand_in(session, task.group);
                self.births.group_leaders.push(task.group);
            }
            self.births.joins.push((task.pid, task.group));
        }
        let leaders = self.births.group_leaders.clone();
        // Who is there leaves a group only when the new ones are in it; who began one leaves it last.
        self.births.joins.sort_by_key(|(pid, _)| (leaders.contains(pid), there.contains_key(pid)));
        Ok(())
    }

    /// Whether it is a zombie already.
    fn has_ended(&self, pid: i32) -> bool {
        self.there.get(&pid).is_some_and(|task| matches!(task.life, Life::Zombie { .. }))
    }

    /// Writes the acts down from init, and from those that are there, outwards.
    fn order(&mut self, tasks: &[Task]) {
        let there = tasks.iter().map(|task| task.pid).filter(|pid| self.there.contains_key(pid));
        let mut waiting: VecDeque<i32> = std::iter::once(INIT).chain(there).collect();
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
