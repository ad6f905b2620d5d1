//! What tests leave that are killed in the middle: found by the next run, and removed when its owner is gone.
//!
//! A test names what it makes on the machine (directories, cgroups) by [`own_prefix`]: the owner's pid and when it started. A name
//! whose owner still runs is somebody's; a name of any other form is nobody's business here. Both are left alone.

use crate::cgroup;
use rustix::mount::{UnmountFlags, unmount};
use std::fs;
use std::path::Path;

/// How every name of a test's begins.
const PREFIX: &str = "ferry-test-";

/// The beginning of every name that this process gives.
#[must_use]
pub fn own_prefix() -> String {
    let pid = std::process::id();
    format!("{PREFIX}{pid}-{}-", start_time(pid).unwrap_or_default())
}

/// Removes from each of `places` what carries the name of a process that is gone: directories with what is mounted on them and
/// beneath, cgroups with all that is in them.
pub fn sweep(places: &[&Path]) {
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_orphan)) {
        let path = entry.path();
        if path.join("cgroup.procs").exists() {
            cgroup::remove(&path);
            continue;
        }
        for below in fs::read_dir(&path).into_iter().flatten().flatten() {
            let _ = unmount(below.path(), UnmountFlags::DETACH);
        }
        let _ = unmount(&path, UnmountFlags::DETACH);
        let _ = fs::remove_dir_all(&path);
    }
}

/// Sweeps where tests of this workspace make directories and cgroups.
pub fn sweep_all() {
    let temporary = std::env::temp_dir();
    let own = cgroup::own().ok();
    let memory = own_memory();
    let places = [Some(Path::new("/dev/shm")), Some(&*temporary), own.as_deref(), memory.as_deref()];
    sweep(&places.into_iter().flatten().collect::<Vec<_>>());
}

/// This process' own cgroup in the version 1 memory tree, where there is one.
#[must_use]
pub fn own_memory() -> Option<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut words = right.split(' ');
        let is_memory =
            words.next() == Some("cgroup") && words.nth(1)?.split(',').any(|word| word == "memory");
        is_memory.then(|| left.split(' ').nth(4)).flatten()
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| {
        let mut words = line.splitn(3, ':').skip(1);
        words.next()?.split(',').any(|word| word == "memory").then(|| words.next()).flatten()
    });
    let own = Path::new(mount).join(own.unwrap_or("/").trim_start_matches('/'));
    // In a container the path is the outer one's, and the mount shows only what is beneath it.
    Some(if own.is_dir() { own } else { mount.into() })
}

/// Whether this is a name by [`own_prefix`] of a process that is gone.
fn is_orphan(name: &str) -> bool {
    let mut parts = name.strip_prefix(PREFIX).unwrap_or_default().splitn(3, '-');
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
    let (Some(pid), Some(started)) = (number(), number()) else { return false };
    let Ok(pid) = u32::try_from(pid) else { return false };
    parts.next().is_some() && start_time(pid) != Some(started)
}

/// When a process started, in ticks since the boot; none: it is gone.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; the start is the 22nd word, the 20th after it.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_process_named_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = format!("{PREFIX}{}-1-x", child.id());
        child.wait().unwrap();
        // The same pid, another process: the start tells.
        let reused = format!("{PREFIX}{}-1-x", std::process::id());
        let others = [own_prefix() + "mine", format!("{PREFIX}of-somebody"), "else".to_owned()];
        for name in others.iter().chain([&dead, &reused]) {
            fs::create_dir_all(place.path().join(name).join("beneath")).unwrap();
        }
        sweep(&[place.path()]);
        let left: Vec<bool> = others.iter().map(|name| place.path().join(name).exists()).collect();
        assert_eq!(left, [true; 3]);
        assert!(!place.path().join(dead).exists() && !place.path().join(reused).exists());
    }
}
