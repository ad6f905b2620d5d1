//! The whole tree: every step of a capture in its order.

use super::memory::{self, Known};
use super::relations::{self, Kin};
use super::seize::{Seized, SeizedTask, SeizedThread};
use super::site::{Site, leftover, thread_site};
use super::{Captured, Context, Error, interrupted, process, space, thread};
use crate::records::task::{SignalInfo, Task, Wait};
use crate::records::{State, VERSION};
use ferry_sys::kcmp::{self, What};
use ferry_sys::proc::maps::Mapping;
use ferry_sys::proc::{self, timers};
use ferry_sys::ptrace;
use ferry_sys::remote::Reach;
use ferry_sys::schedule;
use std::cmp::Ordering;

impl Seized {
    /// Reads everything but the content of memory and files. Afterwards the tasks are as they were when they were stopped, so
    /// that their cgroup can be frozen again, and they be released or killed at any time.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what this version cannot move; the tree is still stopped and whole.
    pub fn capture(&mut self, context: &Context) -> Result<Captured, Error> {
        for at in 0..self.tasks.len() {
            refuse(&self.tasks, at)?;
        }
        let stats = self.machine.stats;
        let result = self.capture_all(context);
        for at in 0..self.tasks.len() {
            self.leave_site(at)?;
        }
        let mut captured = result?;
        captured.stats = self.machine.stats;
        captured.stats.calls -= stats.calls;
        captured.stats.batches -= stats.batches;
        captured.stats.lone -= stats.lone;
        Ok(captured)
    }

    fn capture_all(&mut self, context: &Context) -> Result<Captured, Error> {
        let mut state = State { version: VERSION, ..State::default() };
        let mut numbers = context.numbers.clone();
        let kin = self.kin();
        let order: Vec<(usize, Task)> =
            relations::parents_first(&kin).into_iter().map(|at| (at, relations::task(&kin, at))).collect();
        for (at, _) in order.iter().filter(|(at, _)| kin[*at].alive) {
            numbers.space(kin[*at].ids.host_pid);
        }
        let mut objects = memory::Objects::new(numbers, true);
        let mut access = Vec::new();
        let mut waits = Vec::new();
        for (at, mut task) in order {
            if self.tasks[at].threads.is_empty() {
                state.tasks.push(task);
                continue;
            }
            let (pid, ns_pid) = (self.tasks[at].ids.host_pid, self.tasks[at].ids.ns_pid);
            self.settle_threads(at)?;
            let mut maps = memory::mappings(pid)?;
            if let Some(late) = self.late.take() {
                self.advice.extend(late.end());
            }
            if let Some((start, len)) = leftover(pid, &maps) {
                maps.retain(|mapping| mapping.start < start || mapping.end > start + len);
            }
            let mut space = memory::describe((pid, ns_pid), &maps, self.advice.get(&pid), &mut objects)?;
            let known = match context.tracked.contains(&space.id) {
                true if context.guards_known => Known::All,
                true => Known::Content,
                false => Known::Nothing,
            };
            let content = memory::content(&mut space, pid, known)?;
            let answers = self.ask(at, &maps, &mut task)?;
            let waiting = self.look_at_waits(at, &context.waits, &mut waits);
            task.threads.iter_mut().zip(waiting).for_each(|(thread, wait)| thread.wait = wait);
            space::fill(&mut space, pid, &self.tasks[at].stat, &maps, &answers)?;
            task.space = Some(space.id);
            state.spaces.push(space);
            access.push(content);
            state.tasks.push(task);
        }
        state.objects = objects.found;
        access.extend(objects.access);
        Ok(Captured { state, memory: access, waits, stats: ferry_sys::remote::Stats::default() })
    }

    /// Leaves restartable sequences and lets calls begin again that were interrupted by nothing but us.
    pub(super) fn settle_threads(&mut self, at: usize) -> Result<(), Error> {
        let task = &mut self.tasks[at];
        for thread in &mut task.threads {
            interrupted::leave_rseq(task.ids.host_pid, thread)
                .map_err(Error::read("the rseq area", thread.tid))?;
            let before = thread.registers;
            let [own, shared, ..] = thread.status.signals;
            interrupted::begin_again(&mut thread.registers, thread.mask, own | shared);
            thread.dirty |= before != thread.registers;
        }
        let pending = task
            .threads
            .iter()
            .fold(0, |bits, thread| bits | thread.status.signals[0] | thread.status.signals[1]);
        // The signal that ends a batch must not be one that is on its way.
        let free = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD]
            .into_iter()
            .find(|signal| pending >> (signal - 1) & 1 == 0);
        self.machine.signal = free.unwrap_or(libc::SIGURG);
        Ok(())
    }

    /// Asks the leader and then every thread, and reads what only they and ptrace can tell.
    fn ask(&mut self, at: usize, maps: &[Mapping], task: &mut Task) -> Result<process::SpaceAnswers, Error> {
        let pid = self.tasks[at].ids.host_pid;
        let text = proc::read(pid, "timers").unwrap_or_default();
        let timers = timers::parse(&text).map_err(|bad| Error::read("the timers", pid)(bad.into()))?;
        Site::enter(self, at, maps)?;
        let task_seized = &self.tasks[at];
        let Some(site) = &task_seized.site else { unreachable!("it has just been entered") };
        let mut program = site.program();
        let fired = if timers.is_empty() { Vec::new() } else { fired_timers(pid)? };
        let questions = process::Questions::ask(&mut program, &timers, task_seized.ids.ns_pid, &fired);
        let mut parts = Vec::new();
        for index in 0..task_seized.threads.len() {
            let first = if index == 0 { 0 } else { program.len() };
            let asked = thread::Questions::ask(&mut program);
            parts.push((first, program.len(), asked));
        }
        debug_assert!(questions.len() <= program.len());
        let reach = Reach::Process(pid);
        reach.load(&program)?;
        for (index, (first, end, _)) in parts.iter().enumerate() {
            let (tracee, call) = (self.tasks[at].tracee(index), thread_site(&self.tasks[at], index));
            let Some(site) = &self.tasks[at].site else { unreachable!("it has just been entered") };
            let records = site.record(*first);
            self.tasks[at].threads[index].dirty = true;
            self.machine.start(tracee, &call, records, end - first)?;
        }
        for index in 0..parts.len() {
            let (tracee, call) = (self.tasks[at].tracee(index), thread_site(&self.tasks[at], index));
            self.machine.finish(tracee, &call)?;
        }
        reach.store(&mut program)?;
        program.check(0..program.len())?;
        let answers = questions.answer(&program, &timers, task);
        self.translate_timer_threads(at, task);
        // After the timers: one that fires in between is then rather seen twice than never.
        for (index, (.., asked)) in parts.iter().enumerate() {
            let seized = &self.tasks[at].threads[index];
            let mut record = thread::look(seized).map_err(Error::read("the registers", seized.tid))?;
            asked.answer(&program, &mut record);
            record.pending =
                thread::pending(seized.tid, false).map_err(Error::read("pending signals", seized.tid))?;
            task.threads.push(record);
        }
        task.pending = thread::pending(pid, true).map_err(Error::read("pending signals", pid))?;
        merge_timers(&mut task.pending);
        Ok(answers)
    }

    /// `/proc/PID/timers` names tasks as this host sees them; the record needs them as they see themselves.
    fn translate_timer_threads(&self, at: usize, task: &mut Task) {
        let seized = &self.tasks[at];
        for timer in &mut task.timers {
            let thread = seized.threads.iter().find(|thread| thread.tid == timer.thread);
            timer.thread = thread.map_or(seized.ids.ns_pid, |thread| thread.ns_tid);
        }
    }

    /// What the threads of a process wait for, and for how long still; what of it the next capture should know is added to `waits`.
    fn look_at_waits(
        &self,
        at: usize,
        known: &[interrupted::KnownWait],
        waits: &mut Vec<interrupted::KnownWait>,
    ) -> Vec<Option<Wait>> {
        let seized = &self.tasks[at];
        let now = schedule::boottime_ns();
        let look = |thread: &SeizedThread| {
            let observed = self.observed.get(&thread.tid);
            let wait = interrupted::wait_of(seized.ids.host_pid, thread, observed, known, now)?;
            waits.push(interrupted::KnownWait {
                tid: thread.ns_tid,
                instruction: thread.registers.rip,
                call: wait.call,
                end_ns: wait.left_ns.map(|left| now + left),
            });
            Some(wait)
        };
        seized.threads.iter().map(look).collect()
    }

    /// Notes in `known` what the threads wait for that are stopped: after this stop it could not be told any more.
    pub(crate) fn note_waits(&self, known: &mut Vec<interrupted::KnownWait>) {
        let mut waits = Vec::new();
        for at in 0..self.tasks.len() {
            self.look_at_waits(at, known, &mut waits);
        }
        known.retain(|before| waits.iter().all(|wait| wait.tid != before.tid));
        known.append(&mut waits);
    }

    /// The processes, as far as their relations go.
    fn kin(&self) -> Vec<Kin<'_>> {
        self.tasks
            .iter()
            .map(|task| Kin {
                ids: task.ids,
                stat: &task.stat,
                status: &task.status,
                alive: !task.threads.is_empty(),
                stopped: task.threads.iter().find_map(|thread| thread.group_stop),
            })
            .collect()
    }
}

const SI_TIMER: i32 = -2;

/// A word of a `siginfo_t`: number at 0, code at 8; of a timer's signal the timer at 16 and the overrun at 20.
fn word(info: &[u8], at: usize) -> i32 {
    info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes)
}

/// Numbers of the signals of POSIX timers that wait for the process to take them, each as often as it waits.
fn fired_timers(pid: i32) -> Result<Vec<i32>, Error> {
    let pending = ptrace::pending(pid, true).map_err(Error::read("pending signals", pid))?;
    let by_timer =
        |signal: i32| pending.iter().any(|info| word(info, 0) == signal && word(info, 8) == SI_TIMER);
    Ok(pending.iter().map(|info| word(info, 0)).filter(|signal| by_timer(*signal)).collect())
}

/// A timer has one signal at most; what an earlier move has queued is added to its overrun.
fn merge_timers(pending: &mut Vec<SignalInfo>) {
    let mut merged: Vec<SignalInfo> = Vec::with_capacity(pending.len());
    for info in pending.drain(..) {
        let same = |other: &&mut SignalInfo| {
            word(&info.0, 8) == SI_TIMER
                && [0, 8, 16].iter().all(|at| word(&info.0, *at) == word(&other.0, *at))
        };
        match merged.iter_mut().find(same) {
            Some(first) => {
                let overrun = word(&first.0, 20).saturating_add(word(&info.0, 20)).saturating_add(1);
                first.0[20..24].copy_from_slice(&overrun.to_ne_bytes());
            }
            None => merged.push(info),
        }
    }
    *pending = merged;
}

/// Refuses what this version cannot rebuild.
pub(super) fn refuse(tasks: &[SeizedTask], at: usize) -> Result<(), Error> {
    const CODE_SEGMENT_32: u64 = 0x23;
    let task = &tasks[at];
    let pid = task.ids.ns_pid;
    let same = |one: i32, two: i32, what: What| {
        kcmp::compare(one, two, what)
            .map(|order| order == Ordering::Equal)
            .map_err(Error::read("what it shares", one))
    };
    for thread in &task.threads {
        if thread.status.seccomp != 0 {
            return Err(Error::unsupported(pid, "a seccomp filter"));
        }
        if thread.registers.cs == CODE_SEGMENT_32 {
            return Err(Error::unsupported(pid, "32-bit code"));
        }
        if !thread.status.thread_features.is_empty() {
            return Err(Error::unsupported(pid, "a shadow stack"));
        }
        if thread.tid != task.ids.host_pid && !same(task.ids.host_pid, thread.tid, What::FileSystem)? {
            let what = format!("thread {} has a working directory of its own", thread.ns_tid);
            return Err(Error::unsupported(pid, what));
        }
    }
    let apart: Vec<i32> =
        task.threads.iter().filter(|thread| thread.own_files).map(|thread| thread.tid).collect();
    for (at, one) in apart.iter().enumerate() {
        for two in &apart[..at] {
            if same(*one, *two, What::Files)? {
                return Err(Error::unsupported(
                    pid,
                    "two threads share descriptors apart from their process",
                ));
            }
        }
    }
    let Some(first) = task.threads.first() else { return Ok(()) };
    for other in tasks[..at].iter().filter(|other| !other.threads.is_empty()) {
        let related = task.stat.parent == other.ids.host_pid;
        if !related && same(first.tid, other.threads[0].tid, What::Files)? {
            let what = format!(
                "its descriptors are shared with process {}, which is not its parent",
                other.ids.ns_pid
            );
            return Err(Error::unsupported(pid, what));
        }
        if same(first.tid, other.threads[0].tid, What::FileSystem)? {
            let what = format!("its working directory is shared with process {}", other.ids.ns_pid);
            return Err(Error::unsupported(pid, what));
        }
        if same(first.tid, other.threads[0].tid, What::Space)? {
            let what = format!("its memory is shared with process {}", other.ids.ns_pid);
            return Err(Error::unsupported(pid, what));
        }
    }
    Ok(())
}
