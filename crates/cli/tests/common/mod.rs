//! Nodes of a fleet on this machine, each with a state directory of its own, driven by the real binary. Everything that a
//! test started goes when the value drops: workloads, shims, nodes, directories.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod person;

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A node.
pub struct Node {
    pub name: String,
    dir: PathBuf,
    up: Option<Child>,
    /// Of `ferry node up`, besides where it listens.
    options: Vec<String>,
}

/// Several nodes of one fleet.
pub struct Fleet {
    pub nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

impl Fleet {
    /// A fleet whose nodes are up and know each other; the first is the authority's.
    pub fn of(names: &[&str]) -> Self {
        Self::with(names, &[])
    }

    /// As [`Self::of`], with more options for each `ferry node up`.
    pub fn with(names: &[&str], options: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("ferry-fleet-").tempdir().unwrap();
        let mut nodes: Vec<Node> = Vec::new();
        for name in names {
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            let mut node = Node { name: (*name).to_owned(), dir: dir.path().join(name), up: None, options };
            match nodes.first() {
                None => drop(node.ok(&["node", "init", "--name", name])),
                Some(first) => {
                    let token = first.ok(&["node", "token", name]);
                    node.ok_with_input(&["node", "join"], token.as_bytes());
                }
            }
            node.up();
            nodes.push(node);
        }
        let fleet = Self { nodes, _dir: dir };
        let known = |node: &Node| {
            let hosts = node.json(&["host", "ls"]);
            hosts.as_array().unwrap().iter().filter(|host| host["reachable"] == true).count() == names.len()
        };
        until("the nodes know each other", || fleet.nodes.iter().all(known));
        fleet
    }
}

impl Node {
    /// A command of `ferry` for this node.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        command.arg("--state").arg(self.dir.join("state")).arg("--run").arg(self.run_dir()).args(args);
        for variable in ["FERRY_STATE", "FERRY_RUN", "FERRY_API", "FERRY_IDENTITY"] {
            command.env_remove(variable);
        }
        command
    }

    /// Where its sockets are.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The socket of its API.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("node.sock")
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Starts it and waits until it answers.
    pub fn up(&mut self) {
        std::fs::create_dir_all(&self.dir).unwrap();
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("node.log")).unwrap();
        let mut command =
            self.command(&["node", "up", "--listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]);
        command.args(&self.options);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.up = Some(child);
        until("the node answers", || std::os::unix::net::UnixStream::connect(self.socket()).is_ok());
    }

    /// Kills it, as a crash would.
    pub fn crash(&mut self) {
        let mut child = self.up.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops its process, or lets it go on: a host that hangs.
    pub fn hang(&self, hangs: bool) {
        let signal = if hangs { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        let pid = self.up.as_ref().and_then(|child| rustix::process::Pid::from_raw(child.id().cast_signed()));
        rustix::process::kill_process(pid.unwrap(), signal).unwrap();
    }

    /// Runs a command.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that has to succeed; returns what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "ferry {}: {}{}", args.join(" "), text(&output), self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// As [`Self::ok`], with something on standard input.
    pub fn ok_with_input(&self, args: &[&str], input: &[u8]) -> String {
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "ferry {}: {}{}", args.join(" "), text(&output), self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command with `--json` that has to succeed; returns its value.
    pub fn json(&self, args: &[&str]) -> Value {
        let printed = self.ok(&[&["--json"], args].concat());
        serde_json::from_str(&printed)
            .unwrap_or_else(|error| panic!("ferry {}: {error}: {printed}", args.join(" ")))
    }

    /// Runs a command that has to fail with `code`; returns what it said.
    pub fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "ferry {}: {}{}",
            args.join(" "),
            text(&output),
            self.log()
        );
        text(&output)
    }

    /// The end of the node's own log, for a failure's message.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("node.log")).unwrap_or_default();
        let from = log.len().saturating_sub(4000);
        format!("\n--- log of {} ---\n{}", self.name, log.get(from..).unwrap_or(&log))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.up.is_none() && self.state().join("workloads").exists() {
            // A test that ends while its node is down still leaves nothing.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.up()));
        }
        let listed = self.run(&["--json", "ps", "--all"]);
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        for workload in listed.as_array().into_iter().flatten() {
            let _ = self.run(&["rm", "--force", workload["id"].as_str().unwrap_or_default()]);
        }
        if let Some(mut child) = self.up.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until `done`.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a command printed, on both streams.
pub fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The owner-only bits of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
