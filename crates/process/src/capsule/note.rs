//! What is written to disk about a capsule, so that a later process can find it again or clean up after it.

use super::error::{Doing, Error, Result};
use super::spec::{Limits, Spec, With};
use super::{END_MAX, group};
use ferry_sys::cgroup::Cgroup;
use ferry_sys::replace::replace;
use minicbor::{Decode, Encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::path::{Path, PathBuf};
use std::{fs, io};

const FILE: &str = "capsule.cbor";
const BYTES_MAX: u64 = 1 << 20;

/// A capsule as it is known on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Note {
    /// Process id of init, on the host.
    #[n(0)]
    pub(super) init: i32,
    /// When init started, in clock ticks since boot: with the id and the boot it names one process.
    #[n(1)]
    pub(super) started: u64,
    /// The host's boot.
    #[n(2)]
    pub(super) boot: String,
    /// Path of the cgroup.
    #[n(3)]
    pub(super) cgroup: String,
    /// Version 1 cgroups made for limits.
    #[n(4)]
    pub(super) limit_groups: Vec<String>,
    /// Where Ferry itself has mounted something.
    #[n(5)]
    pub(super) own_mounts: Vec<String>,
    /// Whether it has its own network namespace.
    #[n(6)]
    pub(super) own_network: bool,
    /// What it may use.
    #[n(7)]
    pub(super) limits: Limits,
    /// Host paths that it was given.
    #[n(8)]
    pub(super) with: Vec<With>,
}

impl Note {
    /// Writes it into `directory`: whole or not at all.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let write = || -> io::Result<()> {
            // It means nothing after a reboot, and is written in the pause of a move.
            replace(&directory.join(FILE), &minicbor::to_vec(self).map_err(io::Error::other)?)
        };
        write().doing(|| format!("write {}", directory.join(FILE).display()))
    }

    /// Notes what the capsule's inside has become: what was mounted for it, and not by the workload.
    pub(super) fn furnished(&mut self, spec: &Spec) -> Result<()> {
        let table = ferry_sys::mountinfo::read(&PathBuf::from(format!("/proc/{}", self.init)))
            .doing(|| "read the capsule's mount table".into())?;
        let of_workload = |point: &str| spec.mounts.iter().any(|mount| mount.point == point);
        let points = table.iter().map(|mount| mount.point.to_string_lossy().into_owned());
        self.own_mounts = points.filter(|point| !of_workload(point)).collect();
        self.with.clone_from(&spec.with);
        Ok(())
    }

    pub(super) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Gone(directory.display().to_string()));
            }
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                return Err(Error::Invalid(format!("{} is too large", path.display())));
            }
            _ => {}
        }
        let bytes = fs::read(&path).doing(|| format!("read {}", path.display()))?;
        minicbor::decode(&bytes).map_err(|_| Error::Invalid(format!("{} is damaged", path.display())))
    }

    /// A pidfd of init, if that very process lives.
    pub(super) fn living_init(&self) -> Option<OwnedFd> {
        if self.boot != boot() {
            return None;
        }
        // The pidfd first: then the start time tells of the process that it holds.
        let pidfd = pidfd_open(Pid::from_raw(self.init)?, PidfdFlags::empty()).ok()?;
        (start_time(self.init) == Some(self.started) && !ended(&pidfd, 0)).then_some(pidfd)
    }
}

/// This boot of this host.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// When a process started, in clock ticks since boot.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything: fields are counted after its end.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

pub(crate) fn ended(pidfd: &OwnedFd, wait_ms: u64) -> bool {
    let wait = Timespec { tv_sec: (wait_ms / 1000) as i64, tv_nsec: ((wait_ms % 1000) * 1_000_000) as i64 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&wait)).is_ok_and(|ready| ready == 1)
}

/// Something that was found and removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Processes of the capsule, its init among them.
    Processes(usize),
    /// A cgroup.
    Cgroup(PathBuf),
    /// Files: sockets, layers, notes.
    Files(PathBuf),
}

/// Removes what is left of the capsule in `directory`, whoever died in whatever moment: processes, cgroups, sockets,
/// work directories; namespaces, mounts and devices go with the processes. With `data` also what the workload wrote.
/// A directory without a capsule is left as it is.
///
/// # Errors
/// When a task does not end or something cannot be removed. It can be repeated.
pub fn sweep(directory: &Path, data: bool) -> Result<Vec<Leftover>> {
    match Note::read(directory) {
        Ok(note) => remove(directory, &note, data),
        Err(Error::Gone(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Ends and removes the capsule of `note`.
pub(super) fn remove(directory: &Path, note: &Note, data: bool) -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    let cgroup = PathBuf::from(&note.cgroup);
    // Another boot: processes and cgroups of that name are not ours.
    if note.boot == boot() {
        let processes = end_all(note, &cgroup)?;
        if processes > 0 {
            found.push(Leftover::Processes(processes));
        }
        let others: Vec<PathBuf> = note.limit_groups.iter().map(PathBuf::from).collect();
        let present = cgroup.exists();
        group::remove(&cgroup, &others).doing(|| format!("remove the cgroup {}", cgroup.display()))?;
        if present {
            found.push(Leftover::Cgroup(cgroup));
        }
    }
    let mut files = vec!["init.sock", "root", "work"];
    if data {
        files.push("upper");
    }
    // The note goes last: until then this can be repeated.
    files.push(FILE);
    for name in files {
        let path = directory.join(name);
        let removed = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        removed.doing(|| format!("remove {}", path.display()))?;
        found.push(Leftover::Files(path));
    }
    Ok(found)
}

/// Kills all of it; how many processes that were.
fn end_all(note: &Note, cgroup: &Path) -> Result<usize> {
    let groups: Vec<Cgroup> =
        ["", "work", "init"].iter().filter_map(|part| Cgroup::open(&cgroup.join(part)).ok()).collect();
    let processes: usize = groups.iter().map(|group| group.procs().map_or(0, |pids| pids.len())).sum();
    let init = note.living_init();
    if let Some(pidfd) = &init {
        // With it the kernel ends everything in the pid namespace.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
    for group in &groups {
        group.kill().doing(|| format!("kill what is in {}", group.path().display()))?;
    }
    let wait_ms = u64::try_from(END_MAX.as_millis()).unwrap_or(u64::MAX);
    if init.as_ref().is_some_and(|pidfd| !ended(pidfd, wait_ms)) {
        return Err(Error::Unable {
            what: "A task of the capsule does not end: it is in an uninterruptible wait".into(),
            hint: "Look at the kernel's log; repeat with `ferry doctor --clean`".into(),
        });
    }
    // Our own child, unless the process that made it has died before.
    let _ = ferry_sys::fork::wait(note.init, false);
    for group in &groups {
        group.wait_empty(END_MAX).doing(|| format!("empty {}", group.path().display()))?;
    }
    Ok(processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_boot_or_another_start_is_another_process() {
        let own = std::process::id().cast_signed();
        let note = Note { init: own, started: start_time(own).unwrap(), boot: boot(), ..Note::default() };
        assert!(note.living_init().is_some());
        assert!(Note { started: note.started + 1, ..note.clone() }.living_init().is_none());
        assert!(Note { boot: "other".into(), ..note.clone() }.living_init().is_none());
    }

    #[test]
    fn a_directory_without_a_capsule_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("upper")).unwrap();
        assert_eq!(sweep(directory.path(), true).unwrap(), []);
        assert!(directory.path().join("upper").exists());
    }
}
