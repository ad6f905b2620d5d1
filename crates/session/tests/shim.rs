//! A shim and its workload, for real: started as `ferry shim` is, through the socket that the node uses.
//!
//! This executable is all three: the tests, the program `ferry` (when its first argument is `shim`), and the workload.

mod common;

use common::{Place, counter, exec_spec, spec};
use ferry_process::records::State;
use ferry_session::shim::envelope::Envelope;
use ferry_session::shim::protocol::{Exit, Phase};
use ferry_session::shim::stream::Frame;
use ferry_session::shim::{Client, Size};
use ferry_transfer::engine::TrackedSpace;
use ferry_transfer::linux::TaskTracker;
use libtest_mimic::{Arguments, Trial};
use std::time::Duration;

fn main() {
    if common::is_helper() {
        return;
    }
    let trials = vec![
        Trial::test("a_program_runs_and_its_output_and_end_are_known", common::run(runs_and_ends)),
        Trial::test("a_program_that_is_not_there_is_named_and_leaves_nothing", common::run(not_there)),
        Trial::test("exec_has_streams_of_its_own", common::run(exec)),
        Trial::test("a_terminal_is_typed_on_and_read", common::run(terminal)),
        Trial::test("frozen_means_still_and_thawed_means_on", common::run(freeze)),
        Trial::test("tracked_memory_keeps_its_numbers_until_it_is_captured", common::run(tracked)),
        Trial::test("a_tracking_ends_with_who_asked_for_it", common::run(untracked)),
        Trial::test("a_killed_shim_is_replaced_and_its_workload_never_notices", common::run(replaced)),
        Trial::test("a_terminal_outlives_the_shim_that_read_it", common::run(terminal_kept)),
        Trial::test("an_adopted_tree_outlives_its_shim_and_is_let_go", common::run(adopted)),
        Trial::test("an_adopted_tree_that_ends_says_how", common::run(adopted_ends)),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn runs_and_ends() {
    let place = Place::new();
    let mut shim = place.shim("w");
    shim.start(spec(1, &["/bin/sh", "-c", "echo out; echo err >&2; hostname; echo $X; exit 7"])).unwrap();
    assert_eq!(shim.wait().unwrap(), Exit::Code(7));
    let log = std::fs::read_to_string(shim.log()).unwrap();
    assert_eq!(log, "out\nerr\ntest\ny\n");
    let status = shim.status().unwrap();
    assert_eq!((status.phase, status.exit), (Phase::Exited, Some(Exit::Code(7))));
    shim.destroy().unwrap();
    place.assert_empty("w");
}

fn not_there() {
    let place = Place::new();
    let mut shim = place.shim("w");
    let error = shim.start(spec(2, &["/no/such/program"])).unwrap_err();
    assert!(format!("{error:?}").contains("/no/such/program"), "{error:?}");
    assert_eq!(shim.status().unwrap().phase, Phase::Empty);
    shim.destroy().unwrap();
    place.assert_empty("w");
}

fn exec() {
    let place = Place::new();
    let mut shim = place.shim("w");
    shim.start(spec(3, &["/bin/sleep", "1000"])).unwrap();
    let mut stream = place
        .shim("w")
        .exec(exec_spec(&["/bin/sh", "-c", "read x; echo got $x; echo no >&2; exit 3"]))
        .unwrap();
    Frame::Input(b"this\n".to_vec()).send(&mut stream).unwrap();
    let (out, err, exit) = common::read_all(&mut stream);
    assert_eq!((out.as_str(), err.as_str(), exit), ("got this\n", "no\n", Exit::Code(3)));
    shim.signal(15).unwrap();
    assert_eq!(shim.wait().unwrap(), Exit::Signal(15));
    shim.destroy().unwrap();
}

fn terminal() {
    let place = Place::new();
    let mut shim = place.shim("w");
    let mut what = spec(4, &["/bin/sh", "-c", "tty; stty size; read line; echo \"<$line>\"; exit 2"]);
    what.terminal = Some(Size { rows: 33, columns: 99 });
    shim.start(what).unwrap();
    let mut stream = place.shim("w").attach(Some(Size { rows: 34, columns: 98 })).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    Frame::Input(b"typed\r".to_vec()).send(&mut stream).unwrap();
    let (_, _, exit) = common::read_all(&mut stream);
    assert_eq!(exit, Exit::Code(2));
    let log = std::fs::read_to_string(shim.log()).unwrap();
    assert!(log.contains("/dev/pts/0") && log.contains("<typed>"), "{log:?}");
    assert!(log.contains("33 99") || log.contains("34 98"), "{log:?}");
    shim.destroy().unwrap();
}

fn freeze() {
    let place = Place::new();
    let mut shim = place.shim("w");
    shim.start(spec(5, &counter())).unwrap();
    place.wait_for_count("w", 3);
    shim.freeze().unwrap();
    let before = place.count("w");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(place.count("w"), before);
    assert_eq!(shim.status().unwrap().phase, Phase::Frozen);
    shim.thaw().unwrap();
    shim.thaw().unwrap();
    place.wait_for_count("w", before + 3);
    shim.destroy().unwrap();
    place.assert_empty("w");
}

/// A shell whose child counts in its memory, and another that sleeps.
fn family() -> Vec<String> {
    let count = common::program().display().to_string();
    ["/bin/sh", "-c", &format!("sleep 1000 & {count} count; true")].map(str::to_owned).to_vec()
}

fn tracked() {
    let place = Place::new();
    let mut shim = place.shim("w");
    shim.start(spec(20, &family())).unwrap();
    place.wait_for_count("w", 3);
    let first = shim.track().unwrap();
    assert!(first.untracked.is_empty() && first.spaces.len() == 3, "{first:?}");
    let draft = Envelope::from_bytes(&first.draft).unwrap().state;
    assert!(draft.capsule.is_some_and(|capsule| capsule.hostname == "test"));
    let mut trackers: Vec<TaskTracker> = Vec::new();
    for (space, pid, userfaultfd) in first.spaces {
        trackers.push(TaskTracker::new(space, pid, userfaultfd.unwrap()).unwrap());
    }
    for tracker in &mut trackers {
        assert!(tracker.scan().unwrap().dirty.bytes() > 0);
    }
    let before = place.count("w");
    place.wait_for_count("w", before + 3);
    let dirty: Vec<u64> = trackers.iter_mut().map(|each| each.scan().unwrap().dirty.bytes()).collect();
    assert!(dirty.iter().any(|bytes| *bytes > 0) && dirty.contains(&0), "one counts, one sleeps: {dirty:?}");
    let second = shim.track().unwrap();
    assert!(second.spaces.len() == 3 && second.spaces.iter().all(|(.., userfaultfd)| userfaultfd.is_none()));
    // The plan that is made meanwhile has nothing against it.
    let held = shim.inspect(&[]).unwrap();
    assert!(held.iter().all(|each| each.unsupported.is_none()), "{held:?}");
    shim.freeze().unwrap();
    assert!(shim.track().is_err(), "a frozen workload is captured");
    let (state, _) = shim.capture().unwrap();
    let state = Envelope::from_bytes(&state).unwrap().state;
    let numbers = |state: &State| state.tasks.iter().map(|task| (task.pid, task.space)).collect::<Vec<_>>();
    assert_eq!(numbers(&state), numbers(&draft_of(&second.draft)));
    shim.thaw().unwrap();
    place.wait_for_count("w", before + 9);
    // It was given up: the next attempt begins anew, when what the first was given is closed.
    drop(trackers);
    assert!(shim.track().unwrap().spaces.into_iter().all(|(.., userfaultfd)| userfaultfd.is_some()));
    shim.destroy().unwrap();
}

fn draft_of(bytes: &[u8]) -> State {
    Envelope::from_bytes(bytes).unwrap().state
}

fn untracked() {
    let place = Place::new();
    let mut shim = place.shim("w");
    shim.start(spec(21, &counter())).unwrap();
    place.wait_for_count("w", 3);
    let fresh = |tracked: ferry_session::shim::client::Tracked| {
        tracked.spaces.into_iter().filter(|(.., userfaultfd)| userfaultfd.is_some()).count()
    };
    assert_eq!(fresh(shim.track().unwrap()), 1);
    assert_eq!(fresh(shim.track().unwrap()), 0);
    let mut other = place.shim("w");
    assert_eq!(fresh(other.track().unwrap()), 1, "another node was handed nothing");
    other.untrack().unwrap();
    assert_eq!(fresh(other.track().unwrap()), 1);
    assert_eq!(fresh(shim.track().unwrap()), 1);
    // One that looks on and goes disturbs nothing; the end of the one that tracks is noticed.
    drop(other);
    assert_eq!(fresh(shim.track().unwrap()), 0);
    drop(shim);
    let mut shim = place.shim("w");
    assert_eq!(fresh(shim.track().unwrap()), 1);
    let before = place.count("w");
    place.wait_for_count("w", before + 3);
    shim.destroy().unwrap();
    place.assert_empty("w");
}

fn replaced() {
    let place = Place::new();
    let mut shim = place.shim("w");
    shim.start(spec(6, &counter())).unwrap();
    place.wait_for_count("w", 3);
    let old = shim.status().unwrap();
    common::kill(old.shim_pid);
    let before = place.count("w");
    place.wait_for_count("w", before + 3);
    let mut shim = Client::spawn(&common::program(), &place.dir("w"), true).unwrap();
    let status = shim.status().unwrap();
    assert_eq!((status.phase, status.pid), (Phase::Running, old.pid));
    assert_ne!(status.shim_pid, old.shim_pid);
    shim.signal(15).unwrap();
    assert_eq!(shim.wait().unwrap(), Exit::Signal(15));
    shim.destroy().unwrap();
    place.assert_empty("w");
}

fn terminal_kept() {
    let place = Place::new();
    let mut shim = place.shim("w");
    let script = "stty -echo; i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.02; done; \
                  while read line; do echo \"<$line>\"; done";
    let mut what = spec(7, &["/bin/sh", "-c", script]);
    what.terminal = Some(Size { rows: 33, columns: 99 });
    shim.start(what).unwrap();
    let log = shim.log();
    let wait_for = |wanted: &str| {
        let end = std::time::Instant::now() + common::LONG;
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains(wanted) {
                return text;
            }
            assert!(std::time::Instant::now() < end, "waited for {wanted:?} in {text:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for("10\r\n");
    let old = shim.status().unwrap();
    common::kill(old.shim_pid);
    // Nobody reads the terminal now; what the program writes waits in it.
    std::thread::sleep(Duration::from_millis(300));
    let mut shim = Client::spawn(&common::program(), &place.dir("w"), true).unwrap();
    let status = shim.status().unwrap();
    assert_eq!((status.phase, status.pid), (Phase::Running, old.pid), "no hang-up ended it");
    let text = wait_for("100\r\n");
    let counted: Vec<&str> = text.lines().collect();
    let wanted: Vec<String> = (1..=100).map(|number| number.to_string()).collect();
    assert_eq!(counted, wanted, "what was written meanwhile is all there");
    let mut stream = place.shim("w").attach(None).unwrap();
    Frame::Input(b"typed\r".to_vec()).send(&mut stream).unwrap();
    wait_for("<typed>");
    // And once more, to see that the copy was a copy.
    common::kill(shim.status().unwrap().shim_pid);
    let mut shim = Client::spawn(&common::program(), &place.dir("w"), true).unwrap();
    let mut stream = place.shim("w").attach(None).unwrap();
    Frame::Input(b"again\r\x04".to_vec()).send(&mut stream).unwrap();
    wait_for("<again>");
    assert_eq!(shim.wait().unwrap(), Exit::Code(0));
    shim.destroy().unwrap();
    place.assert_empty("w");
}

/// The counting program, started by nobody of Ferry's. Its parent collects it when this drops.
struct Stranger(std::process::Child, std::path::PathBuf);

impl Stranger {
    fn start(place: &Place) -> Self {
        let dir = place.path().join("stranger");
        std::fs::create_dir(&dir).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let line = counter();
        let child = std::process::Command::new(&line[0]).arg(&line[1]).stdout(log).spawn().unwrap();
        common::wait_for_count_in(&dir, 3);
        Self(child, dir)
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    fn cgroup(&self) -> std::path::PathBuf {
        ferry_sys::cgroup::Cgroup::of(&self.pid().to_string()).unwrap().path().to_owned()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn adopted() {
    let place = Place::new();
    let stranger = Stranger::start(&place);
    let home = stranger.cgroup();
    let mut shim = place.shim("w");
    shim.adopt(spec(9, &counter()), stranger.pid()).unwrap();
    let old = shim.status().unwrap();
    assert_eq!((old.phase, old.pid, old.adopted), (Phase::Running, Some(stranger.pid()), true));
    assert_ne!(stranger.cgroup(), home);
    shim.freeze().unwrap();
    common::kill(old.shim_pid);
    let mut shim = Client::spawn(&common::program(), &place.dir("w"), true).unwrap();
    assert_eq!(shim.status().unwrap().phase, Phase::Frozen);
    let before = common::count_in(&stranger.1);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(common::count_in(&stranger.1), before);
    shim.thaw().unwrap();
    common::wait_for_count_in(&stranger.1, before + 3);
    shim.release().unwrap();
    assert_eq!(stranger.cgroup(), home);
    place.assert_empty("w");
    let before = common::count_in(&stranger.1);
    common::wait_for_count_in(&stranger.1, before + 3);
}

fn adopted_ends() {
    let place = Place::new();
    let mut stranger = Stranger::start(&place);
    let mut shim = place.shim("w");
    shim.adopt(spec(10, &counter()), stranger.pid()).unwrap();
    shim.signal(15).unwrap();
    assert_eq!(shim.wait().unwrap(), Exit::Signal(15));
    stranger.0.wait().unwrap();
    assert_eq!(shim.status().unwrap().phase, Phase::Exited);
    shim.destroy().unwrap();
    place.assert_empty("w");
}
