//! What the tests of this crate share: places for state, a workload that counts, and this executable in its other parts.
#![allow(dead_code)]

pub mod hosts;

use ferry_model::ids::WorkloadId;
use ferry_session::shim::protocol::Exit;
use ferry_session::shim::stream::Frame;
use ferry_session::shim::{Client, ExecSpec, Spec};
use ferry_sys::cgroup::Cgroup;
use libtest_mimic::Failed;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest that anything here may take.
pub const LONG: Duration = Duration::from_secs(90);

/// Plays another part, if the arguments say so.
pub fn is_helper() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("shim") => {
            own_cgroup(arguments[3].as_ref());
            let recover = arguments.iter().any(|each| each == "--recover");
            if let Err(error) = ferry_session::shim::run(arguments[3].as_ref(), recover) {
                eprintln!("{error:?}");
                std::process::exit(1);
            }
            true
        }
        Some("count") => count_for_ever(),
        _ => false,
    }
}

/// Two nodes on one machine would make cgroups of one name: each node's shims live in one of their own.
fn own_cgroup(dir: &Path) {
    let Some(node) = dir.parent().and_then(Path::parent) else { return };
    let cgroup = Cgroup::own().and_then(|own| own.child(&cgroup_name(node)));
    let _ = cgroup.and_then(|cgroup| cgroup.move_in(0));
}

fn cgroup_name(node: &Path) -> String {
    // The place's name, by which it is swept if this process is killed, and the node's.
    let name = |path: Option<&Path>| path.and_then(Path::file_name).unwrap_or_default().display().to_string();
    format!("{}-{}", name(node.parent()), name(Some(node)))
}

/// Writes a number per line, each once, and keeps a checksum of all of them in memory. A full disk makes it wait.
fn count_for_ever() -> ! {
    let mut sum = 0u64;
    let mut out = std::mem::ManuallyDrop::new(std::fs::File::from(
        std::io::stdout().as_fd().try_clone_to_owned().unwrap(),
    ));
    for number in 0u64.. {
        sum = sum.wrapping_mul(31).wrapping_add(number);
        let line = format!("{number} {sum}\n");
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match out.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::process::exit(0)
}

/// This executable.
pub fn program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// The counting workload.
pub fn counter() -> Vec<String> {
    vec![program().to_str().unwrap().into(), "count".into()]
}

pub fn spec<T: AsRef<str>>(id: u8, command: &[T]) -> Spec {
    let mut unique = [id; 16];
    unique[..4].copy_from_slice(&std::process::id().to_le_bytes());
    Spec {
        id: WorkloadId(unique),
        name: "test".into(),
        command: command.iter().map(|each| each.as_ref().to_owned()).collect(),
        env: vec!["PATH=/usr/bin:/bin".into(), "X=y".into()],
        cwd: "/".into(),
        ..Spec::default()
    }
}

pub fn exec_spec(command: &[&str]) -> ExecSpec {
    ExecSpec {
        command: command.iter().map(|each| (*each).to_owned()).collect(),
        env: vec!["PATH=/usr/bin:/bin".into()],
        cwd: None,
        user: None,
        terminal: None,
    }
}

pub fn run(test: fn()) -> impl FnOnce() -> Result<(), Failed> + Send + 'static {
    move || {
        test();
        Ok(())
    }
}

/// A place for state directories, on a memory file system so that an overlay's upper layer may be there.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        static SWEPT: std::sync::Once = std::sync::Once::new();
        SWEPT.call_once(ferry_lab::sweep::sweep_all);
        let prefix = ferry_lab::sweep::own_prefix();
        Self(tempfile::Builder::new().prefix(&prefix).tempdir_in("/dev/shm").unwrap())
    }

    /// On the disk that the tests are built on.
    pub fn on_disk() -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        Self(tempfile::Builder::new().prefix("ferry-test-").tempdir_in(target).unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.0.path().join("host/workloads").join(name)
    }

    pub fn shim(&self, name: &str) -> Client {
        Client::spawn(&program(), &self.dir(name), false).unwrap_or_else(|e| {
            let log = std::fs::read_to_string(self.dir(name).join("shim.log"));
            panic!("{e} {log:?}")
        })
    }

    /// Numbers in the log so far.
    pub fn count(&self, name: &str) -> u64 {
        count_in(&self.dir(name))
    }

    pub fn wait_for_count(&self, name: &str, count: u64) {
        wait_for_count_in(&self.dir(name), count);
    }

    pub fn assert_empty(&self, name: &str) {
        let left: Vec<_> =
            std::fs::read_dir(self.dir(name)).unwrap().map(|each| each.unwrap().file_name()).collect();
        let known = ["log", "shim.log", "shim.lock", "shim.sock", "journal"];
        assert!(left.iter().all(|each| known.iter().any(|known| each == known)), "{left:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let list = |dir: &Path| -> Vec<PathBuf> {
            std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        for node in list(self.0.path()) {
            for dir in list(&node.join("workloads")) {
                let shim = Client::connect(&dir);
                let shim = shim.or_else(|e| match dir.join("shim.cbor").exists() {
                    true => Client::spawn(&program(), &dir, true),
                    false => Err(e),
                });
                if let Ok(mut shim) = shim {
                    let _ = shim.destroy();
                }
            }
            if let Ok(cgroup) = Cgroup::own().and_then(|own| own.child(&cgroup_name(&node))) {
                let _ = cgroup.wait_empty(Duration::from_secs(2));
                let _ = cgroup.remove();
            }
        }
    }
}

/// Numbers in the log of a workload's directory so far; fails if one is missing, doubled or has a wrong checksum.
pub fn count_in(dir: &Path) -> u64 {
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    let whole = &log[..log.rfind('\n').map_or(0, |at| at + 1)];
    let mut sum = 0u64;
    for (number, line) in whole.lines().enumerate() {
        sum = sum.wrapping_mul(31).wrapping_add(number as u64);
        assert_eq!(line, format!("{number} {sum}"));
    }
    whole.lines().count() as u64
}

pub fn wait_for_count_in(dir: &Path, count: u64) {
    let end = Instant::now() + LONG;
    while count_in(dir) < count {
        assert!(Instant::now() < end, "{} stands at {} of {count}", dir.display(), count_in(dir));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything on an attached connection, up to the end of the program.
pub fn read_all(stream: &mut impl Read) -> (String, String, Exit) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match Frame::receive(stream).unwrap() {
            Some(Frame::Output(bytes)) => out.extend(bytes),
            Some(Frame::ErrorOutput(bytes)) => err.extend(bytes),
            Some(Frame::Exit(exit)) => {
                return (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), exit);
            }
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&out)),
        }
    }
}

/// SIGKILL, and wait until it is gone.
pub fn kill(pid: i32) {
    let id = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
    let end = Instant::now() + LONG;
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(2));
    }
}
