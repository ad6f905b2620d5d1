//! Adoption: a tree that already runs becomes something that can be found, stopped and moved as a whole.
//!
//! Nothing of the tree changes but the cgroup that it is in: it stays in the host's namespaces, with the parent that it has. Where each
//! process came from is on disk before it is moved, so that everything can be put back: by whoever failed half way, by a
//! successor of a process that died half way, or when Ferry lets go of the tree. An [`Adoption`] value is a handle: dropping it
//! changes nothing; [`Adoption::open`] finds it again.

mod note;
mod refuse;

use crate::capsule::END_MAX;
use crate::capsule::error::{Doing, Error, Result};
use crate::capsule::group::{make_child, remove};
use crate::capsule::note::{boot, ended, start_time};
use crate::capture::{Scope, members};
use ferry_sys::cgroup::Cgroup;
use ferry_sys::proc;
use ferry_sys::proc::stat;
use note::{Home, Note};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

pub use note::left_in;

/// Ticks of the kernel's start times in a second, as every x86-64 kernel shows them.
const TICKS: u64 = 100;
/// How often a tree is looked through before it is given up: one that forks faster than that never holds still.
const ROUNDS_MAX: usize = 1000;

/// A handle on an adopted tree.
#[derive(Debug)]
pub struct Adoption {
    note: Note,
    work: Cgroup,
    root: Option<OwnedFd>,
}

impl Adoption {
    /// Adopts the tree of process `root`: moves it into a cgroup `ferry/NAME/work` beneath this process' own and writes down in
    /// `directory` where it came from.
    ///
    /// # Errors
    /// What is no program's tree, or somebody else's, is refused by name. In every case the tree is where it was.
    pub fn take(directory: &Path, name: &str, root: i32) -> Result<Self> {
        Self::take_by(directory, name, root, &mut |cgroup, pid| cgroup.move_in(pid))
    }

    /// As [`Self::take`], with the step that moves one process.
    fn take_by(
        directory: &Path,
        name: &str,
        root: i32,
        step: &mut dyn FnMut(&Cgroup, i32) -> io::Result<()>,
    ) -> Result<Self> {
        let pidfd = refuse::open_root(root)?;
        for pid in members(&Scope::Tree(root)).unwrap_or_default() {
            refuse::member(pid)?;
        }
        let own = Cgroup::own().map_err(|error| Error::Unable {
            what: format!("Workloads need version 2 cgroups: {error}"),
            hint: "See `ferry check`".into(),
        })?;
        let below = format!("ferry/{name}");
        let whole = make_child(&own, &below, "").doing(|| format!("make the cgroup {below}"))?;
        let started = start_time(root).unwrap_or_default();
        let cgroup = whole.path().to_string_lossy().into_owned();
        let note = Note { root, started, boot: boot(), cgroup, homes: Vec::new() };
        let made = make_child(&own, &below, "work").doing(|| format!("make a cgroup in {below}"));
        let mut adoption = match made {
            Ok(work) => Self { note, work, root: Some(pidfd) },
            Err(error) => {
                let _ = remove(whole.path(), &[]);
                return Err(error);
            }
        };
        match adoption.gather(directory, step) {
            Ok(()) => Ok(adoption),
            Err(error) => {
                adoption.put_back(directory)?;
                Err(error)
            }
        }
    }

    /// Moves everybody, those included that are born meanwhile, until a look finds nobody new.
    fn gather(
        &mut self,
        directory: &Path,
        step: &mut dyn FnMut(&Cgroup, i32) -> io::Result<()>,
    ) -> Result<()> {
        let since = ticks_now().saturating_sub(1);
        let mut seen = BTreeSet::new();
        for _ in 0..ROUNDS_MAX {
            let mut found = Vec::new();
            for pid in self.candidates(since, &seen) {
                if seen.contains(&pid) {
                    continue;
                }
                let (Some(started), Ok(home)) = (start_time(pid), Cgroup::of(&pid.to_string())) else {
                    continue;
                };
                // Born in its parent's new place: there is nothing to move.
                if home.path() != self.work.path() {
                    refuse::member(pid)?;
                    let cgroup = home.path().to_string_lossy().into_owned();
                    found.push(Home { pid, started, cgroup });
                }
                seen.insert(pid);
            }
            if found.is_empty() {
                return self.check(&seen);
            }
            self.note.homes.extend(found.iter().cloned());
            self.note.write(directory)?;
            for home in found {
                match step(&self.work, home.pid) {
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    moved => {
                        moved.doing(|| format!("move process {} into the workload's cgroup", home.pid))?
                    }
                }
            }
        }
        Err(Error::Unable {
            what: format!("The tree of process {} grows faster than it can be adopted", self.note.root),
            hint: "Try again when it starts fewer processes".into(),
        })
    }

    /// The tree as it is now: descendants of the root, and orphans that were born while it was looked at and belong to a group or
    /// session that one of the tree leads.
    fn candidates(&self, since: u64, seen: &BTreeSet<i32>) -> Vec<i32> {
        let mut all = members(&Scope::Tree(self.note.root)).unwrap_or_default();
        for pid in proc::numbers("/proc").unwrap_or_default() {
            let Ok(stat) = stat::read(pid) else { continue };
            let led = seen.contains(&stat.group) || seen.contains(&stat.session);
            if stat.start_time >= since && led && !all.contains(&pid) {
                all.extend(members(&Scope::Tree(pid)).unwrap_or_default());
            }
        }
        all
    }

    fn check(&self, seen: &BTreeSet<i32>) -> Result<()> {
        let inside = self.work.procs().doing(|| "list the adopted processes".into())?;
        let alive = |pid: &&i32| stat::read(**pid).is_ok_and(|stat| !matches!(stat.state, b'Z' | b'X'));
        match seen.iter().filter(alive).find(|pid| !inside.contains(pid)) {
            None if !inside.is_empty() => Ok(()),
            None => Err(Error::Gone(format!("process {} has ended meanwhile", self.note.root))),
            Some(pid) => Err(Error::Unable {
                what: format!("Process {pid} did not go into the workload's cgroup"),
                hint: "Look whether something else manages its cgroup".into(),
            }),
        }
    }

    /// Finds an adopted tree again, after the process that adopted it has gone.
    ///
    /// # Errors
    /// [`Error::Gone`] when nothing of it is there any more, or the adoption was never complete: then it is put back.
    pub fn open(directory: &Path) -> Result<Self> {
        let note = Note::read(directory)?;
        let work = Path::new(&note.cgroup).join("work");
        if note.boot != boot() || !work.exists() {
            return Err(Error::Gone(directory.display().to_string()));
        }
        let work = Cgroup::open(&work).doing(|| format!("open the cgroup {}", work.display()))?;
        // The pidfd first: then the start time tells of the process that it holds.
        let pidfd = Pid::from_raw(note.root).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let root = pidfd.filter(|_| start_time(note.root) == Some(note.started));
        Ok(Self { note, work, root })
    }

    /// The root of the tree, as this host numbers it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.note.root
    }

    /// The cgroup of the tree: what is frozen.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.work
    }

    /// Readable when the root of the tree has ended. None: it had ended before it was looked for.
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd)
    }

    /// Whether the root of the tree lives.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.root.as_ref().is_some_and(|pidfd| !ended(pidfd, 0))
    }

    /// The wait status with which the root has ended; none where the kernel does not tell those who are not its parent.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        let pidfd = self.root.as_ref()?;
        // Its parent collects it in a moment, if it has not yet: both say the same.
        let zombie = || {
            let stat = stat::read(self.note.root).ok()?;
            (stat.start_time == self.note.started && stat.state == b'Z').then_some(stat.exit_code)
        };
        match ferry_sys::ioctl::exit_status(pidfd) {
            Ok(Some(status)) => Some(status),
            Ok(None) | Err(_) => zombie().or_else(|| ferry_sys::ioctl::exit_status(pidfd).ok().flatten()),
        }
    }

    /// Sends a signal to the root of the tree.
    ///
    /// # Errors
    /// ESRCH when it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let root = self.root.as_ref().ok_or(rustix::io::Errno::SRCH)?;
        Ok(pidfd_send_signal(root, signal)?)
    }

    /// Lets go of the tree: it runs on in the cgroups that its processes came from. Who was born here goes where the root came
    /// from.
    ///
    /// # Errors
    /// When a process cannot be moved; it can be repeated.
    pub fn put_back(self, directory: &Path) -> Result<()> {
        let root_home = self.note.homes.iter().find(|home| home.pid == self.note.root);
        let root_home = root_home.map(|home| home.cgroup.clone());
        self.work.thaw().doing(|| "thaw the adopted processes".into())?;
        // Until nobody is left: some are born meanwhile.
        for _ in 0..ROUNDS_MAX {
            let left = self.work.procs().doing(|| "list the adopted processes".into())?;
            for pid in &left {
                let own = self
                    .note
                    .homes
                    .iter()
                    .find(|home| home.pid == *pid && start_time(*pid) == Some(home.started));
                let wanted = own.map(|home| home.cgroup.clone()).or_else(|| root_home.clone());
                let home = nearest(wanted.as_deref().unwrap_or_default(), &self.note.cgroup);
                let moved = Cgroup::open(&home).and_then(|home| home.move_in(*pid));
                match moved {
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    moved => moved.doing(|| format!("put process {pid} back into {}", home.display()))?,
                }
            }
            if left.is_empty() {
                break;
            }
        }
        self.forget(directory)
    }

    /// Ends the tree, and nothing else. Its parent learns of it as of any killed child.
    ///
    /// # Errors
    /// When a task does not end; it can be repeated.
    pub fn end(self, directory: &Path) -> Result<()> {
        self.work.kill().doing(|| "kill the adopted processes".into())?;
        // A frozen process that is killed dies, but on some kernels only once it is thawed.
        let _ = self.work.thaw();
        self.forget(directory)
    }

    fn forget(self, directory: &Path) -> Result<()> {
        let whole = Path::new(&self.note.cgroup);
        // A zombie keeps its place until its parent collects it, which may be never: its cgroup can be removed all the same.
        self.work.wait_empty(END_MAX).doing(|| format!("empty {}", whole.display()))?;
        let mut removed = remove(whole, &[]);
        for _ in 0..50 {
            if removed.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            removed = remove(whole, &[]);
        }
        removed.doing(|| format!("remove the cgroup {}", whole.display()))?;
        Note::remove(directory)
    }
}

/// Ends what is left of the adopted tree that is noted in `directory`, whoever died in whatever moment.
///
/// # Errors
/// When a task does not end; it can be repeated.
pub fn sweep(directory: &Path) -> Result<()> {
    match Adoption::open(directory) {
        Ok(tree) => tree.end(directory),
        // Another boot, or it is over: only the note is left.
        Err(Error::Gone(_)) => Note::remove(directory),
        Err(error) => Err(error),
    }
}

/// The cgroup at `home`, or the nearest above it that is left: whoever made it may have removed it when it was empty. Without
/// one, the one above Ferry's own.
fn nearest(home: &str, own: &str) -> std::path::PathBuf {
    let above = |path: &str| {
        let found = Path::new(path).ancestors().find(|path| path.join("cgroup.procs").exists());
        found.map(Path::to_owned)
    };
    let own = Path::new(own).parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    above(home).unwrap_or_else(|| own.to_owned())
}

/// Now, as the kernel counts start times for this process.
fn ticks_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * TICKS
        + u64::try_from(now.tv_nsec).unwrap_or(0) / (1_000_000_000 / TICKS)
}

#[cfg(test)]
mod tests;
