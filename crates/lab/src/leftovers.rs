//! What a lab has left behind: processes, namespaces, mounts, cgroups, devices, files. Tests and the demo end with this question.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The variable that every process of a lab carries in its environment.
pub const VARIABLE: &str = "FERRY_LAB";

/// How every lab's name begins.
pub(crate) const PREFIX: &str = "ferry-lab-";

/// How long traces may take to vanish.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Kinds of namespace as `/proc/PID/ns` names them.
const KINDS: [&str; 7] = ["net", "mnt", "pid", "ipc", "uts", "time", "cgroup"];

/// How a lab's traces are known: kept from its life, looked for after its death.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    pub(crate) name: String,
    pub(crate) cgroup: PathBuf,
    pub(crate) scratch: PathBuf,
    namespaces: BTreeSet<(&'static str, u64)>,
    devices: BTreeSet<String>,
}

impl Marks {
    pub(crate) fn new(name: &str, cgroup: &Path, scratch: &Path) -> Self {
        Self {
            name: name.to_owned(),
            cgroup: cgroup.to_owned(),
            scratch: scratch.to_owned(),
            namespaces: BTreeSet::new(),
            devices: devices(),
        }
    }

    /// Remembers the namespaces of a process of the lab that are not our own.
    pub(crate) fn remember(&mut self, pid: i32) {
        let own = namespaces_of("self");
        self.namespaces.extend(namespaces_of(&pid.to_string()).difference(&own));
    }

    /// What is still there of the lab, one line each. Empty: nothing. Asks again for a moment before it says that something
    /// is: dying takes time, and the kernel gives the numbers of dead namespaces to others.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let left = self.look();
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn look(&self) -> Vec<String> {
        let mut left = at(&self.cgroup, &self.scratch);
        let carried = format!("{VARIABLE}={}", self.name);
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            let group = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if environ.split(|byte| *byte == 0).any(|one| one == carried.as_bytes())
                || group.contains(&self.name)
            {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                left.push(format!("process {pid} ({})", name.trim_end()));
                continue;
            }
            let others = [&environ[..], group.as_bytes()].iter().any(|text| names_a_lab(text));
            if others {
                continue;
            }
            for (kind, number) in namespaces_of(&pid).intersection(&self.namespaces) {
                left.push(format!("namespace {kind}:[{number}], held by process {pid}"));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = |line: &&str| {
            let bound = |(kind, number): &(&str, u64)| line.contains(&format!(" {kind}:[{number}] "));
            line.contains(&self.name) || self.namespaces.iter().any(bound)
        };
        left.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
        let new = devices().difference(&self.devices).cloned().collect::<Vec<_>>();
        left.extend(new.into_iter().map(|name| format!("network device {name}")));
        for directory in ["/tmp", "/dev/shm", "/run", "/var/tmp", "/var/lib"] {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().contains(&self.name) && entry.path() != self.scratch {
                    left.push(format!("file {}", entry.path().display()));
                }
            }
        }
        left
    }
}

/// The two things that a lab makes on the machine itself.
pub(crate) fn at(cgroup: &Path, scratch: &Path) -> Vec<String> {
    let mut left = Vec::new();
    if cgroup.exists() {
        left.push(format!("cgroup {}", cgroup.display()));
    }
    if scratch.exists() {
        left.push(format!("file {}", scratch.display()));
    }
    left
}

/// Whether the environment or cgroup of a process tells of a lab.
fn names_a_lab(text: &[u8]) -> bool {
    text.windows(PREFIX.len()).any(|window| window == PREFIX.as_bytes())
}

fn namespaces_of(pid: &str) -> BTreeSet<(&'static str, u64)> {
    let number = |kind| fs::metadata(format!("/proc/{pid}/ns/{kind}")).map(|meta| (kind, meta.ino()));
    KINDS.into_iter().filter_map(|kind| number(kind).ok()).collect()
}

fn devices() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
