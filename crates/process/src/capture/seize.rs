//! Attaching to a whole tree: every thread of every process, until no new one appears.
//!
//! What is dear to read (VmFlags, which cost a walk of the page tables) and what can only be known before (since when a thread
//! waits) is observed while the tree still runs.

use super::Error;
use super::advice::Advice;
use super::interrupted::{self, Observed};
use super::memory::{self, LateAdvice};
use super::scope::{Member, Scope, is_zombie, scan, with_zombies};
use super::site::Site;
use ferry_sys::kcmp::{self, What};
use ferry_sys::proc::stat::{self, Stat};
use ferry_sys::proc::status::{self, Status};
use ferry_sys::ptrace::{self, Registers, Stop};
use ferry_sys::remote::{Machine, Tracee};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

/// A process, by its two ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskRef {
    /// As this host's `/proc` has it.
    pub host_pid: i32,
    /// As it sees itself.
    pub ns_pid: i32,
}

/// One stopped thread.
#[derive(Clone, Debug)]
pub struct SeizedThread {
    /// As this host sees it.
    pub tid: i32,
    /// As it sees itself.
    pub ns_tid: i32,
    /// Registers with which it will go on.
    pub registers: Registers,
    /// Its mask of blocked signals.
    pub mask: u64,
    /// The signal of the group stop that it was in.
    pub group_stop: Option<i32>,
    /// `/proc/PID/task/TID/status`.
    pub status: Status,
    /// Has a descriptor table of its own, apart from that of its process.
    pub own_files: bool,
    /// Registers or mask in the kernel are not those above at the moment.
    pub(super) dirty: bool,
}

/// One process of the tree.
#[derive(Debug)]
pub struct SeizedTask {
    /// Its ids.
    pub ids: TaskRef,
    /// `/proc/PID/stat`.
    pub stat: Stat,
    /// `/proc/PID/status` of the leader.
    pub status: Status,
    /// Threads, the leader first; empty for a zombie.
    pub threads: Vec<SeizedThread>,
    pub(super) site: Option<Site>,
}

impl SeizedTask {
    pub(super) fn tracee(&self, thread: usize) -> Tracee {
        let thread = &self.threads[thread];
        Tracee { tid: thread.tid, ns_pid: self.ids.ns_pid, ns_tid: thread.ns_tid }
    }
}

/// A tree whose every thread is stopped. Dropping it lets go of it as [`Seized::release`] does.
#[derive(Debug)]
pub struct Seized {
    pub(super) tasks: Vec<SeizedTask>,
    pub(super) machine: Machine,
    pub(super) observed: HashMap<i32, Observed>,
    pub(super) advice: HashMap<i32, Advice>,
    /// Fresher advice, on its way.
    pub(super) late: Option<LateAdvice>,
    pub(super) done: bool,
    since: Instant,
}

/// How long a thread may take to stop before the attempt is given up and begun again: a parent waiting for its vfork child is
/// in an uninterruptible wait, but not for long.
const STOP_WAIT_MAX: Duration = Duration::from_millis(100);
/// How long to look for a stop before sleeping a little. Not in turns with others that want the processor: a thread that yields on
/// a busy machine waits for each of them.
const LOOK_BEFORE_SLEEP: Duration = Duration::from_micros(200);
/// How long it may be in such a wait where the others of its process stand still meanwhile, and the next attempt is as good.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long a thread is waited for that was asked to stop and is to be let go of.
const LET_GO_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long to try in all.
const TRIES_MAX: Duration = Duration::from_secs(5);

/// What was seen of a tree while it ran.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    observed: HashMap<i32, Observed>,
    advice: HashMap<i32, Advice>,
}

impl Looked {
    /// Looks at these now. `flags` of the mappings of a process, where they are known; `None`: they are read, too.
    pub(crate) fn at(found: &[Member], flags: impl Fn(i32) -> Option<Advice>) -> Self {
        let mut looked = Self::default();
        for member in found {
            looked.observed.extend(interrupted::observe(member.pid));
            if let Some(advice) = flags(member.pid).or_else(|| memory::observe(member.pid)) {
                looked.advice.insert(member.pid, advice);
            }
        }
        looked
    }
}

/// Looks at a tree that runs, for [`seize_frozen`]: at what is dear to read, and what can only be known before a freeze. It stops
/// nothing.
///
/// # Errors
/// When the scope cannot be read.
pub fn look(scope: &Scope) -> Result<Looked, Error> {
    Ok(Looked::at(&scan(scope)?, |_| None))
}

/// Stops every thread of a tree that runs.
///
/// # Errors
/// [`Error::Stuck`] when a thread is in an uninterruptible wait; then everything runs on as before.
pub fn seize(scope: &Scope) -> Result<Seized, Error> {
    patiently(|| {
        let found = scan(scope)?;
        let looked = Looked::at(&found, |_| None);
        let mut seized = try_seize(scope, found, looked, (1, STOP_WAIT_MAX))?;
        // Before, they ran.
        seized.late = late_advice(&seized.pids(), &seized.advice);
        Ok(seized)
    })
}

/// Stops every thread of one process for a moment: the flags of its mappings are not read, and one attempt is made.
///
/// # Errors
/// As [`seize`].
pub(crate) fn seize_process(pid: i32) -> Result<Seized, Error> {
    let scope = Scope::Process(pid);
    let looked = Looked { observed: interrupted::observe(pid), ..Looked::default() };
    try_seize(&scope, scan(&scope)?, looked, (1, PATIENCE))
}

/// Stops every thread of a tree whose cgroup is frozen, and that was looked at before. The tasks stay stopped when the cgroup is
/// thawed afterwards, and it must be thawed for [`Seized::capture`] to ask them anything.
///
/// # Errors
/// As [`seize`].
pub fn seize_frozen(scope: &Scope, looked: &Looked) -> Result<Seized, Error> {
    patiently(|| {
        let found = scan(scope)?;
        // They stand still already: their flags are read beside the stopping.
        let pids: Vec<i32> = found.iter().map(|member| member.pid).collect();
        let late = late_advice(&pids, &looked.advice);
        match try_seize(scope, found, looked.clone(), (2, STOP_WAIT_MAX)) {
            Ok(mut seized) => {
                seized.late = late;
                Ok(seized)
            }
            Err(error) => {
                late.map(LateAdvice::end);
                Err(error)
            }
        }
    })
}

/// Fresher flags, or none: then those are used that were seen a moment ago, or they are read in their turn.
fn late_advice(pids: &[i32], early: &HashMap<i32, Advice>) -> Option<LateAdvice> {
    LateAdvice::begin(pids, early).ok()
}

fn patiently(mut attempt: impl FnMut() -> Result<Seized, Error>) -> Result<Seized, Error> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Err(Error::Stuck { .. }) if begin.elapsed() < TRIES_MAX => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// `stops`: how often each thread has been stopped by Ferry since it was looked at. `patience`: how long one may be in an
/// uninterruptible wait.
fn try_seize(
    scope: &Scope,
    found: Vec<Member>,
    looked: Looked,
    (stops, patience): (u64, Duration),
) -> Result<Seized, Error> {
    let mut seized = Seized {
        tasks: Vec::new(),
        machine: Machine::default(),
        observed: looked.observed,
        advice: looked.advice,
        late: None,
        done: false,
        since: Instant::now(),
    };
    let mut attached: Vec<(i32, i32)> = Vec::new();
    let (found, stopped) = match stop_all(scope, found, &mut attached, patience) {
        Ok(done) => done,
        Err(error) => {
            let_go(&attached);
            return Err(error);
        }
    };
    if let Err(error) = seized.read_identities(&found, &stopped) {
        let_go(&attached);
        seized.done = true;
        return Err(error);
    }
    if seized.tasks.is_empty() {
        return Err(Error::Empty);
    }
    let threads = seized.tasks.iter().flat_map(|task| &task.threads);
    let switches: HashMap<i32, u64> =
        threads.map(|thread| (thread.tid, thread.status.voluntary_switches)).collect();
    seized
        .observed
        .retain(|tid, observed| switches.get(tid).is_some_and(|switches| observed.is_of(*switches, stops)));
    Ok(seized)
}

/// A thread that stopped: its process, itself, the signal of a group stop that it was in.
type Stopped = (i32, i32, Option<i32>);

/// Stops every thread, `found` first. A thread may make another until it has really stopped: so the scope is looked at again when all
/// that were known have, until there is nothing new. Returns the last look and what stopped.
fn stop_all(
    scope: &Scope,
    mut found: Vec<Member>,
    attached: &mut Vec<(i32, i32)>,
    patience: Duration,
) -> Result<(Vec<Member>, Vec<Stopped>), Error> {
    let mut known = HashSet::new();
    let mut stops = Vec::new();
    loop {
        let before = attached.len();
        attach_new(&found, &mut known, attached)?;
        if attached.len() == before {
            return Ok((found, stops));
        }
        for &(pid, tid) in &attached[before..] {
            if let Some(signal) = stop_one(tid, patience)? {
                stops.push((pid, tid, (signal != libc::SIGTRAP).then_some(signal)));
            }
        }
        found = scan(scope)?;
    }
}

/// Attaches to the threads that are not known yet, and asks them to stop.
fn attach_new(
    found: &[Member],
    known: &mut HashSet<i32>,
    attached: &mut Vec<(i32, i32)>,
) -> Result<(), Error> {
    for (pid, tid) in found.iter().flat_map(|member| member.threads.iter().map(|tid| (member.pid, *tid))) {
        if !known.insert(tid) {
            continue;
        }
        let options = ptrace::TRACE_SYSGOOD | ptrace::SUSPEND_SECCOMP;
        let result = ptrace::seize(tid, options).or_else(|error| match error.raw_os_error() {
            // SUSPEND_SECCOMP needs a privilege and a kernel option; without it only filtered tasks suffer.
            Some(libc::EPERM | libc::EINVAL) => ptrace::seize(tid, ptrace::TRACE_SYSGOOD),
            _ => Err(error),
        });
        match result {
            Ok(()) => {
                attached.push((pid, tid));
                ptrace::interrupt(tid).map_err(Error::read("a stop", tid))?;
            }
            // Gone, or a zombie, which nobody can attach to.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(_) if is_zombie(pid, tid) => {}
            Err(source) => {
                return Err(Error::Read { what: "the state".into(), pid: tid, source });
            }
        }
    }
    Ok(())
}

/// Signal of the stop, or `None` when the thread ended.
fn stop_one(tid: i32, patience: Duration) -> Result<Option<i32>, Error> {
    let begin = Instant::now();
    let mut pause = Duration::from_micros(20);
    loop {
        match ptrace::look(tid, LOOK_BEFORE_SLEEP) {
            Ok(Some(Stop::Event { signal })) => return Ok(Some(signal)),
            // A signal that was on its way: let it be delivered; the stop follows before any of its handler runs.
            Ok(Some(Stop::Signal(signal))) => {
                ptrace::cont(tid, signal).map_err(Error::read("a stop", tid))?
            }
            Ok(Some(Stop::Call | Stop::Other(_))) => {
                ptrace::cont(tid, 0).map_err(Error::read("a stop", tid))?
            }
            Ok(Some(Stop::Gone(_))) => return Ok(None),
            Ok(None) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(1));
                // On a busy host a thread takes its time to get a processor: that is no reason.
                let waited = begin.elapsed();
                if waited > STOP_WAIT_MAX || (waited > patience && is_uninterruptible(tid)) {
                    return Err(Error::Stuck { tid, waited });
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            Err(source) => return Err(Error::Read { what: "a stop".into(), pid: tid, source }),
        }
    }
}

fn is_uninterruptible(tid: i32) -> bool {
    stat::read(tid).is_ok_and(|stat| stat.state == b'D')
}

/// Detaches from threads that may or may not have stopped.
fn let_go(attached: &[(i32, i32)]) {
    let mut left: Vec<i32> = attached.iter().map(|(_, tid)| *tid).collect();
    let begin = Instant::now();
    loop {
        left.retain(|tid| {
            let detached = match ptrace::poll(*tid) {
                Ok(Some(Stop::Gone(_))) | Err(_) => return false,
                Ok(Some(Stop::Signal(signal))) => ptrace::detach(*tid, signal),
                // With nothing to tell it has stopped before, or not yet.
                Ok(_) => ptrace::detach(*tid, 0),
            };
            detached.is_err()
        });
        // Those that have not stopped will at their next chance. One that stays attached would stop then and never go on: so it is
        // waited for as long as is bearable.
        if left.is_empty() || begin.elapsed() > LET_GO_WAIT_MAX {
            return;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

impl Seized {
    fn pids(&self) -> Vec<i32> {
        self.tasks.iter().map(|task| task.ids.host_pid).collect()
    }

    /// When the first of them was stopped.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Who holds descriptors: every process that is stopped (zombies have none left), and threads with a table of their own.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskRef> {
        let mut all = Vec::new();
        for task in self.tasks.iter().filter(|task| !task.threads.is_empty()) {
            all.push(task.ids);
            let apart = task.threads.iter().filter(|thread| thread.own_files);
            all.extend(apart.map(|thread| TaskRef { host_pid: thread.tid, ns_pid: thread.ns_tid }));
        }
        all
    }

    fn read_identities(&mut self, found: &[Member], stops: &[Stopped]) -> Result<(), Error> {
        for pid in with_zombies(found) {
            let Ok(stat) = stat::read(pid) else { continue };
            let Ok(status) = status::read(&pid.to_string()) else { continue };
            let ids = TaskRef { host_pid: pid, ns_pid: status.ns_tgid.last().copied().unwrap_or(pid) };
            let mut threads = Vec::new();
            for &(_, tid, group_stop) in stops.iter().filter(|(owner, ..)| *owner == pid) {
                threads.push(read_thread(pid, tid, group_stop).map_err(Error::read("a thread", tid))?);
            }
            threads.sort_by_key(|thread| (thread.tid != pid, thread.tid));
            let zombie = matches!(stat.state, b'Z' | b'X');
            if !zombie && threads.is_empty() {
                continue;
            }
            if zombie && !threads.is_empty() {
                return Err(Error::unsupported(ids.ns_pid, "its first thread has ended while others run"));
            }
            self.tasks.push(SeizedTask { ids, stat, status, threads, site: None });
        }
        Ok(())
    }

    /// Puts registers, masks and mappings back as they were and lets go. The tree runs on, or stays frozen with its cgroup.
    ///
    /// # Errors
    /// The first thing that could not be put back; everything else was tried.
    pub fn release(mut self) -> Result<(), Error> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<(), Error> {
        self.done = true;
        let mut first = Ok(());
        for at in 0..self.tasks.len() {
            let result = self.leave_site(at);
            first = first.and(result);
        }
        let held = std::mem::take(&mut self.machine.held);
        for thread in self.tasks.iter().flat_map(|task| &task.threads) {
            let signal = held
                .iter()
                .find(|(tid, _)| *tid == thread.tid)
                .map_or(0, |(_, info)| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]));
            match ptrace::detach(thread.tid, signal) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    first = first.and(Err(Error::read("the trace", thread.tid)(error)));
                }
                _ => {}
            }
        }
        first
    }

    /// Kills every process of the tree and waits until all are gone. Zombies whose parent is outside are left to it.
    ///
    /// # Errors
    /// When a process cannot be killed.
    pub fn kill(mut self) -> Result<(), Error> {
        self.done = true;
        for task in self.tasks.iter().filter(|task| !task.threads.is_empty()) {
            match ptrace::send(task.ids.host_pid, libc::SIGKILL) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(Error::read("the end", task.ids.host_pid)(error));
                }
                _ => {}
            }
        }
        for task in &self.tasks {
            // The leader's end is only reported after that of the others.
            for thread in task.threads.iter().rev() {
                while let Ok(stop) = ptrace::wait(thread.tid) {
                    if matches!(stop, Stop::Gone(_)) {
                        break;
                    }
                    let _ = ptrace::cont(thread.tid, 0);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Seized {
    fn drop(&mut self) {
        self.late.take().map(LateAdvice::end);
        if !self.done {
            let _ = self.put_back();
        }
    }
}

fn read_thread(pid: i32, tid: i32, group_stop: Option<i32>) -> io::Result<SeizedThread> {
    let status = status::read(&format!("{pid}/task/{tid}"))?;
    Ok(SeizedThread {
        tid,
        ns_tid: status.ns_pid.last().copied().unwrap_or(tid),
        registers: ptrace::registers(tid)?,
        mask: ptrace::signal_mask(tid)?,
        group_stop,
        status,
        own_files: tid != pid && kcmp::compare(pid, tid, What::Files).is_ok_and(Ordering::is_ne),
        dirty: false,
    })
}
