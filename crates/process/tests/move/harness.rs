//! Runs one self-verifying program in a capsule and moves it, by the crate's own means: no node, no image.

mod early;

use super::tracked;
use ferry_process::capsule::{Capsule, Command, Spec, pack_upper, sweep, unpack_upper};
use ferry_process::capture::files::{self, FilesContext, Furniture, FurnitureKind};
use ferry_process::capture::{self, Context, Scope};
use ferry_process::live::Tracking;
use ferry_process::records::State;
use ferry_process::restore::files::{Recreated, RestoreContext};
use ferry_process::restore::{Home, Puppets};
use ferry_sys::fork::{Forked, exit_now, fork, wait};
use ferry_transfer::linux::{LinuxSink, LinuxSource};
use ferry_transfer::space::{PageSink, PageSource, SpaceId};
use rustix::fd::AsFd;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What happens to the program between "ready" and its verification.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// Captured, killed, restored in a new capsule, so many times.
    Moved(u32),
    /// Followed by puppets through so many drafts while it runs, then captured, and restored in them.
    Early(u32),
    /// Captured and released, so many times.
    Released(u32),
    /// Captured again and again by a process that is killed in the middle, so many times.
    TracerKilled(u32),
    /// Tracked and let go, so many times; then tracked and moved, with the numbers of the tracking.
    Tracked(u32),
    /// Tracked again and again by a process that is killed in the middle, so many times.
    TrackerKilled(u32),
}

/// Compiles the program, runs it, moves it, and fails unless it says that all is right.
pub fn object(name: &str, way: Way) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let program = compile(name, directory.path());
    let result = match fork().unwrap() {
        Forked::Child => {
            let work = std::panic::AssertUnwindSafe(|| run(&program, directory.path(), way));
            exit_now(i32::from(std::panic::catch_unwind(work).is_err()));
        }
        Forked::Parent(pid, _) => wait(pid, true).unwrap() == Some((pid, 0)),
    };
    for place in 0..9 {
        let _ = sweep(&directory.path().join(format!("{place}")), true);
    }
    let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    assert!(result, "{name} {way:?}: see the message above; it said:\n{log}");
}

fn compile(name: &str, directory: &Path) -> PathBuf {
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/objects");
    let program = directory.join(name);
    let status = std::process::Command::new("gcc")
        .args(["-O2", "-pthread", "-o"])
        .arg(&program)
        .arg(objects.join(format!("{name}.c")))
        .args(["-lrt", "-lm"])
        .status()
        .expect("gcc");
    assert!(status.success());
    program
}

fn spec(directory: &Path, number: u32) -> Spec {
    Spec {
        name: format!("move-{}-{number}", std::process::id()),
        directory: directory.join(format!("{number}")),
        hostname: "object".into(),
        own_network: true,
        end_with_creator: true,
        ..Spec::default()
    }
}

/// A capsule with the files of another.
fn twin(source: &Capsule, directory: &Path, number: u32) -> Capsule {
    let record = source.capture().unwrap();
    let mut files = Vec::new();
    pack_upper(source.directory(), &mut files).unwrap();
    let mut contents = Vec::new();
    source.pack_contents(&record, true, &mut contents).unwrap();
    let mut spec = Spec::restored(&record, spec(directory, number).name, directory.join(format!("{number}")));
    spec.end_with_creator = true;
    unpack_upper(&spec.directory, &mut files.as_slice()).unwrap();
    let twin = Capsule::create(&spec).unwrap();
    twin.restore_contents(&record, &mut contents.as_slice()).unwrap();
    twin
}

fn run(program: &Path, directory: &Path, way: Way) {
    let log_path = directory.join("log");
    let open = || OpenOptions::new().create(true).append(true).open(&log_path).unwrap();
    let mut capsule = Capsule::create(&spec(directory, 0)).unwrap();
    let command = Command {
        argv: vec![program.into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        stdio: vec![File::open("/dev/null").unwrap().into(), open().into(), open().into()],
        ..Command::default()
    };
    let mut pid = capsule.spawn(&command).unwrap().pid;
    drop(command);
    wait_for(&log_path, "READY");
    std::thread::sleep(Duration::from_millis(30));
    match way {
        Way::Moved(times) => {
            let mut waits = Vec::new();
            for number in 1..=times {
                let next;
                (next, pid, waits) = move_over(&capsule, directory, number, waits, None);
                std::mem::replace(&mut capsule, next).destroy().unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Way::TracerKilled(times) => {
            let tracer = |scope: &Scope| {
                let mut seized = capture::seize(scope)?;
                seized.capture(&Context::default())?;
                seized.release()
            };
            kill_tracers(&capsule, times, tracer);
        }
        Way::TrackerKilled(times) => {
            kill_tracers(&capsule, times, |scope| {
                Tracking::default().refresh(scope, &|_| false, &mut Vec::new()).map(drop)
            });
            tracked::assert_nothing_left(&capsule);
        }
        Way::Tracked(times) => {
            let mut waits = Vec::new();
            for _ in 0..times {
                waits = tracked::begin(&capsule, waits).waits;
                std::thread::sleep(Duration::from_millis(20));
            }
            let mut begun = tracked::begin(&capsule, waits);
            let waits = std::mem::take(&mut begun.waits);
            let next;
            (next, pid, _) = move_over(&capsule, directory, 1, waits, Some(&mut begun.tracking));
            std::mem::replace(&mut capsule, next).destroy().unwrap();
        }
        Way::Early(drafts) => {
            let next;
            (next, pid) = early::move_over(&capsule, directory, drafts);
            std::mem::replace(&mut capsule, next).destroy().unwrap();
        }
        Way::Released(times) => {
            let mut waits = Vec::new();
            for _ in 0..times {
                let mut seized = capture::seize(&Scope::Cgroup(capsule.cgroup().path().to_owned())).unwrap();
                waits = seized.capture(&Context { waits, ..Context::default() }).unwrap().waits;
                seized.release().unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    let go = format!("/proc/{}/root/tmp/go", capsule.init_pid());
    fs::write(go, "").unwrap();
    let begin = Instant::now();
    let ended = loop {
        match capsule.next_ended(false).unwrap() {
            Some(ended) if ended.pid == pid => break ended,
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(5)),
        }
        if begin.elapsed() > Duration::from_secs(20) {
            let log = fs::read_to_string(&log_path).unwrap();
            panic!("it does not end: {log}\n{}", states(&capsule));
        }
    };
    capsule.destroy().unwrap();
    let log = fs::read_to_string(&log_path).unwrap();
    assert!(ended.code() == 0 && log.contains("OK\n"), "it ended with {}:\n{log}", ended.code());
}

/// The last capture: state, content, and the tree that stands still.
struct Taken {
    state: State,
    content: Content,
    log: File,
    seized: capture::Seized,
}

fn take(
    source: &Capsule,
    directory: &Path,
    waits: Vec<capture::interrupted::KnownWait>,
    tracking: Option<&mut Tracking>,
) -> Taken {
    let group = source.cgroup();
    let begin = Instant::now();
    let scope = Scope::Cgroup(group.path().to_owned());
    let looked = capture::look(&scope).unwrap();
    group.freeze().unwrap();
    group.wait_frozen(Duration::from_secs(5)).unwrap();
    let numbers = tracking.map(Tracking::numbers).unwrap_or_default();
    let mut seized = capture::seize_frozen(&scope, &looked).unwrap();
    group.thaw().unwrap();
    let mut captured = seized.capture(&Context { waits, numbers, ..Context::default() }).unwrap();
    let log = OpenOptions::new().append(true).open(directory.join("log")).unwrap();
    let metadata = log.metadata().unwrap();
    let furniture =
        [Furniture { name: "log".into(), what: FurnitureKind::File(metadata.dev(), metadata.ino()) }];
    let refs: Vec<files::TaskRef> = seized
        .tasks()
        .iter()
        .map(|task| files::TaskRef { host_pid: task.host_pid, ns_pid: task.ns_pid })
        .collect();
    let objects = captured.state.objects.iter().map(|object| (object.device, object.inode)).collect();
    captured.state.files =
        files::capture(&refs, &FilesContext { furniture: &furniture, objects, ..FilesContext::default() })
            .unwrap()
            .files;
    group.freeze().unwrap();
    eprintln!("captured in {:?} {:?}", begin.elapsed(), captured.stats);
    let content = read_all(&LinuxSource::open(captured.memory).unwrap());
    Taken { state: captured.state, content, log, seized }
}

fn move_over(
    source: &Capsule,
    directory: &Path,
    number: u32,
    waits: Vec<capture::interrupted::KnownWait>,
    tracking: Option<&mut Tracking>,
) -> (Capsule, i32, Vec<capture::interrupted::KnownWait>) {
    let Taken { state, content, log, seized } = take(source, directory, waits, tracking);
    let bytes = state.to_bytes();
    let target = twin(source, directory, number);
    seized.kill().unwrap();

    let begin = Instant::now();
    let captured = state;
    let state = State::from_bytes(&bytes).unwrap();
    assert_eq!(state, captured, "what is written is read back");
    let home =
        Home { init: target.init_pid(), cgroup: Some(target.cgroup().path().to_owned()), staged: None };
    let puppets = Puppets::build(&state, &home).unwrap();
    let built_in = begin.elapsed();
    let sink = LinuxSink::open(puppets.access()).unwrap();
    for (space, start, bytes) in content {
        sink.write(space, start, &bytes).unwrap();
    }
    eprintln!("built in {built_in:?}");
    let (first, waits) = finish(puppets, &state, &target, &log);
    (target, first, waits)
}

/// Makes the workload of puppets that are complete: its first process, and its waits.
fn finish(
    puppets: Puppets,
    state: &State,
    target: &Capsule,
    log: &File,
) -> (i32, Vec<capture::interrupted::KnownWait>) {
    let begin = Instant::now();
    let objects =
        state.objects.iter().map(|one| ((one.device, one.inode), puppets.object(one.id).unwrap())).collect();
    let furniture = BTreeMap::from([("log".to_owned(), log.as_fd())]);
    let ctx = RestoreContext { init: Some(target.init_pid()), furniture, objects };
    let mut recreated = Recreated::create(&state.files, &ctx).unwrap();
    let restored = puppets.finish(&recreated).unwrap();
    recreated.seal().unwrap();
    recreated.release_network().unwrap();
    eprintln!("finished in {:?} {:?}; {:?}", begin.elapsed(), restored.stats, restored.warnings);
    target.cgroup().thaw().unwrap();
    (state.tasks.iter().find(|task| task.parent == 0).unwrap().pid, restored.waits)
}

/// Lets processes trace the tree, and kills each after a while.
fn kill_tracers(capsule: &Capsule, times: u32, tracer: impl Fn(&Scope) -> Result<(), capture::Error>) {
    let scope = Scope::Cgroup(capsule.cgroup().path().to_owned());
    for number in 0..times {
        kill_a_tracer(&scope, Duration::from_micros(u64::from(number) * 137 % 7000 + 500), &tracer);
    }
    // What the killed ones have left behind does not disturb the next.
    let mut seized = capture::seize(&scope).unwrap();
    let captured = seized.capture(&Context::default()).unwrap();
    seized.release().unwrap();
    let left = captured.state.spaces.iter().flat_map(|space| &space.vmas);
    let left = left.filter(|vma| vma.start >= 0x100_0000_0000 && vma.start < 0x200_0000_0000).count();
    assert_eq!(left, 0, "memory of remote calls is left");
}

/// Lets a process trace the tree again and again, and kills it after a while.
fn kill_a_tracer(scope: &Scope, after: Duration, tracer: impl Fn(&Scope) -> Result<(), capture::Error>) {
    match fork().unwrap() {
        Forked::Child => loop {
            if let Err(error) = tracer(scope) {
                eprintln!("the tracer failed: {error:?}");
                exit_now(1);
            }
        },
        Forked::Parent(pid, _) => {
            std::thread::sleep(after);
            let _ = ferry_sys::ptrace::send(pid, libc::SIGKILL);
            assert_eq!(
                wait(pid, true).unwrap(),
                Some((pid, libc::SIGKILL)),
                "the tracer failed before it was killed"
            );
        }
    }
}

/// What the tasks of a capsule are doing, for the message of a failed test.
fn states(capsule: &Capsule) -> String {
    let mut text = String::new();
    for pid in capsule.cgroup().procs().unwrap() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            for file in ["stat", "syscall", "wchan"] {
                text += fs::read_to_string(task.path().join(file)).unwrap_or_default().trim();
                text += "\n";
            }
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            text.extend(
                status
                    .lines()
                    .filter(|line| line.starts_with("Sig") || line.starts_with("Shd"))
                    .map(|line| line.to_owned() + "\n"),
            );
        }
    }
    text
}

type Content = Vec<(SpaceId, u64, Vec<u8>)>;

fn read_all(pages: &LinuxSource) -> Content {
    let mut all = Vec::new();
    for (space, ranges) in pages.ranges() {
        for range in ranges {
            let mut bytes = vec![0u8; range.len as usize];
            pages.read(*space, range.start, &mut bytes).unwrap();
            all.push((*space, range.start, bytes));
        }
    }
    all
}

fn wait_for(path: &Path, word: &str) {
    let begin = Instant::now();
    while !fs::read_to_string(path).unwrap_or_default().contains(word) {
        assert!(begin.elapsed() < Duration::from_secs(20), "it never said {word}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
