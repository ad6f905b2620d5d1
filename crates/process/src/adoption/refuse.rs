//! Who is not adopted, by name: what is no program's process, what is Ferry's own, and what is somebody's already.

use crate::capsule::error::{Doing, Error, Result};
use ferry_sys::cgroup::Cgroup;
use ferry_sys::proc::{self, stat, status};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `PF_KTHREAD`.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// First arguments of Ferry's own processes. (The demo's server and clients are programs like any other.)
const OWN: [&[u8]; 2] = [b"shim", b"node"];

fn refuse<T>(what: String, lifted_by: &str) -> Result<T> {
    Err(Error::Refused { what, lifted_by: lifted_by.into() })
}

/// A pidfd of the process that shall be the root of a workload.
pub(super) fn open_root(pid: i32) -> Result<OwnedFd> {
    let id = match Pid::from_raw(pid) {
        Some(_) if pid == 1 => {
            return refuse("Process 1 is the host's init, and not a program that can move".into(), ANOTHER);
        }
        Some(id) if pid > 0 => id,
        _ => return refuse(format!("{pid} is no process id"), ANOTHER),
    };
    match pidfd_open(id, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(pidfd),
        Err(Errno::SRCH) => refuse(format!("There is no process {pid}"), ANOTHER),
        // A thread that is not the first of its process.
        Err(Errno::INVAL | Errno::NOENT) => {
            let of = status::read(&pid.to_string()).map_or(0, |status| status.tgid);
            refuse(
                format!("{pid} is a thread of process {of}"),
                "Name the process: the whole of it is adopted",
            )
        }
        Err(error) => Err(error).doing(|| format!("open process {pid}")),
    }
}

const ANOTHER: &str = "`ps -e` lists processes";

/// Refuses one process of a tree.
pub(super) fn member(pid: i32) -> Result<()> {
    // One that has ended meanwhile stands in nobody's way.
    let Ok(stat) = stat::read(pid) else { return Ok(()) };
    let name = String::from_utf8_lossy(&stat.comm).into_owned();
    let called = format!("Process {pid} ({name})");
    if stat.flags & KERNEL_THREAD != 0 {
        return refuse(format!("{called} is a task of the kernel"), ANOTHER);
    }
    if pid == std::process::id().cast_signed() || is_own(pid) {
        return refuse(format!("{called} is a part of Ferry itself"), "Adopt the tree of the program alone");
    }
    if let Some(workload) = workload_of(pid) {
        return refuse(
            format!("{called} belongs to the workload {workload} already"),
            "`ferry ps` lists workloads",
        );
    }
    for tid in proc::numbers(&format!("/proc/{pid}/task")).unwrap_or_default() {
        let tracer = status::read(&format!("{pid}/task/{tid}")).map_or(0, |status| status.tracer);
        if tracer != 0 {
            let what = format!("{called} is traced by process {tracer}");
            return refuse(what, "Detach the debugger first: a task has one tracer at most");
        }
    }
    let frozen = Cgroup::of(&pid.to_string()).and_then(|cgroup| cgroup.frozen()).unwrap_or(false);
    if frozen {
        let what = format!("{called} is in a cgroup that somebody has frozen");
        return refuse(what, "Thaw it first (cgroup.freeze)");
    }
    Ok(())
}

/// Whether a process is a node, a shim or a capsule's init: they run this very program.
fn is_own(pid: i32) -> bool {
    let file = |path: &str| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let here = file("/proc/self/exe");
    if here.is_none() || file(&format!("/proc/{pid}/exe")) != here {
        return false;
    }
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).skip(1).any(|argument| OWN.contains(&argument))
}

/// The workload that a process is in, by its cgroup: `ferry/w-...-PLACE/work`.
fn workload_of(pid: i32) -> Option<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let parts: Vec<_> = Path::new(path).iter().filter_map(|part| part.to_str()).collect();
    let found = parts.windows(2).find(|pair| pair[0] == "ferry" && pair[1].starts_with("w-"))?;
    Some(found[1].rsplit_once('-').map_or(found[1], |(id, _)| id).to_owned())
}
