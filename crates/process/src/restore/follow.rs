//! Puppets that follow a tree which still runs elsewhere: from one draft to the next, and to what it is in the end.
//!
//! What outlives a step is what [`crate::layout::kept`] says, on both sides; everything here keeps to it. A step that fails half way
//! leaves puppets that are good for nothing: they are to be dropped.

use super::Error;
use super::births::Succession;
use super::grow::Family;
use super::host::{AREA_BYTES, Host, move_area, place};
use super::mapping::{self, Fields, ObjectFds, Work};
use super::passing;
use super::puppets::{Puppets, check, create_object, outlines};
use super::turns::Turns;
use crate::layout;
use crate::layout::Change;
use crate::records::State;
use crate::records::memory::{Backing, Space, vma};
use crate::records::task::{Life, Task};
use ferry_sys::proc::{self, maps};
use ferry_sys::ptrace;
use ferry_sys::remote::Program;
use rustix::fd::{AsFd, BorrowedFd};
use std::collections::{BTreeMap, BTreeSet};

impl Puppets {
    /// Makes the puppets those of a later draft. What of their memory stays is what [`layout::kept`] says of the two drafts.
    ///
    /// # Errors
    /// As [`Puppets::draft`]. Then they are to be dropped.
    pub fn reconcile(&mut self, draft: &State) -> Result<(), Error> {
        self.become_of(draft, false)
    }

    /// Makes the puppets those of the final state, threads and all. What of their memory stays is what [`layout::kept`] says of the
    /// last draft and `state`.
    ///
    /// # Errors
    /// As [`Puppets::build`]. Then they are to be dropped.
    pub fn complete(&mut self, state: &State) -> Result<(), Error> {
        self.become_of(state, true)
    }

    fn become_of(&mut self, new: &State, last: bool) -> Result<(), Error> {
        if self.complete {
            return Err(Error::Damaged("the puppets are complete already".into()));
        }
        check(new)?;
        self.check_staged()?;
        let _turns = Turns::begin(&self.family);
        match layout::followed(&self.state, new) {
            Some(followed) => self.follow(&followed, new, last)?,
            None => self.begin_anew(new, last)?,
        }
        self.give_back_host()
    }

    /// Kills everybody, children first, each collected by its parent: init must not report an end.
    fn begin_anew(&mut self, new: &State, last: bool) -> Result<(), Error> {
        self.borrow_host()?;
        let everybody =
            layout::followed(&self.state, &State { files: self.state.files.clone(), ..State::default() });
        let everybody = everybody.ok_or_else(|| Error::Damaged("nobody can end".into()))?;
        self.bury(&everybody)?;
        self.give_back_host()?;
        // Its terminals go before others may get their numbers.
        self.lobby = None;
        *self = Self::make(new, &self.home, last)?;
        Ok(())
    }

    fn follow(&mut self, followed: &Succession, new: &State, last: bool) -> Result<(), Error> {
        self.make_room(new)?;
        let new = if last { new.clone() } else { self.available(new) };
        self.renew_objects(&new)?;
        if followed.needs_init() {
            self.borrow_host()?;
        }
        self.bury(followed)?;
        let cgroup = if self.family.host.is_some() { self.pass(false)?.0 } else { None };
        self.family.shielded = shields(&self.state, followed);
        self.family.grow(&followed.births, &new.tasks, cgroup)?;
        let old = std::mem::replace(&mut self.state, new);
        self.keep_given(&old, last);
        self.map_all(&old, followed, None, last)?;
        self.complete = last;
        Ok(())
    }

    fn borrow_host(&mut self) -> Result<(), Error> {
        if self.family.host.is_none() {
            let Family { machine, area, .. } = &mut self.family;
            self.family.host = Some(Host::borrow_again(self.home.init, area, machine)?);
        }
        Ok(())
    }

    fn bury(&mut self, followed: &Succession) -> Result<(), Error> {
        for (pid, collector) in &followed.end {
            let task = self.state.tasks.iter().find(|task| task.pid == *pid);
            self.family.bury(*pid, *collector, task.map_or(0, |task| task.exit_signal))?;
            self.without_exe.remove(pid);
        }
        Ok(())
    }

    /// Moves the shared memory away if it stands where something is to be mapped.
    fn make_room(&mut self, new: &State) -> Result<(), Error> {
        let wanted = outlines(&[new]);
        if !wanted.iter().any(|space| self.family.area.collides(space)) {
            return Ok(());
        }
        let failed = || Error::host("read the mappings of the process above the tree");
        let host = maps::parse(&proc::read(self.home.init, "maps").map_err(failed())?);
        let mut all = outlines(&[&self.state, new]);
        all.push(host.map_err(|bad| failed()(bad.into()))?);
        let all: Vec<&[maps::Mapping]> = all.iter().map(Vec::as_slice).collect();
        let (from, to) = (self.family.area.start, place(&all)?);
        let Family { machine, puppets, .. } = &mut self.family;
        for puppet in puppets.values().filter(|puppet| !puppet.dead) {
            move_area(machine, (puppet.threads[0], puppet.base), from, to)?;
        }
        self.family.area.start = to;
        Ok(())
    }

    /// Objects that are the same keep their memory, with the new size.
    fn renew_objects(&mut self, new: &State) -> Result<(), Error> {
        let mut before = std::mem::take(&mut self.objects);
        for object in &new.objects {
            let same = before.iter().position(|(old, _)| layout::same_object(old, object));
            let fd = match same.map(|at| before.swap_remove(at)) {
                Some((old, fd)) => {
                    if old.size != object.size {
                        let sized = rustix::fs::ftruncate(&fd, object.size);
                        let what = format!("size memory object {}", object.id);
                        sized.map_err(|error| Error::host(what)(error.into()))?;
                    }
                    fd
                }
                None => create_object(object)?,
            };
            self.objects.push((object.clone(), fd));
        }
        Ok(())
    }

    /// What changes in every address space, from those of `old`. `inherited`: the objects' numbers in a tree that is all new.
    pub(super) fn map_all(
        &mut self,
        old: &State,
        followed: &Succession,
        inherited: Option<&ObjectFds>,
        last: bool,
    ) -> Result<(), Error> {
        let state = std::mem::take(&mut self.state);
        let result = self.map_state(&state, old, followed, inherited, last);
        self.state = state;
        result
    }

    fn map_state(
        &mut self,
        state: &State,
        old: &State,
        followed: &Succession,
        inherited: Option<&ObjectFds>,
        last: bool,
    ) -> Result<(), Error> {
        let mut works = Vec::new();
        for task in state.tasks.iter().filter(|task| task.space.is_some()) {
            let space = state.spaces.iter().find(|space| Some(space.id) == task.space);
            let space =
                space.ok_or_else(|| Error::Damaged(format!("process {} has no address space", task.pid)))?;
            let work = self.work(task, space, old, followed, last);
            if !work.is_empty() {
                works.push(work);
            }
        }
        // Two batches where descriptor tables are shared: what one closes is closed for the other.
        let shared = works.iter().any(|work| work.task.shares_files_with.is_some());
        let area = (self.family.area.start, AREA_BYTES);
        for pass in 0..if shared { 2 } else { 1 } {
            for work in &mut works {
                let mut program = Program::new(self.family.layout());
                let pid = work.task.pid;
                if pass == 0 {
                    let own;
                    let objects = match inherited {
                        Some(objects) => objects,
                        None => {
                            own = self.pass_objects(work)?;
                            work.passed = !own.is_empty();
                            &own
                        }
                    };
                    let leader = self.family.actor(pid)?.0;
                    let rseq =
                        ptrace::rseq(leader.tid).map_err(Error::host("read the rseq area of a puppet"))?;
                    mapping::begin(&mut program, state, work, objects, area, rseq)?;
                }
                let set = if !shared || pass == 1 { mapping::complete(&mut program, work)? } else { None };
                self.family.run(pid, &mut program)?;
                program.check(0..program.len())?;
                if set.is_some_and(|set| program.result(set) >= 0) {
                    self.without_exe.remove(&pid);
                } else if set.is_some() || (pass == 0 && work.changes.first() == Some(&Change::Empty)) {
                    self.without_exe.insert(pid);
                }
            }
        }
        for work in works.iter().filter(|work| work.changes.first() != Some(&Change::Empty)) {
            self.join_mappings(work.task.pid, work.space)?;
        }
        if inherited.is_none() || !last {
            self.follow_files(state)?;
        }
        if !last {
            return Ok(());
        }
        for task in state.tasks.iter().filter(|task| task.space.is_some()) {
            self.family.adopt_threads(task.pid)?;
            let threads = self.family.puppets[&task.pid].threads.len();
            if threads != task.threads.len() {
                return Err(Error::Damaged(format!("process {} has {threads} threads", task.pid)));
            }
        }
        Ok(())
    }

    /// A file that was staged once more since it was mapped is another one.
    fn follow_files(&mut self, state: &State) -> Result<(), Error> {
        let anew = self.staged_anew(state);
        if anew.is_empty() {
            return Ok(());
        }
        for task in &state.tasks {
            let Some(space) = state.spaces.iter().find(|space| Some(space.id) == task.space) else {
                continue;
            };
            self.map_files_anew(task.pid, space, &anew)?;
        }
        Ok(())
    }

    fn work<'a>(
        &self,
        task: &'a Task,
        space: &'a Space,
        old: &State,
        followed: &Succession,
        last: bool,
    ) -> Work<'a> {
        let stays =
            old.tasks.iter().find(|before| before.pid == task.pid && followed.stay.contains(&task.pid));
        let before = stays.and_then(|before| old.spaces.iter().find(|space| Some(space.id) == before.space));
        let fresh = Space { id: space.id.wrapping_add(1), ..Space::default() };
        let changes = layout::changes(before.unwrap_or(&fresh), space);
        let anew = changes.first() == Some(&Change::Empty);
        let with_exe = !anew && !self.without_exe.contains(&task.pid);
        let same = before.is_some_and(|before| (before.layout, &before.auxv) == (space.layout, &space.auxv));
        let fields = match (with_exe, last) {
            (true, _) if same => Fields::Stay,
            (true, true) => Fields::Set,
            // What a draft says of brk is a guess, and what counts comes at the end.
            (true, false) => Fields::Stay,
            (false, true) => Fields::All,
            (false, false) if self.has_file(&space.exe) => Fields::Try,
            (false, false) => Fields::Stay,
        };
        Work { task, space, changes, fields, threads: last, passed: false }
    }

    /// Passes those objects to a puppet that it is to map: their numbers there.
    fn pass_objects(&mut self, work: &Work<'_>) -> Result<ObjectFds, Error> {
        let wanted: BTreeSet<u32> = work
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Map(vma) => Some(&vma.backing),
                _ => None,
            })
            .filter_map(|backing| if let Backing::Object { id, .. } = backing { Some(*id) } else { None })
            .collect();
        let objects: Vec<(u32, BorrowedFd<'_>)> = self
            .objects
            .iter()
            .filter(|(object, _)| wanted.contains(&object.id))
            .map(|(object, fd)| (object.id, fd.as_fd()))
            .collect();
        let (tracee, site) = self.family.actor(work.task.pid)?;
        let scratch = self.family.layout().data;
        let fds: Vec<BorrowedFd<'_>> = objects.iter().map(|(_, fd)| *fd).collect();
        let Family { machine, area, .. } = &mut self.family;
        let passed = passing::pass(machine, (tracee, &site), &area.reach(), scratch, &fds)?;
        Ok(objects.iter().map(|(id, _)| *id).zip(passed).collect())
    }
}

/// Memory with content of those who stay and may bear children.
fn shields(old: &State, followed: &Succession) -> BTreeMap<i32, Vec<(u64, u64)>> {
    let acts = |pid: i32| followed.births.acts.iter().any(|(actor, _)| *actor == pid);
    let mut all = BTreeMap::new();
    for task in old.tasks.iter().filter(|task| followed.stay.contains(&task.pid) && acts(task.pid)) {
        let Some(space) = old.spaces.iter().find(|space| Some(space.id) == task.space) else { continue };
        if matches!(task.life, Life::Zombie { .. }) {
            continue;
        }
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for vma in &space.vmas {
            if matches!(vma.backing, Backing::Kernel { .. }) || vma.flags & vma::DONTFORK != 0 {
                continue;
            }
            match ranges.last_mut() {
                Some((_, end)) if *end == vma.start => *end = vma.end,
                _ => ranges.push((vma.start, vma.end)),
            }
        }
        all.insert(task.pid, ranges);
    }
    all
}
