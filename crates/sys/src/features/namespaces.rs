//! Probes of what a capsule is made of.

use super::run::{Sleeper, child_says};
use super::{Need, Probe, Seen, why};
use crate::cgroup::Cgroup;
use crate::fork::wait;
use crate::mounts::{MountAttrFlags as Attr, attach, make_private, new_mount};
use crate::timens::{self, Clocks};
use crate::unshare::{UnshareFlags, unshare};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::fs;
use std::path::Path;
use std::time::Duration;

pub(super) const PROBES: &[Probe] = &[
    Probe {
        name: "namespaces",
        needed_for: "capsules: pid, mount, ipc, uts and cgroup namespaces",
        cost_if_missing: "`ferry run` does not work; processes can be adopted",
        need: Need::Always,
        probe: |_| {
            let kinds = UnshareFlags::NEWPID
                | UnshareFlags::NEWNS
                | UnshareFlags::NEWIPC
                | UnshareFlags::NEWUTS
                | UnshareFlags::NEWCGROUP;
            unshare(kinds).map_err(why("unshare"))?;
            let one = child_says(|| rustix::process::getpid().as_raw_pid() == 1).map_err(why("fork"))?;
            if one { Ok("a child was process 1".into()) } else { Err("a child was not process 1".into()) }
        },
    },
    Probe {
        name: "time-namespaces",
        needed_for: "CLOCK_MONOTONIC that goes on where it was",
        cost_if_missing: "workloads cannot be moved between hosts: their clocks would jump (CONFIG_TIME_NS)",
        need: Need::Sometimes,
        probe: |_| {
            unshare(UnshareFlags::NEWTIME).map_err(why("unshare"))?;
            let wanted = Clocks { monotonic_ns: 1_000_000_000_000_000, boottime_ns: 2_000_000_000_000_000 };
            timens::continue_from(wanted).map_err(why("set the clocks"))?;
            let shown = child_says(move || {
                let now = Clocks::now();
                let near = |a: i128, b: i128| (0..5_000_000_000).contains(&(a - b));
                near(now.monotonic_ns, wanted.monotonic_ns) && near(now.boottime_ns, wanted.boottime_ns)
            });
            if shown.map_err(why("fork"))? {
                Ok("a child's clocks were set".into())
            } else {
                Err("a child's clocks are not as set".into())
            }
        },
    },
    Probe {
        name: "user-namespaces",
        needed_for: "workloads with user namespaces of their own",
        cost_if_missing: "such workloads do not run here (user.max_user_namespaces)",
        need: Need::Sometimes,
        probe: |_| unshare(UnshareFlags::NEWUSER).map(|()| "one was made".into()).map_err(why("unshare")),
    },
    Probe {
        name: "overlayfs",
        needed_for: "a workload's own root, with what it writes in the state directory",
        cost_if_missing: "`ferry run` does not work: put the state directory on a disk or a tmpfs that overlayfs accepts",
        need: Need::Always,
        probe: |state| {
            let place = state.join(format!(".probe-{}", std::process::id()));
            let seen = overlay(&place);
            // Only once nothing is mounted there: what `merged` shows is the host's root, and removing that takes for ever.
            let merged = place.join("merged");
            let _ = rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH);
            if !merged.exists() || fs::remove_dir(&merged).is_ok() {
                let _ = fs::remove_dir_all(&place);
            }
            seen
        },
    },
    Probe {
        name: "overlayfs-nested",
        needed_for: "workloads that use overlays themselves (containers in a capsule)",
        cost_if_missing: "they do not run in a capsule",
        need: Need::Sometimes,
        probe: |_| {
            private()?;
            let memory = tmpfs()?;
            on(&memory, "/tmp")?;
            for name in ["upper", "work", "upper2", "work2", "merged"] {
                fs::create_dir(Path::new("/tmp").join(name)).map_err(why("mkdir"))?;
            }
            let first = overlay_over("/usr", "/tmp/upper", "/tmp/work")?;
            on(&first, "/tmp/merged")?;
            let second = overlay_over("/tmp/merged", "/tmp/upper2", "/tmp/work2")?;
            on(&second, "/tmp/merged")?;
            fs::write("/tmp/merged/probe", "x").map_err(why("write"))?;
            if Path::new("/tmp/upper2/probe").exists() {
                Ok("an overlay over an overlay holds what is written".into())
            } else {
                Err("what is written is elsewhere".into())
            }
        },
    },
    Probe {
        name: "cgroup-freeze",
        needed_for: "stopping a whole workload at once, safely",
        cost_if_missing: "no workload can be moved: mount a version 2 cgroup tree (mount -t cgroup2 none DIR)",
        need: Need::Always,
        probe: |_| {
            with_group(|group, child| {
                group.freeze().map_err(why("freeze"))?;
                group.wait_frozen(Duration::from_secs(2)).map_err(why("freeze"))?;
                group.thaw().map_err(why("thaw"))?;
                Ok(format!("process {child} was frozen and thawed below {}", parent(group)))
            })
        },
    },
    Probe {
        name: "cgroup-kill",
        needed_for: "ending a workload in one step",
        cost_if_missing: "its processes are killed one by one (Linux 5.14 has it)",
        need: Need::Sometimes,
        probe: |_| {
            with_group(|group, child| {
                group.write("cgroup.kill", "1").map_err(why("write cgroup.kill"))?;
                match wait(child, true).map_err(why("wait"))? {
                    Some((_, 9)) => Ok("a process was killed".into()),
                    other => Err(format!("the process ended with {other:?}")),
                }
            })
        },
    },
    Probe {
        name: "cgroup-limits",
        needed_for: "--memory and --cpu",
        cost_if_missing: "these limits are refused: delegate the controllers (systemd: Delegate=yes)",
        need: Need::Sometimes,
        probe: |_| {
            let own = Cgroup::own().map_err(why("find the own cgroup"))?;
            let have = own.controllers().map_err(why("read the controllers"))?;
            let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            let old = |name: &str| {
                groups.lines().any(|line| {
                    line.split(':').nth(1).is_some_and(|list| list.split(',').any(|each| each == name))
                })
            };
            let missing: Vec<&str> = ["memory", "cpu"]
                .into_iter()
                .filter(|name| !have.iter().any(|each| each == name) && !old(name))
                .collect();
            match missing[..] {
                [] => Ok("the memory and cpu controllers are here".into()),
                _ => Err(format!("{} has no controller for {}", own.path().display(), missing.join(" and "))),
            }
        },
    },
    Probe {
        name: "ipc-next-id",
        needed_for: "System V objects under the numbers that programs remember",
        cost_if_missing: "workloads with System V objects are refused (CONFIG_CHECKPOINT_RESTORE)",
        need: Need::Sometimes,
        probe: |_| {
            unshare(UnshareFlags::NEWIPC).map_err(why("unshare"))?;
            let object = crate::sysv::Object {
                id: 77,
                key: 0,
                mode: 0o600,
                uid: 0,
                gid: 0,
                size: 4096,
                users: [0; 2],
            };
            crate::sysv::make_segment(&object).map_err(why("make a segment"))?;
            Ok("a segment got the number 77".into())
        },
    },
];

fn private() -> Result<(), String> {
    unshare(UnshareFlags::NEWNS).map_err(why("unshare"))?;
    let root = open("/")?;
    make_private(root.as_fd()).map_err(why("mount_setattr"))
}

fn open(path: &str) -> Result<OwnedFd, String> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(why(path))
}

fn tmpfs() -> Result<OwnedFd, String> {
    new_mount("tmpfs", "probe", &[], Attr::empty()).map_err(why("make a tmpfs"))
}

fn on(mount: &OwnedFd, path: &str) -> Result<(), String> {
    attach(mount.as_fd(), open(path)?.as_fd()).map_err(why("move_mount"))
}

fn overlay_over(lower: &str, upper: &str, work: &str) -> Result<OwnedFd, String> {
    let options = [("lowerdir", lower), ("upperdir", upper), ("workdir", work)];
    new_mount("overlay", "probe", &options, Attr::empty()).map_err(why("make an overlay"))
}

fn overlay(place: &Path) -> Seen {
    let text = |name: &str| place.join(name).to_string_lossy().into_owned();
    for name in ["upper", "work", "merged"] {
        fs::create_dir_all(place.join(name)).map_err(why("make a directory in the state directory"))?;
    }
    private()?;
    let merged = overlay_over("/", &text("upper"), &text("work"))?;
    on(&merged, &text("merged"))?;
    fs::write(place.join("merged/probe"), "x").map_err(why("write"))?;
    if place.join("upper/probe").exists() {
        Ok("what was written is in the upper directory".into())
    } else {
        Err("what was written is elsewhere".into())
    }
}

fn parent(group: &Cgroup) -> String {
    group.path().parent().map_or_else(String::new, |parent| parent.display().to_string())
}

/// A cgroup with one process in it, removed afterwards.
fn with_group(work: impl FnOnce(&Cgroup, i32) -> Seen) -> Seen {
    let own = Cgroup::own().map_err(why("find the own cgroup"))?;
    let group = own.child(&format!("ferry-probe-{}", std::process::id())).map_err(why("make a cgroup"))?;
    let seen = (|| {
        let child = Sleeper::new().map_err(why("fork"))?;
        group.move_in(child.0).map_err(why("move a process"))?;
        let seen = work(&group, child.0);
        let _ = group.thaw();
        seen
    })();
    let _ = group.wait_empty(Duration::from_secs(2));
    let _ = group.remove();
    seen
}
