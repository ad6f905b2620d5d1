//! Version 2 cgroups: freeze, kill, limits. Only directories beneath the caller's own cgroup are ever made or changed.
//!
//! The tree is found by the mount table and works in the hybrid layout (version 1 controllers beside an empty version 2
//! tree), below a cgroup namespace, and where a plain tree without controllers is mounted.

use crate::mountinfo;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

/// Most process ids read from one cgroup.
const PIDS_BYTES_MAX: usize = 16 << 20;

/// How long it is asked again and again before there are pauses.
const LOOK_BEFORE_SLEEP: Duration = Duration::from_micros(400);

/// A version 2 cgroup.
#[derive(Debug)]
pub struct Cgroup {
    directory: OwnedFd,
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup that this process is in.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] when no version 2 tree is mounted or this process' cgroup is not below a mount.
    pub fn own() -> io::Result<Self> {
        Self::of("self")
    }

    /// The cgroup that a process is in: `self`, or its id.
    ///
    /// # Errors
    /// As [`Self::own`]; ENOENT when there is no such process.
    pub fn of(process: &str) -> io::Result<Self> {
        let missing = |what: &str| io::Error::new(io::ErrorKind::Unsupported, what.to_owned());
        let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
        let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
        let own = Path::new(own.ok_or_else(|| missing("This kernel has no version 2 cgroups"))?);
        let mounts = mountinfo::read(Path::new("/proc/self"))?;
        let found = mounts.iter().rev().filter(|mount| mount.kind == "cgroup2").find_map(|mount| {
            let beneath = own.strip_prefix(&mount.root).ok()?;
            Self::open(&mount.point.join(beneath)).ok()
        });
        found.ok_or_else(|| {
            missing("No version 2 cgroup tree is mounted here: mount -t cgroup2 none /sys/fs/cgroup (in a namespace of your own) helps")
        })
    }

    /// The cgroup whose directory is `path`.
    ///
    /// # Errors
    /// ENOENT and the like.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { directory, path: path.to_owned() })
    }

    /// Where its directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cgroup `name` beneath this one, made if need be. `name` may have several parts.
    ///
    /// # Errors
    /// EACCES where this process may not, EBUSY and EAGAIN at the kernel's limits.
    pub fn child(&self, name: &str) -> io::Result<Self> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)?;
        Self::open(&path)
    }

    /// Reads one of its files, at most 16 MiB.
    ///
    /// # Errors
    /// ENOENT for a file that this kernel or the parent's settings do not give.
    pub fn read(&self, file: &str) -> io::Result<String> {
        use io::Read;
        let opened =
            rustix::fs::openat(&self.directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        fs::File::from(opened).take(PIDS_BYTES_MAX as u64).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes one of its files in one write.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let opened =
            rustix::fs::openat(&self.directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&opened, value.as_bytes())?;
        Ok(())
    }

    /// Begins to freeze everything in it. Repeatable. See [`Self::wait_frozen`].
    ///
    /// # Errors
    /// ENOENT before Linux 5.2.
    pub fn freeze(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "1")
    }

    /// Lets everything in it run again. Repeatable.
    ///
    /// # Errors
    /// ENOENT before Linux 5.2.
    pub fn thaw(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "0")
    }

    /// Whether freezing was asked for (it may not be complete).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn freezing(&self) -> io::Result<bool> {
        Ok(self.read("cgroup.freeze")?.trim() == "1")
    }

    /// Whether everything in it is frozen.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn frozen(&self) -> io::Result<bool> {
        self.event("frozen")
    }

    /// Whether any process is in it or beneath it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn populated(&self) -> io::Result<bool> {
        self.event("populated")
    }

    fn event(&self, name: &str) -> io::Result<bool> {
        let events = self.read("cgroup.events")?;
        Ok(events
            .lines()
            .filter_map(|line| line.split_once(' '))
            .any(|(key, value)| key == name && value == "1"))
    }

    /// Waits until everything in it is frozen.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] after `wait_max`: a task is in an uninterruptible wait.
    pub fn wait_frozen(&self, wait_max: Duration) -> io::Result<()> {
        self.wait_until(wait_max, "A task does not freeze: it is in an uninterruptible wait", Self::frozen)
    }

    /// Waits until nothing is in it.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] after `wait_max`.
    pub fn wait_empty(&self, wait_max: Duration) -> io::Result<()> {
        self.wait_until(wait_max, "A task does not end", |cgroup| {
            cgroup.populated().map(|populated| !populated)
        })
    }

    /// The kernel delays its notifications by 10 ms, more than a whole checkpoint may take: so ask again and again,
    /// first without a pause, because a pause costs the wake-up of a processor.
    fn wait_until(
        &self,
        wait_max: Duration,
        failure: &str,
        done: impl Fn(&Self) -> io::Result<bool>,
    ) -> io::Result<()> {
        let start = Instant::now();
        loop {
            if done(self)? {
                return Ok(());
            }
            let waited = start.elapsed();
            if waited > wait_max {
                return Err(io::Error::new(io::ErrorKind::TimedOut, failure.to_owned()));
            }
            if waited < LOOK_BEFORE_SLEEP {
                continue;
            }
            std::thread::sleep((waited / 8).clamp(Duration::from_micros(20), Duration::from_millis(5)));
        }
    }

    /// The processes in it, by their ids in the caller's pid namespace. Those in cgroups beneath it are not included.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn procs(&self) -> io::Result<Vec<i32>> {
        Ok(self
            .read("cgroup.procs")?
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid > 0)
            .collect())
    }

    /// Kills everything in it and beneath it, frozen or not.
    ///
    /// # Errors
    /// When neither `cgroup.kill` (Linux 5.14) nor killing one by one works.
    pub fn kill(&self) -> io::Result<()> {
        if self.write("cgroup.kill", "1").is_ok() {
            return Ok(());
        }
        for pid in self.procs()?.into_iter().filter_map(rustix::process::Pid::from_raw) {
            match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.thaw()
    }

    /// Moves a process (0: the caller) into it.
    ///
    /// # Errors
    /// ESRCH when it is gone, EBUSY where processes may only be in leaves.
    pub fn move_in(&self, pid: i32) -> io::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Controllers that this cgroup may give to those beneath it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn controllers(&self) -> io::Result<Vec<String>> {
        Ok(self.read("cgroup.controllers")?.split_whitespace().map(str::to_owned).collect())
    }

    /// Removes it with all empty cgroups beneath it. One that is gone already is no error.
    ///
    /// # Errors
    /// EBUSY when processes are left.
    pub fn remove(&self) -> io::Result<()> {
        remove_tree(&self.path)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Removes the cgroup at `path` and all empty ones beneath it. One that is gone already is no error.
///
/// # Errors
/// EBUSY when processes are left.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::{Forked, exit_now, fork, wait};

    #[test]
    fn a_process_is_frozen_thawed_and_killed() {
        let own = Cgroup::own().expect("a version 2 tree");
        let group = own.child(&format!("ferry-test/cgroup-{}", std::process::id())).unwrap();
        let Forked::Parent(pid, _) = fork().unwrap() else {
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        };
        group.move_in(pid).unwrap();
        assert_eq!(group.procs().unwrap(), [pid]);
        group.freeze().unwrap();
        group.wait_frozen(Duration::from_secs(5)).unwrap();
        assert!(group.freezing().unwrap() && group.populated().unwrap());
        group.thaw().unwrap();
        assert!(!group.freezing().unwrap());
        group.freeze().unwrap();
        group.kill().unwrap();
        assert_eq!(wait(pid, true).unwrap(), Some((pid, libc::SIGKILL)));
        group.wait_empty(Duration::from_secs(5)).unwrap();
        group.remove().unwrap();
        assert!(!group.path().exists());
        let _ = fs::remove_dir(group.path().parent().unwrap());
    }

    #[test]
    fn exit_now_ends_with_its_status() {
        match fork().unwrap() {
            Forked::Child => exit_now(7),
            Forked::Parent(pid, _) => assert_eq!(wait(pid, true).unwrap(), Some((pid, 7 << 8))),
        }
    }
}
