//! Two hosts of the lab with a node each, a workload on the first, and what a test can do to them from outside.

use crate::counter;
use crate::fault::Step;
use ferry_lab::{FERRY, Fleet, Host, HostSpec, Shared};
use ferry_model::handover::Entry;
use ferry_session::journal::Journal;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Number of the host that the workload leaves.
pub const SOURCE: usize = 0;
/// Number of the host that it goes to.
pub const TARGET: usize = 1;

/// The hosts' names.
pub const NAMES: [&str; 2] = ["alpha", "beta"];
/// Its name.
pub const WORKLOAD: &str = "walk";
/// Size of a host's disk, bytes.
const DISK_BYTES: u64 = 64 << 20;
/// Where the hosts see the switches of `ferry_node`'s faults on order.
const FAULTS_DIR: &str = "/faults";
/// How long one thing may take on a busy machine.
const LONG: Duration = Duration::from_secs(90);

/// Two hosts.
pub struct World {
    fleet: Fleet,
    switches: tempfile::TempDir,
    /// The hosts' roots, as the machine sees them.
    roots: [PathBuf; 2],
    /// The workload's id.
    id: String,
    /// How far it had counted when the move began.
    pub counted_before: u64,
}

impl World {
    /// Makes the hosts and starts the workload on the first.
    pub fn new() -> Result<Self, String> {
        Self::with(&[], &[])
    }

    /// As [`Self::new`], with an address of the workload's own, at which it listens.
    pub fn listening(address: &str, port: &str) -> Result<Self, String> {
        Self::with(&["--net", address], &[port])
    }

    fn with(options: &[&str], arguments: &[&str]) -> Result<Self, String> {
        ferry_lab::sweep::sweep_all();
        let prefix = ferry_lab::sweep::own_prefix();
        let switches = tempfile::Builder::new().prefix(&prefix).tempdir().map_err(words)?;
        let spec = |name: &str| {
            let mut spec = HostSpec::new(name);
            spec.shared = Some(Shared { from: switches.path().to_owned(), at: FAULTS_DIR.into() });
            spec.state_bytes_max = Some(DISK_BYTES);
            spec.env = vec![("FERRY_FAULTS".into(), FAULTS_DIR.into())];
            spec
        };
        // What is kept of who has left must not stand in the way of anything, whatever fails.
        let program = Path::new(env!("CARGO_BIN_EXE_ferry"));
        let fleet = Fleet::start_with(program, NAMES.map(spec).into(), &["--visits-max", "64M"]);
        let fleet = fleet.map_err(words)?;
        let root = |number: usize| {
            let agent = fleet.nodes[number].outer_pid(1).unwrap_or_default();
            PathBuf::from(format!("/proc/{agent}/root"))
        };
        let roots = [root(SOURCE), root(TARGET)];
        let program = ["--", "/usr/bin/perl", "-e", counter::PROGRAM];
        let started = [&[FERRY, "run", "--name", WORKLOAD], options, &program, arguments].concat();
        fleet.nodes[SOURCE].ok(&started).map_err(words)?;
        let mut world = Self { fleet, switches, roots, id: String::new(), counted_before: 0 };
        let listed = world.ask(SOURCE, &["ps", "--all"])?;
        world.id = listed[0]["id"].as_str().ok_or("the workload has no id")?.to_owned();
        wait_until("it counts", LONG, || Ok(world.counted(SOURCE)? >= 5))?;
        Ok(world)
    }

    /// Begins the move and waits until its node stands still at `step`.
    pub fn walk_to(&mut self, step: Step) -> Result<(), String> {
        self.order(step)?;
        let how = ["--detach", "--method", step.method()];
        self.ok(SOURCE, &[&["move", WORKLOAD, "--to", NAMES[TARGET]], &how[..]].concat())?;
        self.arrive(step)?;
        if step.is_drain() {
            // The target learns from the decider that it has won, and its copy runs until it touches what is missing.
            wait_until("it runs without its pages", LONG, || Ok(self.has_written(TARGET, "RUNNING")))?;
        }
        Ok(())
    }

    /// Has the next move stand still at `step`.
    pub fn order(&mut self, step: Step) -> Result<(), String> {
        self.counted_before = self.counted(SOURCE)?;
        for old in ["at", "go"] {
            let _ = std::fs::remove_file(self.at(step, old));
        }
        std::fs::write(self.at(step, "stop"), step.name).map_err(words)
    }

    /// Waits until the move stands still.
    pub fn arrive(&self, step: Step) -> Result<(), String> {
        wait_until("the step", LONG, || Ok(self.at(step, "at").exists()))
    }

    /// Lets the node that stands still go on.
    pub fn go(&self, step: Step) -> Result<(), String> {
        std::fs::write(self.at(step, "go"), b"").map_err(words)
    }

    fn at(&self, step: Step, what: &str) -> PathBuf {
        self.switches.path().join(format!("{}.{what}", NAMES[step.by]))
    }

    /// Turns a switch on.
    pub fn switch(&self, name: &str) -> Result<(), String> {
        std::fs::write(self.switches.path().join(name), b"").map_err(words)
    }

    /// Turns a switch off.
    pub fn unswitch(&self, name: &str) {
        let _ = std::fs::remove_file(self.switches.path().join(name));
    }

    /// Pulls the target's cable.
    pub fn cut(&self) -> Result<(), String> {
        self.fleet.nodes[TARGET].cut_link().map_err(words)
    }

    /// Puts it back.
    pub fn heal(&self) -> Result<(), String> {
        self.fleet.nodes[TARGET].heal_link().map_err(words)
    }

    /// A host's state directory, as the machine sees it.
    pub fn state(&self, host: usize) -> PathBuf {
        self.roots[host].join("var/lib/ferry")
    }

    fn directory(&self, host: usize) -> PathBuf {
        self.state(host).join("workloads").join(&self.id)
    }

    /// Kills a host's node and waits until it is gone.
    pub fn kill_node(&self, host: usize) -> Result<(), String> {
        let daemon = self.fleet.daemon(host);
        daemon.signal(Signal::KILL).map_err(words)?;
        wait_until("a node is gone", LONG, || Ok(daemon.has_ended()))
    }

    /// Starts it again.
    pub fn start_node(&mut self, host: usize) -> Result<(), String> {
        self.fleet.restart_node(host).map_err(words)
    }

    /// Crashes a host; its node is not started.
    pub fn reboot(&self, host: usize) -> Result<(), String> {
        self.fleet.nodes[host].reboot().map_err(words)
    }

    /// The shim of the workload on a host, by the machine's pid.
    pub fn shim_of(&self, host: usize) -> Option<i32> {
        self.process_of(host, b"ferry-shim\n")
    }

    fn process_of(&self, host: usize, name: &[u8]) -> Option<i32> {
        let root = std::fs::read_link(self.roots[host].join("proc/1/ns/pid")).ok()?;
        let is_it = |pid: i32| {
            let file = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            file("comm") == name
                && String::from_utf8_lossy(&file("cmdline")).contains(&self.id)
                && std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == root)
        };
        let all = std::fs::read_dir("/proc").ok()?.flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid| is_it(*pid))
    }

    /// Kills the shim on a host, if there is one.
    pub fn kill_shim(&self, host: usize) -> Result<(), String> {
        let Some(pid) = self.shim_of(host) else { return Ok(()) };
        kill_process(Pid::from_raw(pid).ok_or("no pid")?, Signal::KILL).map_err(words)?;
        wait_until("a shim is gone", LONG, || Ok(self.shim_of(host) != Some(pid)))
    }

    /// Kills what fetches missing pages on a host, if there is one.
    pub fn kill_pager(&self, host: usize) -> Result<(), String> {
        let pager = || self.process_of(host, b"ferry-pager\n");
        let Some(pid) = pager() else { return Ok(()) };
        kill_process(Pid::from_raw(pid).ok_or("no pid")?, Signal::KILL).map_err(words)?;
        wait_until("a pager is gone", LONG, || Ok(pager() != Some(pid)))
    }

    /// The tasks of the copy on a host, frozen or not, by the machine's pids.
    pub fn copy_of(&self, host: usize) -> Vec<i32> {
        let Some(group) = self.work_group(host) else { return Vec::new() };
        let procs = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        procs.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The cgroup of the copy on a host.
    fn work_group(&self, host: usize) -> Option<PathBuf> {
        let tree = self.roots[host].join("sys/fs/cgroup");
        let below = |dir: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.path()).collect()
        };
        let capsules = below(&tree).into_iter().chain([tree]).flat_map(|dir| below(&dir.join("ferry")));
        capsules.map(|capsule| capsule.join("work")).find(|work| work.is_dir())
    }

    /// Whether nothing of the workload is on a host but what was written down about it.
    pub fn is_bare(&self, host: usize) -> bool {
        !self.directory(host).join("shim.cbor").exists() && self.work_group(host).is_none()
    }

    /// Fails when the source's copy says something although the target has begun to start its own: the one thing that may never be.
    pub fn at_most_one_runs(&self) -> Result<(), String> {
        if !self.has_written(TARGET, "STARTING") {
            return Ok(());
        }
        let said = || std::fs::metadata(self.directory(SOURCE).join("log")).map_or(0, |log| log.len());
        let before = said();
        std::thread::sleep(Duration::from_millis(20));
        if said() > before { Err("BOTH COPIES RUN".into()) } else { Ok(()) }
    }

    /// How far the copy on a host has counted, all lines checked.
    pub fn counted(&self, host: usize) -> Result<u64, String> {
        counter::counted(&self.directory(host).join("log"))
    }

    /// Whether a step is in a host's journal, which its node may hold open.
    pub fn has_written(&self, host: usize, step: &str) -> bool {
        self.journal(host).iter().any(|name| name == step)
    }

    fn journal(&self, host: usize) -> Vec<String> {
        let Ok(copy) = tempfile::NamedTempFile::new() else { return Vec::new() };
        let _ = std::fs::copy(self.directory(host).join("journal"), copy.path());
        let Ok(journal) = Journal::open(copy.path()) else { return Vec::new() };
        let name = |entry: &Entry| match entry {
            Entry::Record(record) => format!("{}@{}", record.owner, record.epoch.0),
            Entry::Step { step, .. } => step.name().to_owned(),
        };
        journal.entries().iter().map(name).collect()
    }

    /// How it stands on a host, as `ferry ps` says.
    pub fn state_of(&self, host: usize) -> Result<String, String> {
        let listed = self.ask(host, &["ps", "--all"])?;
        Ok(listed[0]["state"].as_str().unwrap_or_default().to_owned())
    }

    /// How the newest move stands on a host.
    pub fn move_on(&self, host: usize) -> Result<String, String> {
        let listed = self.ask(host, &["moves", "ls"])?;
        let last = listed.as_array().and_then(|moves| moves.last()).ok_or("no move is listed")?;
        Ok(last["state"].as_str().unwrap_or_default().to_owned())
    }

    /// The hosts on which it runs, as their nodes say. A shim that nobody needed since it died is replaced first, as a person would.
    pub fn running(&self) -> Result<Vec<usize>, String> {
        let mut running = Vec::new();
        for host in [SOURCE, TARGET] {
            let listed = self.ask(host, &["ps", "--all"])?;
            let state = listed[0]["state"].as_str().unwrap_or_default();
            match state {
                "running" => running.push(host),
                "lost" => drop(self.node(host).run(&[FERRY, "recover", WORKLOAD, "--do", "restart-shim"])),
                _ => {}
            }
        }
        Ok(running)
    }

    /// How the moves of both hosts stand.
    pub fn moves(&self) -> Result<Vec<String>, String> {
        let mut states = Vec::new();
        for host in [SOURCE, TARGET] {
            let listed = self.ask(host, &["moves", "ls"])?;
            let moves = listed.as_array().into_iter().flatten();
            states.extend(moves.filter_map(|one| Some(one["state"].as_str()?.to_owned())));
        }
        Ok(states)
    }

    /// One of the hosts.
    pub fn node(&self, host: usize) -> &Host {
        &self.fleet.nodes[host]
    }

    /// A third host, without a node.
    pub fn bystander(&mut self) -> Result<Host, String> {
        self.fleet.lab.host("gamma").map_err(words)
    }

    /// Runs `ferry` on a host, which has to succeed.
    pub fn ok(&self, host: usize, args: &[&str]) -> Result<String, String> {
        self.node(host).ok(&[&[FERRY], args].concat()).map_err(words)
    }

    /// Runs `ferry recover` with these options on a host; fails unless it ends with this code and says this.
    pub fn recover(&self, host: usize, options: &[&str], code: i32, says: &str) -> Result<(), String> {
        let said = self.node(host).run(&[&[FERRY, "recover", WORKLOAD], options].concat()).map_err(words)?;
        let text = said.stdout + &said.stderr;
        match said.code == code && text.contains(says) {
            true => Ok(()),
            false => {
                Err(format!("recover {options:?}: {} and not {code}, or not {says:?}: {text}", said.code))
            }
        }
    }

    /// The id of the newest move.
    pub fn move_id(&self) -> Result<String, String> {
        let listed = self.ask(SOURCE, &["moves", "ls"])?;
        let last = listed.as_array().and_then(|moves| moves.last()).ok_or("no move is listed")?;
        Ok(last["id"].as_str().unwrap_or_default().to_owned())
    }

    /// Runs `ferry --json` on a host.
    pub fn ask(&self, host: usize, question: &[&str]) -> Result<Value, String> {
        let said = self.node(host).ok(&[&[FERRY, "--json"], question].concat()).map_err(words)?;
        serde_json::from_str(&said).map_err(words)
    }

    /// Everything that a person would want to see of a failed trial.
    pub fn story(&self) -> String {
        let mut story = String::new();
        for host in [SOURCE, TARGET] {
            let text = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
            let (daemon, directory) = (self.fleet.daemon(host), self.directory(host));
            story += &format!("--- {}\njournal {:?}\n", NAMES[host], self.journal(host));
            story += &format!("{}\n{}", daemon.stderr(), text(directory.join("shim.log")));
            for question in [&["moves", "ls"][..], &["ps", "--all"], &["recover", WORKLOAD]] {
                let said = self.node(host).run(&[&[FERRY], question].concat());
                story += &said.map_or_else(words, |said| said.stdout + &said.stderr);
            }
        }
        story
    }

    /// Ends it, and checks that nothing is left.
    pub fn clear(self) -> Result<(), String> {
        let left = self.fleet.lab.clear();
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {}", left.join("; "))) }
    }
}

/// Waits for a condition.
pub fn wait_until(
    what: &str,
    time_max: Duration,
    mut done: impl FnMut() -> Result<bool, String>,
) -> Result<(), String> {
    let end = Instant::now() + time_max;
    while !done()? {
        if Instant::now() > end {
            return Err(format!("not within {time_max:?}: {what}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}
