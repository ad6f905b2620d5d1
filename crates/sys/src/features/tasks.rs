//! Probes of what captures and rebuilds tasks.
#![allow(unsafe_code)]

use super::run::Sleeper;
use super::{Need, Probe, Seen, why};
use crate::fork::{Clone3, Forked, clone3, exit_now, wait};
use crate::kcmp::{What, compare};
use crate::ptrace::{self, Stop};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::path::Path;

pub(super) const PROBES: &[Probe] = &[
    Probe {
        name: "ptrace-seize",
        needed_for: "stopping and reading every task",
        cost_if_missing: "no process can be moved or checkpointed",
        need: Need::Always,
        probe: |_| stopped(|_| Ok("a task was stopped from outside".into())),
    },
    Probe {
        name: "ptrace-rseq",
        needed_for: "programs with restartable sequences (glibc 2.35 and later)",
        cost_if_missing: "their registration cannot be read: such programs are refused (Linux 5.13 has it)",
        need: Need::Sometimes,
        probe: |_| {
            stopped(|pid| {
                ptrace::rseq(pid)
                    .map(|_| "PTRACE_GET_RSEQ_CONFIGURATION answered".into())
                    .map_err(why("ptrace"))
            })
        },
    },
    Probe {
        name: "clone3-set-tid",
        needed_for: "giving restored tasks the ids that they had",
        cost_if_missing: "no process can be restored (Linux 5.5 has it; CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN is needed)",
        need: Need::Always,
        probe: set_tid,
    },
    Probe {
        name: "pidfd-getfd",
        needed_for: "reading what a task's descriptors hold",
        cost_if_missing: "no process with pipes or sockets can be moved (Linux 5.6 has it)",
        need: Need::Always,
        probe: getfd,
    },
    Probe {
        name: "kcmp",
        needed_for: "finding what tasks share",
        cost_if_missing: "shared descriptors, memory and handlers cannot be told from equal ones (CONFIG_KCMP)",
        need: Need::Always,
        probe: |_| {
            let own = getpid().as_raw_pid();
            let child = Sleeper::new().map_err(why("fork"))?;
            let same = compare(own, own, What::Space).map_err(why("kcmp"))?;
            let other = compare(own, child.0, What::Space).map_err(why("kcmp"))?;
            if same.is_eq() && other.is_ne() {
                Ok("told one address space from two".into())
            } else {
                Err("it gives wrong answers".into())
            }
        },
    },
    Probe {
        name: "prctl-set-mm-map",
        needed_for: "the layout that /proc shows of a restored process: its arguments, environment, program",
        cost_if_missing: "ps shows the wrong arguments for restored processes (CONFIG_CHECKPOINT_RESTORE)",
        need: Need::Always,
        probe: mm_map,
    },
    Probe {
        name: "map-files",
        needed_for: "mapped files that were deleted",
        cost_if_missing: "processes with deleted mapped files are refused",
        need: Need::Sometimes,
        probe: |_| {
            let first = std::fs::read_dir("/proc/self/map_files").map_err(why("list"))?.flatten().next();
            let first = first.ok_or("no mapping is listed")?;
            std::fs::File::open(first.path()).map(|_| "a mapped file was opened".into()).map_err(why("open"))
        },
    },
];

/// Stops a child and looks at it.
fn stopped(look: impl FnOnce(i32) -> Seen) -> Seen {
    let child = Sleeper::new().map_err(why("fork"))?;
    ptrace::seize(child.0, 0).map_err(why("PTRACE_SEIZE"))?;
    ptrace::interrupt(child.0).map_err(why("PTRACE_INTERRUPT"))?;
    match ptrace::wait(child.0).map_err(why("wait"))? {
        Stop::Event { .. } => look(child.0),
        other => Err(format!("an unexpected stop: {other:?}")),
    }
}

fn set_tid(_: &Path) -> Seen {
    const WANTED: i32 = 4242;
    let inside = || -> Result<i32, std::io::Error> {
        let how = Clone3 { exit_signal: libc::SIGCHLD, set_tid: &[WANTED], ..Clone3::default() };
        match clone3(&how)? {
            Forked::Child => exit_now(i32::from(getpid().as_raw_pid() != WANTED)),
            Forked::Parent(pid, _) => Ok(i32::from(wait(pid, true)? != Some((WANTED, 0)))),
        }
    };
    let how = Clone3 { flags: libc::CLONE_NEWPID as u64, exit_signal: libc::SIGCHLD, ..Clone3::default() };
    match clone3(&how).map_err(why("make a pid namespace"))? {
        Forked::Child => exit_now(inside().unwrap_or_else(|error| error.raw_os_error().unwrap_or(255))),
        Forked::Parent(pid, _) => match wait(pid, true).map_err(why("wait"))? {
            Some((_, 0)) => Ok(format!("a task got the id {WANTED}")),
            Some((_, status)) => Err(format!("clone3: {}", std::io::Error::from_raw_os_error(status >> 8))),
            None => Err("the child is gone".into()),
        },
    }
}

fn getfd(_: &Path) -> Seen {
    let child = Sleeper::new().map_err(why("fork"))?;
    let pidfd =
        pidfd_open(Pid::from_raw(child.0).ok_or("no id")?, PidfdFlags::empty()).map_err(why("pidfd_open"))?;
    let list = std::fs::read_dir(format!("/proc/{}/fd", child.0)).map_err(why("list"))?;
    let number = list
        .flatten()
        .find_map(|entry| entry.file_name().to_str()?.parse().ok())
        .ok_or("it has no descriptor")?;
    pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).map_err(why("pidfd_getfd"))?;
    Ok("another task's descriptor was copied".into())
}

fn mm_map(_: &Path) -> Seen {
    let mut size: u32 = 0;
    // SAFETY: PR_SET_MM_MAP_SIZE writes four bytes to `size`.
    let result = unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP_SIZE, &raw mut size, 0, 0) };
    if result == 0 && size > 0 {
        Ok(format!("a map of {size} bytes"))
    } else {
        Err(format!("prctl: {}", std::io::Error::last_os_error()))
    }
}
