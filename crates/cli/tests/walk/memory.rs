//! Out of memory, truly: the kernel's own killer, in a memory cgroup that holds the victims and eight greedy processes. The victims are
//! marked as the first to go, which counts as if they held all that the cgroup may; each of the greedy holds less.

use ferry_lab::sweep;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What the cgroup may hold, bytes.
const LIMIT_BYTES: u64 = 64 << 20;

/// Eight processes that ask for 24 MiB each.
const GREED: &str = r#"fork for 1 .. 3; $x = "x" x (24 << 20); sleep 60"#;

/// How long the kernel may take.
const KILLED_MAX: Duration = Duration::from_secs(20);

/// Has the kernel kill these processes (by the machine's pids) for want of memory.
///
/// # Errors
/// There is no memory controller to do it with, or they live on.
pub fn starve(pids: &[i32]) -> Result<(), String> {
    let group = Group::new().map_err(|e| format!("a memory cgroup: {e}"))?;
    for pid in pids {
        // A child that it makes meanwhile would be born into the cgroup, and die too.
        if let Some(pid) = Pid::from_raw(*pid) {
            let _ = kill_process(pid, Signal::STOP);
        }
        // One that has ended meanwhile needs no killing.
        let _ = std::fs::write(group.dir.join("cgroup.procs"), pid.to_string());
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "1000");
    }
    let procs = group.dir.join("cgroup.procs");
    let line = format!("echo $$ > {} && exec perl -e '{GREED}'", procs.display());
    let greedy = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut greedy = Greedy(greedy.map_err(|e| format!("sh: {e}"))?);
    let end = Instant::now() + KILLED_MAX;
    while pids.iter().any(|pid| lives(*pid)) {
        if Instant::now() > end {
            let ended = greedy.0.try_wait();
            let said = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let status: Vec<String> = pids.iter().map(said).collect();
            let members = std::fs::read_to_string(&procs);
            return Err(format!(
                "the kernel did not kill all of {pids:?}; the greedy process: {ended:?}, in the cgroup: {members:?}, {status:?}"
            ));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

struct Greedy(Child);

impl Drop for Greedy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A memory cgroup beneath this process' own.
struct Group {
    dir: PathBuf,
}

impl Group {
    fn new() -> std::io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // In the version 1 tree a process may be put into it without leaving the version 2 cgroup by which it is frozen.
        let own = sweep::own_memory().ok_or_else(|| {
            std::io::Error::other(
                "the version 1 memory controller, by which this test starves, is not mounted",
            )
        })?;
        let dir = own.join(format!("{}memory-{number}", sweep::own_prefix()));
        std::fs::create_dir(&dir)?;
        let group = Self { dir };
        std::fs::write(group.dir.join("memory.limit_in_bytes"), LIMIT_BYTES.to_string())?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What died takes a moment to leave.
        let end = Instant::now() + Duration::from_secs(5);
        let procs = std::fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        while std::fs::remove_dir(&self.dir).is_err() && self.dir.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
