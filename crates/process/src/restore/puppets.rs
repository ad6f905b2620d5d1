//! The puppets of a tree, from their births to the moment before they are let go.

use super::births::{self, Succession};
use super::descriptors::FileSource;
use super::files::early::Lobby;
use super::grow::Family;
use super::host::Host;
use super::mapping::ObjectFds;
use super::missing::Held;
use super::turns::Turns;
use super::{Error, finish};
use crate::capture::TaskRef;
use crate::capture::interrupted::KnownWait;
use crate::records::State;
use crate::records::memory::{Backing, MemoryObject, Space, Vma, vma};
use crate::records::task::Life;
use ferry_sys::proc::maps::Mapping;
use ferry_sys::ptrace::{self, Stop};
use ferry_sys::remote::{Machine, Stats};
use ferry_transfer::access::{Missing, SpaceAccess, Via};
use ferry_transfer::engine::RangeSet;
use ferry_transfer::space::{Range, SpaceId};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Where a tree is to live.
#[derive(Clone, Debug)]
pub struct Home {
    /// Init of the pid namespace, as this host sees it: a process that may be traced and does nothing but wait for children.
    pub init: i32,
    /// Directory of the cgroup that the tree goes into, which must not be frozen yet. [`Puppets::finish`] freezes it.
    pub cgroup: Option<PathBuf>,
    /// Directory beneath which files of the tree's root are still being put, as its overlay's upper one: what is in it is not mapped
    /// before the end, for it may be exchanged.
    pub staged: Option<PathBuf>,
}

/// What a restore ends with.
#[derive(Debug)]
pub struct Restored {
    /// The processes. They are not traced any more, and frozen if a cgroup was given.
    pub tasks: Vec<TaskRef>,
    /// Remote calls that were made.
    pub stats: Stats,
    /// What could not be had on this host and is not essential, each a sentence.
    pub warnings: Vec<String>,
    /// To be given to the next capture of this tree.
    pub waits: Vec<KnownWait>,
    /// Memory in which pages are missing.
    pub held: Vec<Held>,
}

/// A tree in the making. Dropping it kills every puppet.
///
/// It begins as a draft of a tree that still runs elsewhere ([`Puppets::draft`]), follows it ([`Puppets::reconcile`]) and becomes the
/// one that stands still there ([`Puppets::complete`]); or it is built from that one at once ([`Puppets::build`]).
#[derive(Debug)]
pub struct Puppets {
    pub(super) family: Family,
    /// What stands: of a draft, that part which could be had.
    pub(super) state: State,
    pub(super) home: Home,
    pub(super) objects: Vec<(MemoryObject, OwnedFd)>,
    /// Terminals that wait for the descriptors.
    pub(super) lobby: Option<Lobby>,
    /// Processes whose executable is not set yet.
    pub(super) without_exe: BTreeSet<i32>,
    /// Which file of this host each mapped path was, when it was mapped: device and inode.
    pub(super) files: BTreeMap<Vec<u8>, (u64, u64)>,
    /// Threads and all: no draft any more.
    pub(super) complete: bool,
    /// What was given back, and has not been filled since.
    pub(super) given: BTreeMap<SpaceId, RangeSet>,
}

impl Puppets {
    /// Makes the puppets: ids, relations, threads, mappings. Nothing is frozen or needed from the source yet but its records.
    ///
    /// # Errors
    /// When an id is taken, a mapped file is missing, the vDSO is another one, or the kernel refuses. Nothing is left then.
    pub fn build(state: &State, home: &Home) -> Result<Self, Error> {
        Self::make(state, home, true)
    }

    /// Makes puppets of a tree that still runs: ids, relations, mappings. Mapped files that are missing are left out for now. Init is
    /// given back.
    ///
    /// # Errors
    /// As [`Puppets::build`], but for the files.
    pub fn draft(state: &State, home: &Home) -> Result<Self, Error> {
        let mut puppets = Self::make(state, home, false)?;
        puppets.give_back_host()?;
        Ok(puppets)
    }

    pub(super) fn make(state: &State, home: &Home, last: bool) -> Result<Self, Error> {
        check(state)?;
        let births = births::plan(&state.tasks)?;
        let spaces = outlines(&[state]);
        let spaces: Vec<&[Mapping]> = spaces.iter().map(Vec::as_slice).collect();
        let mut machine = Machine::default();
        let (host, area) = Host::borrow(home.init, &spaces, &mut machine)?;
        let mut family = Family {
            home: host.home,
            processors: host.processors,
            machine,
            area,
            host: Some(host),
            puppets: BTreeMap::new(),
            terminals: BTreeMap::new(),
            shielded: BTreeMap::new(),
        };
        let lobby = match Lobby::open(&state.files, home.init) {
            Ok(lobby) => lobby,
            Err(source) => {
                family.give_back_host()?;
                return Err(Error::Files { pid: home.init, source: source.into() });
            }
        };
        family.terminals = lobby.sessions.clone();
        let mut puppets = Self {
            family,
            state: State::default(),
            home: home.clone(),
            objects: Vec::new(),
            lobby: Some(lobby),
            without_exe: BTreeSet::new(),
            files: BTreeMap::new(),
            complete: last,
            given: BTreeMap::new(),
        };
        puppets.state = if last { state.clone() } else { puppets.available(state) };
        for object in &state.objects {
            puppets.objects.push((object.clone(), create_object(object)?));
        }
        let _turns = Turns::begin(&puppets.family);
        let (cgroup, objects) = puppets.pass(true)?;
        puppets.family.grow(&births, &state.tasks, cgroup)?;
        puppets.map_all(&State::default(), &Succession::default(), Some(&objects), last)?;
        Ok(puppets)
    }

    /// How the memory of the puppets is written, from any process of this host that may.
    #[must_use]
    pub fn access(&self) -> Vec<SpaceAccess> {
        let mut all = Vec::new();
        for task in &self.state.tasks {
            let (Some(id), Some(puppet)) = (task.space, self.family.puppets.get(&task.pid)) else { continue };
            let Some(space) = self.state.spaces.iter().find(|space| space.id == id) else { continue };
            let via = Via::Task { pid: puppet.host_pid() };
            all.push(SpaceAccess { space: SpaceId(id), via, ranges: writable_ranges(space) });
        }
        for (object, fd) in &self.objects {
            let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
            let len = object.size.next_multiple_of(ferry_transfer::space::PAGE_SIZE);
            let ranges = if len == 0 { Vec::new() } else { vec![Range { start: 0, len }] };
            all.push(SpaceAccess { space: SpaceId(object.id), via: Via::File { path }, ranges });
        }
        all
    }

    /// The descriptor behind a memory object, by its number: descriptors of the same memfd are made from it.
    #[must_use]
    pub fn object(&self, id: u32) -> Option<BorrowedFd<'_>> {
        self.objects.iter().find(|(object, _)| object.id == id).map(|(_, fd)| fd.as_fd())
    }

    /// The puppets by both ids, zombies left out.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskRef> {
        let alive = self.family.puppets.values().filter(|puppet| !puppet.dead);
        alive.map(|puppet| TaskRef { host_pid: puppet.host_pid(), ns_pid: puppet.pid }).collect()
    }

    /// Gives the puppets everything else and lets go of them, frozen if a cgroup was given. Memory must be complete.
    ///
    /// # Errors
    /// As the kernel says; nothing of the tree is left then.
    pub fn finish(self, files: &dyn FileSource) -> Result<Restored, Error> {
        self.finish_missing(files, &[])
    }

    /// As [`Self::finish`], without these pages: who touches one waits. From here until all of them are in their places, nothing that
    /// serves them may read the memory of these processes.
    ///
    /// # Errors
    /// As [`Self::finish`]; or something in `missing` cannot follow later.
    pub fn finish_missing(mut self, files: &dyn FileSource, missing: &[Missing]) -> Result<Restored, Error> {
        if !self.complete {
            return Err(Error::Damaged("what stands is a draft".into()));
        }
        finish::run(&mut self, files, missing)
    }

    /// Passes the cgroup, and all objects if they are to be inherited, to init: their numbers there.
    pub(super) fn pass(&mut self, objects: bool) -> Result<(Option<i32>, ObjectFds), Error> {
        let cgroup = match &self.home.cgroup {
            Some(path) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::open(path, flags, Mode::empty());
                Some(opened.map_err(|error| Error::host("open the cgroup of the tree")(error.into()))?)
            }
            None => None,
        };
        let objects: &[(MemoryObject, OwnedFd)] = if objects { &self.objects } else { &[] };
        let all: Vec<BorrowedFd<'_>> =
            cgroup.iter().map(OwnedFd::as_fd).chain(objects.iter().map(|(_, fd)| fd.as_fd())).collect();
        let Family { machine, host, area, .. } = &mut self.family;
        let Some(host) = host else { return Err(Error::Damaged("no process above the tree".into())) };
        host.pass(machine, area, &all)?;
        let mut passed = host.passed.iter().copied();
        let cgroup = cgroup.is_some().then(|| passed.next()).flatten();
        Ok((cgroup, objects.iter().map(|(object, _)| object.id).zip(passed).collect()))
    }

    /// Takes back what init was lent.
    pub(super) fn give_back_host(&mut self) -> Result<(), Error> {
        self.family.give_back_host()
    }
}

impl Drop for Puppets {
    fn drop(&mut self) {
        for puppet in self.family.puppets.values().filter(|puppet| !puppet.dead) {
            let _ = ptrace::send(puppet.host_pid(), libc::SIGKILL);
        }
        for puppet in self.family.puppets.values().filter(|puppet| !puppet.dead) {
            for thread in puppet.threads.iter().rev() {
                while let Ok(stop) = ptrace::wait(thread.tid) {
                    if matches!(stop, Stop::Gone(_)) {
                        break;
                    }
                    let _ = ptrace::cont(thread.tid, 0);
                }
            }
        }
        let _ = self.give_back_host();
    }
}

/// Refuses states that contradict themselves, and what this host's kernel cannot give.
pub(super) fn check(state: &State) -> Result<(), Error> {
    const MAPPINGS_MAX: usize = 1 << 20;
    let own = crate::vdso::own_hash().map_err(Error::host("read this kernel's vDSO"))?;
    let mut taken = std::collections::BTreeSet::new();
    for task in &state.tasks {
        let zombie = matches!(task.life, Life::Zombie { .. });
        let leads = task.threads.first().is_some_and(|thread| thread.tid == task.pid);
        if zombie != task.threads.is_empty() || zombie == task.space.is_some() || (!zombie && !leads) {
            return Err(Error::Damaged(format!("process {} is neither alive nor dead", task.pid)));
        }
        if task.space.is_some_and(|space| !taken.insert(space)) {
            return Err(Error::unfit(task.pid, "its memory is shared with another process"));
        }
    }
    for space in &state.spaces {
        let task = state.tasks.iter().find(|task| task.space == Some(space.id));
        let pid = task.map_or(0, |task| task.pid);
        if space.vdso_hash != own {
            return Err(Error::unfit(pid, "its vDSO is another kernel's"));
        }
        let ordered = space.vmas.windows(2).all(|pair| pair[0].end <= pair[1].start);
        let whole = |vma: &crate::records::Vma| {
            vma.start < vma.end && vma.start.is_multiple_of(4096) && vma.end.is_multiple_of(4096)
        };
        if !ordered || !space.vmas.iter().all(whole) || space.vmas.len() > MAPPINGS_MAX {
            return Err(Error::Damaged(format!("the mappings of process {pid}")));
        }
    }
    Ok(())
}

/// Where something is mapped, in each space of all `states`.
pub(super) fn outlines(states: &[&State]) -> Vec<Vec<Mapping>> {
    let outline = |space: &Space| {
        let mapping = |vma: &Vma| Mapping { start: vma.start, end: vma.end, ..Mapping::default() };
        space.vmas.iter().map(mapping).collect()
    };
    states.iter().flat_map(|state| &state.spaces).map(outline).collect()
}

/// Private mappings, neighbours joined.
fn writable_ranges(space: &Space) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for vma in &space.vmas {
        if vma.flags & vma::SHARED != 0 || matches!(vma.backing, Backing::Kernel { .. }) {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end() == vma.start => last.len += vma.end - vma.start,
            _ => ranges.push(Range { start: vma.start, len: vma.end - vma.start }),
        }
    }
    ranges
}

/// Every object becomes a memory file: what had no path has none here either.
pub(super) fn create_object(object: &MemoryObject) -> Result<OwnedFd, Error> {
    const SIZE_MAX: u64 = 1 << 46;
    if object.size > SIZE_MAX {
        return Err(Error::Damaged(format!("memory object {} has {} bytes", object.id, object.size)));
    }
    let failed =
        |error: rustix::io::Errno| Error::host(format!("make memory object {}", object.id))(error.into());
    let name: String =
        String::from_utf8_lossy(&object.name).chars().filter(|c| *c != '\0').take(200).collect();
    let fd = rustix::fs::memfd_create(name.as_str(), MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(failed)?;
    rustix::fs::ftruncate(&fd, object.size).map_err(failed)?;
    Ok(fd)
}
