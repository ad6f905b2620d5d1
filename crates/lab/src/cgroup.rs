//! The lab's part of the cgroup tree: version 2, wherever it is mounted.

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait for dying processes to leave a cgroup.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// Where this process may make cgroups: the version 2 mount and its own place in it.
pub(crate) fn own() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mounts
        .lines()
        .find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            (right.split(' ').next() == Some("cgroup2")).then(|| left.split(' ').nth(4)).flatten()
        })
        .ok_or(Error::NoCgroup2)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Ok(Path::new(mount).join(own.trim_start_matches('/')))
}

/// Kills what is left in a cgroup and removes it with everything beneath.
pub(crate) fn remove(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    // Since Linux 5.14; kills frozen tasks too.
    let _ = fs::write(path.join("cgroup.kill"), "1");
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let deadline = Instant::now() + LEAVE_MAX;
    while fs::remove_dir(path).is_err() && path.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}
