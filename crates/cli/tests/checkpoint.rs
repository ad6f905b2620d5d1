//! `ferry checkpoint` and `ferry restore` without a node: a program that counts into a file goes on where it stood, once.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A scratch directory with a state directory of its own; what was started in it ends with it.
struct Place {
    dir: tempfile::TempDir,
    pids: Vec<i32>,
    children: Vec<Child>,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), pids: vec![], children: vec![] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ferry(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        command.arg("--state").arg(self.path("state")).args(args).current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.ferry(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Starts a program that counts into the file `count`.
    fn count(&mut self) -> i32 {
        let script = "i=0; while :; do i=$((i+1)); echo $i >> count; sleep 0.02; done";
        let child = program(script)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        self.children.push(child);
        self.wait_for_more();
        pid
    }

    fn counted(&self) -> Vec<u64> {
        let text = fs::read_to_string(self.path("count")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Waits until the program has counted on.
    fn wait_for_more(&self) {
        let before = self.counted().len();
        let end = Instant::now() + Duration::from_secs(30);
        while self.counted().len() < before + 3 {
            assert!(
                Instant::now() < end,
                "the program does not count: it stands at {:?}",
                self.counted().last()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Nothing was lost or doubled: the file holds 1, 2, 3 and so on.
    fn assert_whole(&self) {
        let counted = self.counted();
        assert!(counted.iter().zip(1..).all(|(found, wanted)| *found == wanted), "{counted:?}");
    }

    /// Collects the first child, which something has ended.
    fn reap(&mut self) {
        self.children.remove(0).wait().unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in &self.pids {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program without the descriptors that whoever started the tests left open: pipes to others cannot be saved.
fn program(script: &str) -> Command {
    let close = "for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -gt 2 ] && eval \"exec $fd>&-\"; done; exec sh -c \"$0\"";
    let mut command = Command::new("bash");
    command.args(["-c", close, script]);
    command
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(output: &Output, code: i32, words: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(words), "{text}");
}

fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn pid_of(report: &serde_json::Value) -> i32 {
    i32::try_from(report["pid"].as_i64().unwrap()).unwrap()
}

#[test]
fn a_program_goes_on_where_it_stood_and_only_once() {
    let mut place = Place::new();
    let pid = place.count();
    let done = place.run(&["--json", "checkpoint", &pid.to_string(), "image"]);
    assert!(json(&done)["frozen_us"].as_u64().unwrap() > 0);
    place.reap();
    let stood = place.counted().len();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(place.counted().len(), stood, "it was ended");

    let restored = json(&place.run(&["--json", "restore", "--detach", "--pidfile", "pid", "image"]));
    place.pids.push(pid_of(&restored));
    assert_eq!(restored["pid_inside"].as_i64().unwrap(), i64::from(pid));
    assert_eq!(fs::read_to_string(place.path("pid")).unwrap().trim(), pid_of(&restored).to_string());
    place.wait_for_more();
    place.assert_whole();

    refused(&place.run(&["restore", "--detach", "image"]), 3, "already restored");
    // On purpose, beside the first.
    let clone = json(&place.run(&["--json", "restore", "--detach", "--as-clone", "image"]));
    place.pids.push(pid_of(&clone));
    assert_eq!(clone["pid_inside"].as_i64().unwrap(), i64::from(pid));
    assert_ne!(clone["workload"], restored["workload"]);
    let twice = |counted: Vec<u64>| counted.windows(2).any(|pair| pair[1] <= pair[0]);
    let end = Instant::now() + Duration::from_secs(30);
    while !twice(place.counted()) {
        assert!(Instant::now() < end, "the clone does not count");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn ids_are_kept_where_they_are_free_and_else_a_namespace_is_made() {
    let mut place = Place::new();
    let pid = place.count();
    json(&place.run(&["--json", "checkpoint", "--leave-running", &pid.to_string(), "image"]));
    // It runs on, so its id is taken.
    refused(&place.run(&["restore", "--detach", "--same-pids", "--as-clone", "image"]), 1, "taken");
    // And only as another: it may still run.
    refused(&place.run(&["restore", "--detach", "image"]), 3, "went on after");
    let beside = json(&place.run(&["--json", "restore", "--detach", "--as-clone", "image"]));
    place.pids.push(pid_of(&beside));
    assert_eq!(beside["new_pid_namespace"], true);
    assert_ne!(pid_of(&beside), pid);
    let proc = format!("/proc/{}/ns/pid", pid_of(&beside));
    assert_ne!(fs::read_link(proc).unwrap(), fs::read_link("/proc/self/ns/pid").unwrap());
}

#[test]
fn left_running_it_misses_nothing() {
    let mut place = Place::new();
    let pid = place.count();
    for image in ["one", "two"] {
        json(&place.run(&["--json", "checkpoint", "--leave-running", &pid.to_string(), image]));
        place.wait_for_more();
    }
    place.assert_whole();
}

#[test]
fn a_checkpoint_that_fails_lets_it_run_on_and_leaves_no_image() {
    let mut place = Place::new();
    let pid = place.count().to_string();
    fs::create_dir(place.path("there")).unwrap();
    refused(&place.run(&["checkpoint", &pid, "there"]), 2, "exists");
    // A file system with no room for it, in a mount namespace that ends with the command.
    fs::create_dir(place.path("small")).unwrap();
    let script =
        "mount -t tmpfs -o size=128k none small && exec \"$0\" --state state checkpoint \"$1\" small/image";
    let full = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_ferry"), &pid])
        .current_dir(place.dir.path())
        .output()
        .unwrap();
    refused(&full, 4, "runs on");
    place.wait_for_more();
    place.assert_whole();
    assert!(!place.path("small/image").exists() && !place.path("image.tmp").exists());
}

#[test]
fn a_checkpoint_that_is_killed_lets_it_run_on() {
    let mut place = Place::new();
    let pid = place.count();
    for delay_us in [0, 500, 2_000, 5_000, 10_000, 20_000] {
        let name = format!("image-{delay_us}");
        let mut checkpoint = place
            .ferry(&["checkpoint", "--leave-running", &pid.to_string(), &name])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(delay_us));
        checkpoint.kill().unwrap();
        let finished = checkpoint.wait().unwrap().success();
        place.wait_for_more();
        // Whole or not there: what is there can be restored.
        if place.path(&name).exists() {
            let restored = json(&place.run(&["--json", "restore", "--detach", "--as-clone", &name]));
            Command::new("kill").args(["-KILL", &pid_of(&restored).to_string()]).status().unwrap();
        } else {
            assert!(!finished);
        }
    }
    // What killed ones left is no obstacle.
    if !place.path("image-0").exists() {
        json(&place.run(&["--json", "checkpoint", "--leave-running", &pid.to_string(), "image-0"]));
    }
}

#[test]
fn an_altered_image_is_refused_and_nothing_is_left_of_the_attempt() {
    let mut place = Place::new();
    let pid = place.count();
    json(&place.run(&["--json", "checkpoint", &pid.to_string(), "image"]));
    place.reap();
    let pages = place.path("image/pages-0");
    let mut bytes = fs::read(&pages).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pages, &bytes).unwrap();
    refused(&place.run(&["restore", "--detach", "--pidfile", "pid", "image"]), 3, "altered");
    assert!(!exists(pid) && !place.path("pid").exists() && !place.path("image/consumed").exists());
    // Put right again, it is restored as if nothing had been tried.
    bytes[middle] ^= 1;
    fs::write(&pages, &bytes).unwrap();
    let restored = json(&place.run(&["--json", "restore", "--detach", "image"]));
    place.pids.push(pid_of(&restored));
    place.wait_for_more();
    place.assert_whole();
    // An image by another host's key.
    fs::rename(place.path("state/image.key"), place.path("other.key")).unwrap();
    refused(&place.run(&["restore", "--detach", "--as-clone", "image"]), 3, "neither this host's nor listed");
}

#[test]
fn the_command_that_restores_lends_its_streams_and_ends_as_the_program_ends() {
    let mut place = Place::new();
    let mut child = program("echo ready; read line; echo got $line; exit 7")
        .current_dir(place.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let pid = child.id().to_string();
    place.children.push(child);
    json(&place.run(&["--json", "checkpoint", &pid, "image"]));
    place.reap();
    let mut restored = place
        .ferry(&["restore", "image"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    restored.stdin.take().unwrap().write_all(b"a letter\n").unwrap();
    let output = restored.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "got a letter\n", "{output:?}");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}
