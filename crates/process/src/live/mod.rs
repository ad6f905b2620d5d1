//! A running tree whose memory is tracked from outside: the source's side of a live move, before the pause.
//!
//! [`Tracking`] remembers, from round to round, which process has which address space, and gives each a number that stays. In a process that
//! is new, or executes another program since, it has a userfaultfd opened: that process stands still for the time of a few remote calls,
//! the others do not notice. What a tracker finds by it (`ferry_transfer::linux::TaskTracker`) needs no further stop.
//!
//! [`Tracking::refresh`] also reads a *draft*: the records of the tree as far as `/proc` shows them while it runs, from which the target
//! builds processes and address spaces early. The tree changes while it is read; a process that ends meanwhile is left out, and
//! the final capture, which uses the same numbers ([`Tracking::numbers`]), tells what was different.

pub mod direct;
mod draft;
mod flags;
mod identity;

use crate::capture::interrupted::KnownWait;
use crate::capture::relations::{self, Kin};
use crate::capture::{
    self, Error, Looked, Numbers, ObjectKey, Scope, TaskRef, is_zombie, scan, with_zombies,
};
use crate::records::State;
use ferry_sys::kcmp::What;
use ferry_sys::proc::maps::Mapping;
use ferry_sys::proc::{stat, stat::Stat, status, status::Status};
use ferry_transfer::access::SpaceAccess;
use ferry_transfer::space::SpaceId;
use flags::Flags;
use identity::Identity;
use rustix::fd::OwnedFd;
use std::collections::HashMap;

/// How often a process is asked for a userfaultfd that did not give one.
const ATTEMPTS_MAX: u32 = 3;

/// What is remembered of a tree from round to round. Nothing of it is in the tree itself: forgetting it ends nothing but the numbers.
#[derive(Debug, Default)]
pub struct Tracking {
    numbers: Numbers,
    known: HashMap<i32, Known>,
    /// Objects of the last draft, held so that their inodes are not used for others meanwhile.
    objects: HashMap<ObjectKey, OwnedFd>,
}

/// One process.
#[derive(Debug)]
struct Known {
    identity: Identity,
    /// Flags of its mappings.
    flags: Flags,
    watched: bool,
    attempts: u32,
}

/// What [`Tracking::refresh`] found.
#[derive(Debug)]
pub struct Tracked {
    /// The draft: tasks (with no thread but the leader, and of that only the number), spaces, objects.
    pub state: State,
    /// Address spaces whose writes can be tracked.
    pub spaces: Vec<TrackedSpace>,
    /// Where the memory objects of the draft are; their ranges are not filled in.
    pub objects: Vec<SpaceAccess>,
    /// Processes whose writes cannot be tracked, as they see themselves, and why: their memory goes in the pause.
    pub untracked: Vec<(i32, String)>,
}

/// An address space whose writes can be tracked.
#[derive(Debug)]
pub struct TrackedSpace {
    /// Its number.
    pub space: SpaceId,
    /// Its process, as this host sees it.
    pub pid: i32,
    /// Its userfaultfd, the first time: on which nothing was agreed yet, and of which there is no other copy.
    pub userfaultfd: Option<OwnedFd>,
}

/// A process as it was seen in one look.
struct Seen {
    ids: TaskRef,
    stat: Stat,
    status: Status,
    alive: bool,
}

impl Seen {
    fn look(pid: i32) -> Option<Self> {
        let stat = stat::read(pid).ok()?;
        let status = status::read(&pid.to_string()).ok()?;
        let ids = TaskRef { host_pid: pid, ns_pid: status.ns_tgid.last().copied().unwrap_or(pid) };
        let alive = !is_zombie(pid, pid);
        Some(Self { ids, stat, status, alive })
    }

    fn kin(&self) -> Kin<'_> {
        // By which signal it was stopped is only told while nobody has collected it.
        let signal = if self.stat.exit_code == 0 { libc::SIGSTOP } else { self.stat.exit_code };
        let stopped = (self.stat.state == b'T').then_some(signal);
        Kin { ids: self.ids, stat: &self.stat, status: &self.status, alive: self.alive, stopped }
    }
}

impl Tracking {
    /// Looks at the tree as it runs: opens a userfaultfd in every process that has none yet, and reads a draft. `left_out` says which
    /// mappings the target cannot make before the pause; `waits` is what the next capture of the tree is to be given as such.
    ///
    /// # Errors
    /// When the tree cannot be listed, or [`Error::Unsupported`] for what a capture would refuse, too. A process that ends meanwhile is
    /// none: it is left out.
    pub fn refresh(
        &mut self,
        scope: &Scope,
        left_out: &dyn Fn(&Mapping) -> bool,
        waits: &mut Vec<KnownWait>,
    ) -> Result<Tracked, Error> {
        let found = with_zombies(&scan(scope)?);
        let mut seen: Vec<Seen> = found.into_iter().filter_map(Seen::look).collect();
        self.forget_the_gone(&seen);
        let mut untracked = Vec::new();
        let memory = sharing(&seen, What::Space);
        let files = sharing(&seen, What::Files);
        let mut spaces = Vec::new();
        for (at, one) in seen.iter().enumerate().filter(|(_, one)| one.alive) {
            let pid = one.ids.host_pid;
            if !self.knows(pid)? {
                continue;
            }
            let shared = |with: &[Option<usize>], what: &str| {
                let other = with[at]?;
                Some(format!("it shares its {what} with process {}", seen[other].ids.ns_pid))
            };
            let shared = shared(&memory, "memory").or_else(|| shared(&files, "descriptors"));
            match self.open(pid, shared, waits) {
                Ok(userfaultfd) => {
                    let space = SpaceId(self.numbers.space(pid));
                    spaces.push(TrackedSpace { space, pid, userfaultfd });
                    if direct::is_open_in(pid) {
                        let why =
                            "it has a file open for direct I/O: what a device writes by itself is not noted";
                        untracked.push((one.ids.ns_pid, why.into()));
                    }
                }
                Err(why) => untracked.push((one.ids.ns_pid, why)),
            }
        }
        // Of those in one address space (vfork, until it executes a program) the first stands for it; the others come later.
        let mut at = 0..;
        seen.retain(|_| at.next().and_then(|at| memory[at].filter(|other| *other < at)).is_none());
        let (state, objects) = self.draft(&seen, left_out)?;
        let drafted = |space: &TrackedSpace| state.spaces.iter().any(|other| other.id == space.space.0);
        // One that has ended since: its userfaultfd is closed, and if it lives on as another program, it is new the next time.
        spaces.retain(drafted);
        Ok(Tracked { state, spaces, objects, untracked })
    }

    /// The numbers that a capture of the tree, which stands still by now, is to use.
    #[must_use]
    pub fn numbers(&mut self) -> Numbers {
        let known = std::mem::take(&mut self.known);
        for (pid, known) in known {
            if known.identity.is_of(pid) {
                self.known.insert(pid, known);
            } else {
                self.numbers.forget_space(pid);
            }
        }
        self.numbers.clone()
    }

    /// As [`capture::look`], for the capture of the tree that is to come, with what the last draft has seen already: reading the flags of
    /// mappings takes as long as memory is large, and the tree writes on meanwhile.
    ///
    /// # Errors
    /// When the tree cannot be listed.
    pub fn look(&self, scope: &Scope) -> Result<Looked, Error> {
        let known = |pid: i32| self.known.get(&pid).filter(|known| known.identity.is_of(pid));
        Ok(Looked::at(&scan(scope)?, |pid| known(pid)?.flags.still(pid)))
    }

    /// Processes whose memory is watched, as this host sees them.
    #[must_use]
    pub fn watched(&self) -> &std::collections::HashSet<i32> {
        self.numbers.watched()
    }

    fn forget_the_gone(&mut self, seen: &[Seen]) {
        let alive = |pid: i32| seen.iter().any(|one| one.alive && one.ids.host_pid == pid);
        let gone: Vec<i32> = self
            .known
            .iter()
            .filter(|(pid, known)| !alive(**pid) || !known.identity.is_of(**pid))
            .map(|(pid, _)| *pid)
            .collect();
        gone.into_iter().for_each(|pid| self.forget(pid));
    }

    fn forget(&mut self, pid: i32) {
        self.known.remove(&pid);
        self.numbers.forget_space(pid);
    }

    /// Makes sure that the process is known; false: it has no address space any more, or not yet.
    fn knows(&mut self, pid: i32) -> Result<bool, Error> {
        if self.known.contains_key(&pid) {
            return Ok(true);
        }
        let Some(identity) = Identity::of(pid)? else { return Ok(false) };
        let known = Known { identity, flags: Flags::default(), watched: false, attempts: 0 };
        self.known.insert(pid, known);
        Ok(true)
    }

    /// Has a userfaultfd opened in a process, if there was none yet. `shared`: why that cannot be done now.
    fn open(
        &mut self,
        pid: i32,
        shared: Option<String>,
        waits: &mut Vec<KnownWait>,
    ) -> Result<Option<OwnedFd>, String> {
        let Some(known) = self.known.get_mut(&pid) else { return Err("it is new".into()) };
        match shared {
            _ if known.watched => return Ok(None),
            Some(why) => return Err(why),
            None if known.attempts >= ATTEMPTS_MAX => {
                return Err(format!("it could not be given a userfaultfd in {ATTEMPTS_MAX} attempts"));
            }
            None => {}
        }
        let taken = capture::seize_process(pid).and_then(|mut seized| {
            seized.note_waits(waits);
            let taken = seized.take_userfaultfd();
            seized.release().and(taken)
        });
        // One that waits for a disk, or for its child to execute a program, is asked again the next time.
        known.attempts += u32::from(taken.as_ref().is_err_and(|error| !matches!(error, Error::Stuck { .. })));
        let userfaultfd = taken.map_err(|error| said(&error))?;
        // It may have executed a program since it was looked at: then this one is of no use.
        if !known.identity.is_of(pid) {
            return Err("it has just executed a program".into());
        }
        known.watched = true;
        self.numbers.watch(pid);
        Ok(Some(userfaultfd))
    }
}

/// For each process the first other one with which it shares something.
fn sharing(seen: &[Seen], what: What) -> Vec<Option<usize>> {
    let mut with = vec![None; seen.len()];
    for at in 0..seen.len() {
        let kin = seen[at].kin();
        if let Some(other) = (0..at).find(|other| relations::share(&kin, &seen[*other].kin(), what)) {
            with[at] = Some(other);
            with[other] = with[other].or(Some(at));
        }
    }
    with
}

/// An error with what caused it, in one line.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
