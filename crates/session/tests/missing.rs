//! A workload that runs before its memory is there: captured in one shim, restored in another without it, and fed from the frozen tasks.
//!
//! This executable is the tests, and the program `ferry` (when its first argument is `shim`). The workloads are self-verifying programs of
//! `tests/objects`: each says itself whether it ever read anything but what was there.

mod common;

use common::{LONG, Place};
use ferry_process::capsule::{pack_upper, unpack_upper};
use ferry_process::layout::may_be_missing;
use ferry_session::shim::Spec;
use ferry_session::shim::client::Client;
use ferry_session::shim::envelope::Envelope;
use ferry_session::shim::protocol::{Exit, PagerStatus, Phase};
use ferry_sys::pagemap::{Pagemap, Query};
use ferry_transfer::access::{Missing, SpaceAccess, Via};
use ferry_transfer::engine::RangeSet;
use ferry_transfer::linux::{LinuxSink, LinuxSource};
use ferry_transfer::space::{PageSink, PageSource, Range, SpaceId};
use ferry_transfer::wire::demand::{self, Progress};
use libtest_mimic::{Arguments, Trial};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Programs whose memory, threads or tree put the pager to the test.
const OBJECTS: &[&str] = &[
    "altstack",
    "areas",
    "file_mappings",
    "image",
    "many_tasks",
    "memory",
    "pages",
    "registers",
    "rseq",
    "shared_descriptors",
    "signals",
    "stopped",
    "threads",
    "timeouts",
    "tree",
];

fn main() {
    if common::is_helper() {
        return;
    }
    let mut trials: Vec<Trial> = OBJECTS
        .iter()
        .map(|name| {
            let work = move || {
                let mut moving = Move::begin(name, Duration::ZERO);
                if *name == "areas" {
                    // It looks at its mappings, which are marked while pages of them are missing.
                    moving.give_ways(2);
                    wait_until("all pages", || moving.pager().complete.is_some());
                }
                moving.resume().end();
                Ok(())
            };
            Trial::test(format!("{name}::missing"), work)
        })
        .collect();
    trials.extend([
        Trial::test("a_killed_pager_is_replaced_and_nobody_reads_zeros", common::run(pager_killed)),
        Trial::test("a_killed_shim_takes_over_from_its_pager", common::run(shim_killed)),
        Trial::test("init_holds_what_pager_and_shim_have_let_go_of", common::run(both_killed)),
        Trial::test("a_full_disk_at_the_end_keeps_what_holds_it", common::run(unwritten)),
        Trial::test("all_is_in_though_everybody_who_held_it_has_died", common::run(let_go_of)),
        Trial::test("a_way_that_is_cut_and_given_anew_loses_nothing", common::run(cut)),
        Trial::test("pages_that_never_come_freeze_it_for_good", common::run(held)),
        Trial::test("what_cannot_be_missing_is_refused", common::run(refused)),
        Trial::test("what_waits_for_pages_is_opened_with_the_draft", common::run(opened_early)),
        Trial::test("what_was_there_before_and_is_missing_again_is_not_seen", common::run(stale)),
        Trial::test("nothing_reads_memory_that_is_missing", common::run(not_whole)),
        Trial::test("faults_are_served_while_the_rest_follows", common::run(latency)),
    ]);
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A source that takes its time.
struct Slow(LinuxSource, Duration);

impl PageSource for Slow {
    fn ranges(&self) -> &[(SpaceId, Vec<Range>)] {
        self.0.ranges()
    }

    fn read(&self, space: SpaceId, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read(space, address, buffer)
    }

    fn read_ranges(&self, space: SpaceId, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        if !self.1.is_zero() {
            std::thread::sleep(self.1);
        }
        self.0.read_ranges(space, ranges, buffer)
    }
}

/// A workload on its way from one shim to another.
struct Move {
    place: Place,
    name: String,
    from: Client,
    to: Client,
    source: Arc<Slow>,
    missing: Arc<Vec<Missing>>,
    progress: Arc<Progress>,
    targets: Vec<SpaceAccess>,
    /// The source's ends.
    ways: Vec<UnixStream>,
    _programs: tempfile::TempDir,
}

fn compile(name: &str, directory: &Path) -> PathBuf {
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/objects");
    let program = directory.join(name);
    let source = objects.join(format!("{name}.c"));
    let mut gcc = std::process::Command::new("gcc");
    gcc.args(["-O2", "-pthread", "-o"]).arg(&program).arg(source).args(["-lrt", "-lm"]);
    assert!(gcc.status().expect("gcc").success());
    program
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "waited for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Pages of the frozen tasks with content, of those that may be missing.
fn content_of(spaces: &[SpaceAccess], state: &[u8]) -> Vec<Missing> {
    let state = Envelope::from_bytes(state).unwrap().state;
    let may = may_be_missing(&state);
    let mut all = Vec::new();
    for access in spaces {
        let (Via::Task { pid }, Some(may)) = (&access.via, may.get(&access.space)) else { continue };
        let found = Pagemap::open(*pid).unwrap().scan(0, 0x7fff_ffff_f000, &Query::PRIVATE_CONTENT).unwrap();
        let found: RangeSet = found
            .iter()
            .map(|region| Range { start: region.start, len: region.end - region.start })
            .collect();
        let ranges = found.intersection(may).ranges().to_vec();
        all.push(Missing { space: access.space, ranges });
    }
    all.retain(|each| !each.ranges.is_empty());
    all
}

impl Move {
    /// The workload stands still at both ends; all that may be is missing at the target.
    fn begin(name: &str, slow: Duration) -> Self {
        Self::with(name, slow, |_| {})
    }

    fn with(name: &str, slow: Duration, change: impl FnOnce(&mut Vec<Missing>)) -> Self {
        let (mut moving, missing) = Self::prepared(name, slow, change);
        moving.to.finish_missing(missing).unwrap();
        moving
    }

    fn prepared(name: &str, slow: Duration, change: impl FnOnce(&mut Vec<Missing>)) -> (Self, Vec<Missing>) {
        Self::prepared_early(name, slow, change, |_, _, _| {})
    }

    /// `early` has the target's shim before it is told what the workload is, and hears that, too.
    fn prepared_early(
        name: &str,
        slow: Duration,
        change: impl FnOnce(&mut Vec<Missing>),
        early: impl FnOnce(&mut Client, &Spec, &[u8]),
    ) -> (Self, Vec<Missing>) {
        let place = Place::new();
        // Where a capsule finds it: memory file systems of the host are not those of the capsule.
        let programs = tempfile::tempdir_in("/var/tmp").unwrap();
        let program = compile(name, programs.path());
        let spec = common::spec(30, &[program.to_str().unwrap()]);
        let mut from = place.shim("from");
        from.start(spec.clone()).unwrap();
        let log = from.log();
        wait_until("the program", || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("READY")));
        std::thread::sleep(Duration::from_millis(30));
        from.freeze().unwrap();
        let (state, spaces) = from.capture().unwrap();
        let mut missing = content_of(&spaces, &state);
        change(&mut missing);
        let mut to = place.shim("to");
        let mut files = Vec::new();
        pack_upper(&place.dir("from"), &mut files).unwrap();
        unpack_upper(&place.dir("to"), &mut files.as_slice()).unwrap();
        std::fs::copy(place.dir("from").join("contents"), place.dir("to").join("contents")).unwrap();
        early(&mut to, &spec, &state);
        let targets = to.prepare(spec, state, false).unwrap();
        let source = LinuxSource::open(spaces).unwrap();
        let sink = LinuxSink::open(targets.clone()).unwrap();
        for (space, ranges) in source.ranges() {
            let late = missing.iter().find(|each| each.space == *space);
            let late = late.map_or_else(RangeSet::default, |each| RangeSet::new(each.ranges.clone()));
            for range in RangeSet::new(ranges.clone()).difference(&late).ranges() {
                let mut bytes = vec![0; range.len as usize];
                source.read(*space, range.start, &mut bytes).unwrap();
                sink.write(*space, range.start, &bytes).unwrap();
            }
        }
        let moving = Self {
            place,
            name: name.to_owned(),
            from,
            to,
            source: Arc::new(Slow(source, slow)),
            missing: Arc::new(missing.clone()),
            progress: Arc::default(),
            targets,
            ways: Vec::new(),
            _programs: programs,
        };
        (moving, missing)
    }

    /// Gives the pager ways to the source, and lets the workload go on.
    fn resume(mut self) -> Self {
        self.give_ways(3);
        self.let_go();
        self
    }

    fn let_go(&mut self) {
        self.to.resume().unwrap();
        let init = self.to.status().unwrap().init.unwrap();
        std::fs::write(format!("/proc/{init}/root/tmp/go"), "").unwrap();
    }

    fn give_ways(&mut self, count: usize) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (one, other) = UnixStream::pair().unwrap();
            ours.push(one.try_clone().unwrap());
            theirs.push(other.into());
            let (source, missing, progress) =
                (self.source.clone(), self.missing.clone(), self.progress.clone());
            std::thread::spawn(move || {
                let mut stream = one;
                let _ = demand::serve(&mut stream, &*source, &missing, &progress, None);
            });
        }
        self.ways = ours;
        self.to.pages(theirs).unwrap();
    }

    fn pager(&mut self) -> PagerStatus {
        self.to.pager().unwrap()
    }

    /// Host pid of the pager.
    fn pager_pid(&mut self) -> Option<i32> {
        let shim = self.to.status().unwrap().shim_pid;
        let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).ok()?;
        let is_pager = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "ferry-pager\n")
        };
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_pager)
    }

    fn log(&self) -> String {
        let said = std::fs::read_to_string(self.to.log()).unwrap_or_default();
        let shim = std::fs::read_to_string(self.place.dir("to").join("shim.log")).unwrap_or_default();
        format!("{}: {said}\n{shim}", self.name)
    }

    /// The program has verified itself, and both sides agree on what was delivered.
    fn end(mut self) -> PagerStatus {
        let mut other = self.place.shim("to");
        let (said, hears) = std::sync::mpsc::channel();
        std::thread::spawn(move || said.send(other.wait()));
        let exit = match hears.recv_timeout(LONG) {
            Ok(exit) => exit.unwrap(),
            Err(_) => panic!("it does not end: {:?} {}", self.pager(), self.log()),
        };
        let log = self.log();
        assert!(exit == Exit::Code(0) && log.contains("OK\n"), "{exit:?}: {log}");
        // What has ended needs no page any more: then its pager is gone, and nothing was agreed upon.
        wait_until("the end of the pager", || {
            self.to.pager().unwrap().complete.is_some() || self.pager_pid().is_none()
        });
        let status = self.pager();
        if status.complete.is_some() {
            if !self.missing.is_empty() {
                assert_eq!(self.progress.agreed.get(), status.complete.as_ref());
            }
            assert_eq!(status.missing_bytes, 0);
        }
        assert_eq!(status.failed, None);
        self.to.destroy().unwrap();
        self.place.assert_empty("to");
        self.from.destroy().unwrap();
        status
    }
}

const SLOWLY: Duration = Duration::from_millis(2);

fn pager_killed() {
    let mut moving = Move::begin("pages", SLOWLY).resume();
    let (mut killed, mut last) = (0, 0);
    while killed < 12 && moving.pager().complete.is_none() {
        let Some(pager) = moving.pager_pid().filter(|pid| *pid != last) else { continue };
        // At whatever it is doing: reading, placing, in the middle of a fork.
        std::thread::sleep(Duration::from_micros(killed * 3701 % 20_000));
        if moving.pager().complete.is_some() {
            break;
        }
        common::kill(pager);
        (killed, last) = (killed + 1, pager);
        wait_until("another pager", || moving.to.pager().unwrap().restarts >= killed as u32);
        moving.give_ways(3);
    }
    assert!(killed >= 3, "it was complete after {killed} pagers");
    let status = moving.end();
    assert!(u64::from(status.restarts) >= killed, "{status:?}");
}

fn shim_killed() {
    let mut moving = Move::begin("pages", SLOWLY).resume();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(30));
        let shim = moving.to.status().unwrap().shim_pid;
        common::kill(shim);
        moving.to = Client::spawn(&common::program(), &moving.place.dir("to"), true).unwrap();
        assert_ne!(moving.to.status().unwrap().shim_pid, shim);
        moving.give_ways(2);
    }
    moving.end();
}

fn both_killed() {
    let mut moving = Move::begin("memory", Duration::ZERO);
    // Nobody gives it any page yet.
    moving.let_go();
    std::thread::sleep(Duration::from_millis(30));
    let (shim, pager) = (moving.to.status().unwrap().shim_pid, moving.pager_pid().unwrap());
    // Stopped first, so that neither sees the other die.
    let stop = |pid: i32| {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    };
    stop(shim);
    stop(pager);
    common::kill(pager);
    common::kill(shim);
    std::thread::sleep(Duration::from_millis(100));
    moving.to = Client::spawn(&common::program(), &moving.place.dir("to"), true).unwrap();
    assert!(moving.pager().missing_bytes > 0);
    moving.give_ways(2);
    moving.end();
}

fn unwritten() {
    let mut moving = Move::begin("memory", Duration::ZERO);
    moving.to.resume().unwrap();
    // In the way of whatever the shim writes down next.
    let hindrance = ferry_sys::replace::beside(&moving.place.dir("to").join("shim.cbor"));
    std::fs::create_dir(&hindrance).unwrap();
    moving.give_ways(2);
    wait_until("all pages", || moving.pager().complete.is_some());
    std::thread::sleep(Duration::from_millis(600));
    assert!(moving.pager_pid().is_some(), "it has gone, and nobody knows that all is in");
    common::kill(moving.to.status().unwrap().shim_pid);
    std::fs::remove_dir(&hindrance).unwrap();
    moving.to = Client::spawn(&common::program(), &moving.place.dir("to"), true).unwrap();
    moving.give_ways(2);
    wait_until("the end of the pager", || moving.pager_pid().is_none());
    moving.let_go();
    moving.end();
}

fn let_go_of() {
    let mut moving = Move::begin("memory", Duration::ZERO);
    moving.to.resume().unwrap();
    moving.give_ways(2);
    wait_until("the end of the pager", || moving.pager().complete.is_some() && moving.pager_pid().is_none());
    let before = moving.pager().complete;
    common::kill(moving.to.status().unwrap().shim_pid);
    moving.to = Client::spawn(&common::program(), &moving.place.dir("to"), true).unwrap();
    assert_eq!(moving.pager().complete, before);
    moving.let_go();
    moving.end();
}

fn cut() {
    let mut moving = Move::begin("pages", SLOWLY).resume();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(25));
        for way in moving.ways.drain(..) {
            let _ = way.shutdown(std::net::Shutdown::Both);
        }
        wait_until("the loss of the way", || !moving.to.pager().unwrap().connected);
        std::thread::sleep(Duration::from_millis(10));
        moving.give_ways(3);
        wait_until("the new way", || {
            let status = moving.to.pager().unwrap();
            status.connected || status.complete.is_some()
        });
    }
    moving.end();
}

fn held() {
    let mut moving = Move::begin("memory", Duration::ZERO);
    moving.to.resume().unwrap();
    wait_until("the pager to know what is missing", || moving.to.pager().unwrap().missing_bytes > 0);
    let before = moving.pager();
    assert!(before.missing_bytes > 0 && !before.connected && before.complete.is_none(), "{before:?}");
    moving.to.hold().unwrap();
    moving.to.hold().unwrap();
    assert_eq!(moving.to.status().unwrap().phase, Phase::Held);
    assert!(moving.to.resume().is_err());
    common::kill(moving.to.status().unwrap().shim_pid);
    moving.to = Client::spawn(&common::program(), &moving.place.dir("to"), true).unwrap();
    assert_eq!(moving.to.status().unwrap().phase, Phase::Held);
    assert_eq!(moving.pager().missing_bytes, before.missing_bytes);
    moving.to.destroy().unwrap();
    moving.place.assert_empty("to");
    moving.from.destroy().unwrap();
}

/// As after the rounds of a hybrid move: old content in some of the pages, and others that were only looked at.
fn stale() {
    let (mut moving, missing) = Move::prepared("pages", Duration::ZERO, |_| {});
    let targets = moving.targets.clone();
    let (sink, look) = (LinuxSink::open(targets.clone()).unwrap(), LinuxSource::open(targets).unwrap());
    for Missing { space, ranges } in &missing {
        for range in ranges {
            let half = (range.len / 2).next_multiple_of(4096).min(range.len);
            sink.write(*space, range.start, &vec![0xee; half as usize]).unwrap();
            let mut rest = vec![0; (range.len - half) as usize];
            look.read(*space, range.start + half, &mut rest).unwrap();
        }
    }
    moving.to.finish_missing(missing).unwrap();
    let bytes: u64 = moving.missing.iter().flat_map(|each| &each.ranges).map(|range| range.len).sum();
    assert_eq!(moving.pager().missing_bytes, bytes);
    let status = moving.resume().end();
    assert!(status.placed_bytes > bytes / 2, "{status:?} of {bytes}");
}

/// Userfaultfds that a shim holds.
fn held_by(shim: &mut Client) -> usize {
    let shim = shim.status().unwrap().shim_pid;
    let open = std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap();
    let is_one = |path: PathBuf| path.as_os_str() == "anon_inode:[userfaultfd]";
    open.filter(|entry| entry.as_ref().is_ok_and(|entry| std::fs::read_link(entry.path()).is_ok_and(is_one)))
        .count()
}

fn opened_early() {
    let draft = |to: &mut Client, spec: &Spec, state: &[u8]| {
        to.draft(spec.clone(), state.to_vec(), false, false).unwrap();
        assert_eq!(held_by(to), 0, "of a draft of which no pages can follow");
        for _ in 0..2 {
            to.draft(spec.clone(), state.to_vec(), false, true).unwrap();
            assert_ne!(held_by(to), 0);
        }
    };
    let (mut moving, missing) = Move::prepared_early("pages", Duration::ZERO, |_| {}, draft);
    let before = held_by(&mut moving.to);
    assert!(before >= missing.len(), "{before} of {}", missing.len());
    moving.to.finish_missing(missing).unwrap();
    assert!(held_by(&mut moving.to) <= before, "in the pause another one was opened");
    moving.resume().end();
}

fn refused() {
    let beyond = |missing: &mut Vec<Missing>| {
        let last = missing[0].ranges.last_mut().unwrap();
        last.len += 1 << 40;
    };
    let (mut moving, missing) = Move::prepared("memory", Duration::ZERO, beyond);
    let error = moving.to.finish_missing(missing).unwrap_err();
    assert!(format!("{error:?}").contains("cannot follow later"), "{error:?}");
    assert_eq!(moving.to.status().unwrap().phase, Phase::Empty, "nothing of it is left");
    moving.to.destroy().unwrap();
    moving.from.destroy().unwrap();
}

fn not_whole() {
    let mut moving = Move::begin("memory", Duration::from_millis(20)).resume();
    let refused = |done: Result<(), ferry_model::error::Error>| {
        let error = done.unwrap_err();
        assert!(error.message.contains("still on its way"), "{error:?}");
    };
    refused(moving.to.inspect(&[]).map(drop));
    refused(moving.to.track().map(drop));
    refused(moving.to.freeze());
    refused(moving.to.look());
    moving.end();
}

fn latency() {
    let moving = Move::begin("pages", Duration::ZERO).resume();
    let status = moving.end();
    println!("{status:?}");
    assert!(status.faults > 0 && status.fault_us_median > 0 && status.fault_us_median <= status.fault_us_p99);
}
