//! However a demo ends, nothing of it stays: interrupted, killed, without privileges.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ferry");

/// A demo that has come so far that its server runs.
fn started() -> (Child, String) {
    let mut demo = Command::new(PROGRAM)
        .args(["demo", "--size", "16", "--keep"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let prefix = format!("ferry-lab-{}-", demo.id());
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
    let server = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("Starting the server")));
    assert!(server.is_some(), "the demo did not come to its server");
    // Whatever else it says is read, so that it is never stopped by a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (demo, prefix)
}

/// Everything on the machine that tells of a lab whose name begins so.
fn traces(prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let carried = format!("FERRY_LAB={prefix}");
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let group = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if environ.split(|byte| *byte == 0).any(|one| one.starts_with(carried.as_bytes()))
            || group.contains(prefix)
        {
            found.push(format!("process {}", entry.file_name().to_string_lossy()));
        }
    }
    for directory in ["/tmp", "/run", "/dev/shm", "/var/lib", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(prefix)).map(str::to_owned));
    found
}

fn gone(prefix: &str) {
    let start = Instant::now();
    while !traces(prefix).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(15), "left behind: {:?}", traces(prefix));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn interrupted() {
    let (mut demo, prefix) = started();
    assert!(!traces(&prefix).is_empty(), "the question itself finds nothing");
    let pid = rustix::process::Pid::from_child(&demo);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    demo.wait().unwrap();
    gone(&prefix);
}

#[test]
fn killed() {
    let (mut demo, prefix) = started();
    demo.kill().unwrap();
    demo.wait().unwrap();
    gone(&prefix);
}

#[test]
fn without_privileges() {
    let output = Command::new("/usr/bin/setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", PROGRAM, "demo"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("root"), "{said}");
}
