//! The fault walk: at every step of a move something fails, comes back, and exactly one copy runs, with all that it had.
//!
//! Source and target are two node processes with their shims. At the step (when its entry is on disk) the node stops; then a node, a
//! shim or both are killed, the link is cut, the decider is away or its answer lost, the target's disk is full, or its copy is killed as
//! the kernel does when memory runs out. The workload writes numbered lines with a running checksum, so that a line lost, doubled or
//! out of another life shows. CI walks a sample (`FERRY_SEED` chooses it), `FERRY_SOAK=1` all.

mod common;

use common::process::{self, directory, lines, order};
use common::{LONG, Place, count_in, counter, kill, spec, wait_for_count_in};
use ferry_model::ids::WorkloadId;
use ferry_session::shim::Client;
use ferry_session::shim::protocol::Phase;
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Trials of a run in CI.
const SAMPLE: usize = 18;

/// How long everything may take to come to rest after the fault: more than a side waits in silence before it gives up.
const REST_MAX: Duration = Duration::from_secs(150);

/// Who writes the step, and its name.
const STEPS: [(&str, &str); 9] = [
    ("s", "OFFERED"),
    ("t", "RESERVED"),
    ("s", "FROZEN"),
    ("t", "PREPARED"),
    ("s", "DECIDING"),
    ("s", "COMMITTED"),
    ("t", "STARTING"),
    ("t", "RUNNING"),
    ("s", "DONE"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Node(&'static str),
    Shim(&'static str),
    Both(&'static str),
    LinkCut,
    DeciderAway,
    AnswerLost,
    DiskFull,
    OutOfMemory,
}

const FAULTS: [Fault; 11] = [
    Fault::Node("s"),
    Fault::Node("t"),
    Fault::Shim("s"),
    Fault::Shim("t"),
    Fault::Both("s"),
    Fault::Both("t"),
    Fault::LinkCut,
    Fault::DeciderAway,
    Fault::AnswerLost,
    Fault::DiskFull,
    Fault::OutOfMemory,
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|part| part == "node") {
        process::run(&arguments[2..]);
    }
    if common::is_helper() {
        return;
    }
    own_mounts();
    let all = STEPS.iter().flat_map(|step| FAULTS.iter().map(move |fault| (*step, *fault)));
    let trials: Vec<Trial> = all
        .filter(|(step, fault)| chosen(step.1, *fault))
        .map(|((writer, step), fault)| {
            let name = format!("{}_{}", step.to_lowercase(), format!("{fault:?}").to_lowercase());
            let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            Trial::test(name, move || walk(writer, step, fault))
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The sample of this run. By hash, so that listing and running agree on it.
fn chosen(step: &str, fault: Fault) -> bool {
    if std::env::var_os("FERRY_SOAK").is_some() {
        return true;
    }
    let seed = std::env::var("FERRY_SEED").unwrap_or_default();
    let rank = |step: &str, fault: Fault| {
        ferry_model::ids::Hash::of(format!("{seed} {step} {fault:?}").as_bytes()).0
    };
    let mine = rank(step, fault);
    let before = STEPS
        .iter()
        .flat_map(|(_, step)| FAULTS.map(|fault| rank(step, fault)))
        .filter(|other| *other < mine);
    before.count() < SAMPLE
}

/// What is mounted here is nobody else's business.
fn own_mounts() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    if let Err(error) = ferry_sys::unshare::unshare(ferry_sys::unshare::UnshareFlags::NEWNS) {
        eprintln!("No mount namespace of its own: {error}");
        std::process::exit(1);
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private mounts");
}

/// Two hosts in a directory.
struct World {
    place: Place,
    nodes: Vec<(&'static str, Child)>,
    id: WorkloadId,
}

impl Drop for World {
    fn drop(&mut self) {
        for (_, node) in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
        if let Ok(mut shim) =
            Client::connect(&self.of("t")).or_else(|e| match self.of("t").join("shim.cbor").exists() {
                true => Client::spawn(&common::program(), &self.of("t"), true),
                false => Err(e),
            })
        {
            let _ = shim.destroy();
        }
        let _ = rustix::mount::unmount(self.dir().join("t"), rustix::mount::UnmountFlags::DETACH);
    }
}

impl World {
    fn dir(&self) -> &Path {
        self.place.path()
    }

    fn of(&self, name: &str) -> PathBuf {
        directory(self.dir(), name, self.id)
    }

    fn start_node(&mut self, name: &'static str, step: Option<&str>) -> Result<(), Failed> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir().join(format!("{name}.log")))?;
        let mut command = Command::new(common::program());
        command
            .arg("node")
            .arg(self.dir())
            .arg(name)
            .args(step)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let _ = std::fs::remove_file(self.dir().join(format!("{name}.sock")));
        self.nodes.push((name, command.spawn()?));
        let dir = self.dir().to_owned();
        wait_until("a node listens", LONG, || order(&dir, name, "moves").is_ok())
    }

    fn kill_node(&mut self, name: &str) {
        for (_, node) in self.nodes.iter_mut().filter(|(of, _)| *of == name) {
            let _ = node.kill();
            let _ = node.wait();
        }
        self.nodes.retain(|(of, _)| *of != name);
    }

    fn kill_shim(&self, name: &str) {
        if let Ok(status) =
            Client::connect(&self.of(name)).and_then(|mut shim| shim.status().map_err(std::io::Error::other))
        {
            kill(status.shim_pid);
        }
    }

    /// Kills the copy's first program, as the kernel does when memory runs out.
    fn kill_copy(&self, name: &str) -> bool {
        let status =
            Client::connect(&self.of(name)).and_then(|mut shim| shim.status().map_err(std::io::Error::other));
        let Ok(Some(pid)) = status.map(|status| status.pid) else { return false };
        kill(pid);
        // A target that looked just before has written STARTING by now; one that looks later sees that it is gone.
        std::thread::sleep(Duration::from_millis(50));
        true
    }

    fn switch(&self, name: &str, on: bool) {
        let file = self.dir().join(name);
        if on {
            std::fs::write(file, b"").unwrap();
        } else {
            let _ = std::fs::remove_file(file);
        }
    }

    /// What runs on a host, from the one who knows. A shim that nobody needed since it died is replaced first.
    fn phase(&self, name: &str) -> Option<Phase> {
        let dir = self.of(name);
        if !dir.join("shim.cbor").exists() {
            return None;
        }
        let shim = Client::connect(&dir).or_else(|_| Client::spawn(&common::program(), &dir, true));
        shim.ok()?.status().ok().map(|status| status.phase)
    }

    fn moves(&self) -> Vec<String> {
        ["s", "t"]
            .iter()
            .flat_map(|name| lines(&order(self.dir(), name, "moves").unwrap_or_default()))
            .collect()
    }

    /// Everything that a person would want to see of a failed trial.
    fn story(&self) -> String {
        let mut story = format!("moves {:?}\n", self.moves());
        for name in ["s", "t"] {
            let text = |file: PathBuf| std::fs::read_to_string(file).unwrap_or_default();
            story += &format!("{name}: {:?}\n", self.phase(name));
            story += &text(self.dir().join(format!("{name}.log")));
            story += &text(self.of(name).join("shim.log"));
            let steps = copy_of_journal(&self.of(name));
            story += &format!("{name} journal: {steps:?}\n");
        }
        story
    }
}

/// The names in a journal that its node holds open.
fn copy_of_journal(dir: &Path) -> Vec<String> {
    let Ok(copy) = tempfile::NamedTempFile::new() else { return Vec::new() };
    let _ = std::fs::copy(dir.join("journal"), copy.path());
    let Ok(journal) = ferry_session::journal::Journal::open(copy.path()) else { return Vec::new() };
    let names = journal.entries().iter().map(|entry| match entry {
        ferry_model::handover::Entry::Record(record) => format!("{}@{}", record.owner, record.epoch.0),
        ferry_model::handover::Entry::Step { step, .. } => step.name().to_owned(),
    });
    names.collect()
}

fn wait_until(what: &str, time_max: Duration, mut done: impl FnMut() -> bool) -> Result<(), Failed> {
    let end = Instant::now() + time_max;
    while !done() {
        if Instant::now() > end {
            return Err(format!("not within {time_max:?}: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn walk(writer: &'static str, step: &'static str, fault: Fault) -> Result<(), Failed> {
    let number = STEPS.iter().position(|each| each.1 == step).unwrap_or(0) * FAULTS.len()
        + FAULTS.iter().position(|each| *each == fault).unwrap_or(0);
    let spec = spec(u8::try_from(number).unwrap_or(0), &counter());
    let mut world = World { place: Place::new(), nodes: Vec::new(), id: spec.id };
    small_disk(&world.dir().join("t"))?;
    for name in ["s", "t"] {
        world.start_node(name, (name == writer).then_some(step))?;
    }
    Client::spawn(&common::program(), &world.of("s"), false)?.start(spec).map_err(|e| format!("{e:?}"))?;
    let own = order(world.dir(), "s", &format!("own {}", world.id))?;
    assert_eq!(own, "done");
    wait_for_count_in(&world.of("s"), 5);

    let begun = order(world.dir(), "s", &format!("begin {} t", world.id))?;
    assert!(begun.starts_with("Ok"), "{begun}");
    let at = world.dir().join(format!("{writer}.at"));
    wait_until("the step", LONG, || at.exists()).map_err(|e| format!("{e:?}\n{}", world.story()))?;
    let ended = strike(&mut world, writer, fault)?;

    let result = rest(&world, ended);
    result.map_err(|e| {
        format!("{step} {fault:?}: {}\n{}", e.message().unwrap_or_default(), world.story()).into()
    })
}

/// Does the harm, lets the node go on, and brings back what failed. True: the workload was killed after the target had begun to start
/// it, so that it has ended, like any program. (At COMMITTED the target may have learnt from the decider and have begun.)
fn strike(world: &mut World, writer: &'static str, fault: Fault) -> Result<bool, Failed> {
    let go = format!("{writer}.go");
    let mut ended = false;
    match fault {
        Fault::Node(name) | Fault::Both(name) => {
            if matches!(fault, Fault::Both(_)) {
                world.kill_shim(name);
            }
            world.kill_node(name);
            world.switch(&go, true);
            std::thread::sleep(Duration::from_millis(100));
            world.start_node(name, None)?;
        }
        Fault::Shim(name) => {
            world.kill_shim(name);
            world.switch(&go, true);
        }
        Fault::LinkCut | Fault::DeciderAway => {
            let switch = if fault == Fault::LinkCut { "cut" } else { "away" };
            world.switch(switch, true);
            world.switch(&go, true);
            std::thread::sleep(Duration::from_millis(1200));
            world.switch(switch, false);
        }
        Fault::AnswerLost => {
            world.switch("loses", true);
            world.switch(&go, true);
        }
        Fault::DiskFull => {
            fill(&world.dir().join("t"));
            world.switch(&go, true);
            std::thread::sleep(Duration::from_millis(1200));
            let _ = std::fs::remove_file(world.dir().join("t").join(FILLER));
        }
        Fault::OutOfMemory => {
            let killed = world.kill_copy("t");
            ended = killed && copy_of_journal(&world.of("t")).iter().any(|name| name == "STARTING");
            world.switch(&go, true);
        }
    }
    Ok(ended)
}

/// Size of the target's file system, bytes.
const DISK_BYTES: &str = "size=64m";

/// The target keeps everything on a small file system of its own, in a mount namespace of this process.
fn small_disk(dir: &Path) -> Result<(), Failed> {
    std::fs::create_dir_all(dir)?;
    let options = std::ffi::CString::new(DISK_BYTES)?;
    rustix::mount::mount("ferry-test", dir, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())?;
    Ok(())
}

/// Takes all the space that is left.
fn fill(dir: &Path) {
    use std::io::Write;
    let _ = std::fs::create_dir_all(dir);
    let Ok(mut file) = std::fs::File::create(dir.join(FILLER)) else { return };
    for size in [1 << 20, 1 << 12, 1 << 8, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

const FILLER: &str = "filler";

/// Comes to rest: no move under way, one copy that runs and counts on, nothing left on the other host.
fn rest(world: &World, may_have_ended: bool) -> Result<(), Failed> {
    wait_until("no move is under way", REST_MAX, || !world.moves().iter().any(|each| each == "under way"))?;
    let running = || -> Vec<&str> {
        ["s", "t"].into_iter().filter(|name| world.phase(name) == Some(Phase::Running)).collect()
    };
    if may_have_ended {
        // What ran at the target was killed there: a program that is killed has ended, and does not start again anywhere.
        std::thread::sleep(Duration::from_millis(300));
        return if running().is_empty() { Ok(()) } else { Err(format!("{:?} run", running()).into()) };
    }
    wait_until("exactly one copy runs", REST_MAX, || running().len() == 1)?;
    let home = running()[0];
    let other = if home == "s" { "t" } else { "s" };
    let count = count_in(&world.of(home));
    wait_for_count_in(&world.of(home), count + 5);
    assert!(count >= 5, "counted on from before the move");
    wait_until("nothing is left on the other host", REST_MAX, || !world.of(other).join("shim.cbor").exists())
}
