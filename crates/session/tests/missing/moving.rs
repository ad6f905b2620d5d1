//! A workload on its way from one shim to another, with pages left behind.

use crate::common::{self, LONG, Place};
use ferry_process::capsule::{pack_upper, unpack_upper};
use ferry_process::layout::may_be_missing;
use ferry_session::shim::Spec;
use ferry_session::shim::client::Client;
use ferry_session::shim::envelope::Envelope;
use ferry_session::shim::protocol::{Exit, PagerStatus};
use ferry_sys::pagemap::{Pagemap, Query};
use ferry_transfer::access::{Missing, SpaceAccess, Via};
use ferry_transfer::engine::RangeSet;
use ferry_transfer::linux::{LinuxSink, LinuxSource};
use ferry_transfer::space::{PageSink, PageSource, Range, SpaceId};
use ferry_transfer::wire::demand::{self, Progress};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A source that takes its time.
pub struct Slow(LinuxSource, Duration);

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
pub struct Move {
    pub place: Place,
    name: String,
    pub from: Client,
    pub to: Client,
    pub source: Arc<Slow>,
    pub missing: Arc<Vec<Missing>>,
    pub progress: Arc<Progress>,
    pub targets: Vec<SpaceAccess>,
    /// The source's ends.
    pub ways: Vec<UnixStream>,
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

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "waited for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Pages of the frozen tasks with content, of those that may be missing.
pub fn content_of(spaces: &[SpaceAccess], state: &[u8]) -> Vec<Missing> {
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
    pub fn begin(name: &str, slow: Duration) -> Self {
        Self::with(name, slow, |_| {})
    }

    pub fn with(name: &str, slow: Duration, change: impl FnOnce(&mut Vec<Missing>)) -> Self {
        let (mut moving, missing) = Self::prepared(name, slow, change);
        moving.to.finish_missing(missing).unwrap();
        moving
    }

    pub fn prepared(
        name: &str,
        slow: Duration,
        change: impl FnOnce(&mut Vec<Missing>),
    ) -> (Self, Vec<Missing>) {
        Self::prepared_early(name, slow, change, |_, _, _| {})
    }

    /// `early` has the target's shim before it is told what the workload is, and hears that, too.
    pub fn prepared_early(
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
    pub fn resume(mut self) -> Self {
        self.give_ways(3);
        self.let_go();
        self
    }

    pub fn let_go(&mut self) {
        self.to.resume().unwrap();
        let init = self.to.status().unwrap().init.unwrap();
        std::fs::write(format!("/proc/{init}/root/tmp/go"), "").unwrap();
    }

    pub fn give_ways(&mut self, count: usize) {
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

    pub fn pager(&mut self) -> PagerStatus {
        self.to.pager().unwrap()
    }

    /// Host pid of the pager.
    pub fn pager_pid(&mut self) -> Option<i32> {
        let shim = self.to.status().unwrap().shim_pid;
        let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).ok()?;
        let is_pager = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "ferry-pager\n")
        };
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_pager)
    }

    pub fn log(&self) -> String {
        let said = std::fs::read_to_string(self.to.log()).unwrap_or_default();
        let shim = std::fs::read_to_string(self.place.dir("to").join("shim.log")).unwrap_or_default();
        format!("{}: {said}\n{shim}", self.name)
    }

    /// The program has verified itself, and both sides agree on what was delivered.
    pub fn end(mut self) -> PagerStatus {
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
