//! The process under which a tree is rebuilt that never lived in a capsule.
//!
//! Where its process ids are free, the tree is rebuilt among the host's processes: the nursery bears the first puppets and ends, and
//! they become the children of whoever adopts orphans (the command that restores, or the host's init). Where they are
//! taken, the nursery is process 1 of a new pid namespace with a /proc of its own, reaps orphans, and ends as the tree's
//! first process ends.

use ferry_sys::fork::{self, Clone3, Forked};
use ferry_sys::timens::{self, Clocks};
use ferry_sys::unshare::{UnshareFlags, unshare};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

/// The name by which it can be told in a process list.
const NAME: &std::ffi::CStr = c"ferry-nursery";

/// Where the tree shall live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Among the host's processes.
    Here,
    /// In a new pid namespace.
    NewPidNamespace,
}

/// A nursery, waiting. Dropping it ends it, and with a namespace of its own everything in it.
#[derive(Debug)]
pub struct Nursery {
    pid: i32,
    place: Place,
    line: Option<File>,
}

impl Nursery {
    /// Makes one. `clocks` is what CLOCK_MONOTONIC and CLOCK_BOOTTIME shall show to the tree, if not what they show here. To be called
    /// by a process with one thread.
    ///
    /// # Errors
    /// EPERM without the right to make namespaces; ENOSPC at their limit.
    pub fn make(place: Place, clocks: Option<Clocks>) -> io::Result<Self> {
        let (theirs, line) = pipe_with(PipeFlags::CLOEXEC)?;
        let (report, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        if let Some(clocks) = clocks {
            // Of this process it changes nothing but where its children are born.
            unshare(UnshareFlags::NEWTIME)?;
            timens::continue_from(clocks)?;
        }
        let flags = match place {
            Place::Here => 0,
            Place::NewPidNamespace => libc::CLONE_NEWPID | libc::CLONE_NEWNS,
        };
        let how = Clone3 { flags: flags as u64, exit_signal: libc::SIGCHLD, ..Clone3::default() };
        match fork::clone3(&how)? {
            Forked::Child => run(place, &theirs, &ours),
            Forked::Parent(pid, _) => {
                drop((theirs, ours));
                let nursery = Self { pid, place, line: Some(File::from(line)) };
                let mut told = Vec::new();
                File::from(report).take(256).read_to_end(&mut told)?;
                match told.first() {
                    Some(0) => Ok(nursery),
                    Some(errno) => Err(io::Error::from_raw_os_error(i32::from(*errno))),
                    None => Err(io::Error::other("the nursery died before it was ready")),
                }
            }
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The tree is complete; `root` is its first process, as it numbers itself. Returns the process to wait for, a child of this one:
    /// the tree's root itself, or the namespace's process 1, which ends with the same code.
    ///
    /// Among the host's processes the caller must be a subreaper to get the root as its child.
    pub fn finish(mut self, root: i32) -> io::Result<i32> {
        match self.place {
            Place::Here => Ok(root),
            Place::NewPidNamespace => {
                let mut line = self.line.take().ok_or_else(|| io::Error::other("finished twice"))?;
                line.write_all(&root.to_le_bytes())?;
                let pid = self.pid;
                self.pid = 0;
                Ok(pid)
            }
        }
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        if self.pid > 0 {
            let _ = ferry_sys::ptrace::send(self.pid, libc::SIGKILL);
            let _ = fork::wait(self.pid, true);
        }
    }
}

fn run(place: Place, line: &OwnedFd, report: &OwnedFd) -> ! {
    let ready = set_up(place, line, report);
    let code = ready.as_ref().map_or_else(|errno| errno.raw_os_error() as u8, |()| 0);
    let _ = rustix::io::write(report, &[code]);
    let _ = fork::close_range(report.as_raw_fd() as u32, report.as_raw_fd() as u32);
    if ready.is_ok() {
        match place {
            Place::Here => wait_for_end(line),
            Place::NewPidNamespace => reap(line),
        }
    }
    fork::exit_now(1)
}

fn set_up(place: Place, line: &OwnedFd, report: &OwnedFd) -> Result<(), Errno> {
    rustix::thread::set_name(NAME)?;
    fork::block_all_signals().map_err(|_| Errno::INVAL)?;
    fork::default_signal_actions();
    // Whoever restores may be interrupted: what is half built must not outlive it.
    if place == Place::Here {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    }
    rustix::process::setsid()?;
    if place == Place::NewPidNamespace {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "/proc", "proc", flags, None::<&std::ffi::CStr>)?;
    }
    let mut kept = [line.as_raw_fd() as u32, report.as_raw_fd() as u32];
    kept.sort_unstable();
    let close = |first: u32, last: u32| {
        if first <= last { fork::close_range(first, last).map_err(|_| Errno::INVAL) } else { Ok(()) }
    };
    if kept[0] > 0 {
        close(0, kept[0] - 1)?;
    }
    close(kept[0] + 1, kept[1] - 1)?;
    close(kept[1] + 1, u32::MAX)
}

/// Bears puppets by remote calls until it is killed or its maker is gone.
fn wait_for_end(line: &OwnedFd) {
    let mut byte = [0];
    while let Err(Errno::INTR) | Ok(1..) = rustix::io::read(line, &mut byte) {}
}

/// Process 1: learns which process is the root, reaps everyone, ends as the root ends.
fn reap(line: &OwnedFd) {
    let mut root = [0; 4];
    let mut read = 0;
    while read < root.len() {
        match rustix::io::read(line, &mut root[read..]) {
            Err(Errno::INTR) => {}
            Ok(count @ 1..) => read += count,
            _ => return,
        }
    }
    let root = i32::from_le_bytes(root);
    let mut code = 0;
    while let Ok(ended) = fork::wait(-1, true) {
        if let Some((pid, status)) = ended
            && pid == root
        {
            code = if status & 0x7f == 0 { (status >> 8) & 0xff } else { 128 + (status & 0x7f) };
        }
    }
    fork::exit_now(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nurseries_are_ready_and_leave_nothing() {
        for place in [Place::Here, Place::NewPidNamespace] {
            let nursery = Nursery::make(place, None).unwrap();
            let pid = nursery.pid();
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            assert!(status.contains("ferry-nursery"), "{status}");
            let inside = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
            assert_eq!(inside.ends_with("\t1"), place == Place::NewPidNamespace, "{inside}");
            drop(nursery);
            assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        }
    }

    #[test]
    fn a_nursery_shows_the_clocks_that_were_asked_for() {
        // In a process of its own: the time namespace of a test process would change for its other tests.
        match fork::fork().unwrap() {
            Forked::Child => {
                let wanted =
                    Clocks { monotonic_ns: 7_000_000_000_000_000, boottime_ns: 8_000_000_000_000_000 };
                let Ok(nursery) = Nursery::make(Place::Here, Some(wanted)) else { fork::exit_now(1) };
                // Not `Clocks::now_in`: in this process, `/proc/self` already tells of the new namespace.
                let offsets = timens::offsets(std::path::Path::new(&format!("/proc/{}", nursery.pid())));
                let shown = |offsets: Clocks| Clocks::now().monotonic_ns + offsets.monotonic_ns;
                let close = offsets
                    .is_ok_and(|offsets| (shown(offsets) - wanted.monotonic_ns).abs() < 60_000_000_000);
                drop(nursery);
                fork::exit_now(i32::from(!close))
            }
            Forked::Parent(pid, _) => assert_eq!(fork::wait(pid, true).unwrap(), Some((pid, 0))),
        }
    }
}
