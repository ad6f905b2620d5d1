//! A family of processes that write all the time, fork, execute programs and end, tracked from outside round by round: after the last
//! round the copy is the original, byte by byte, and every number means what the final capture says.

use ferry_process::capture::{self, Context, Scope};
use ferry_process::live::{Tracked, Tracking};
use ferry_sys::proc::maps::Mapping;
use ferry_transfer::engine::{Engine, Filler, Local};
use ferry_transfer::linux::TaskTracker;
use ferry_transfer::space::{PageSink, Range, SpaceId};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

const PAGE: u64 = 4096;

struct Family {
    parent: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    others: Vec<i32>,
}

impl Family {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live.py");
        let mut command = Command::new("python3");
        command.args(["-W", "ignore", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut parent = command.spawn().expect("python3 is one of the packages that tests need");
        let to = parent.stdin.take().unwrap();
        let from = BufReader::new(parent.stdout.take().unwrap());
        let mut family = Self { parent, to, from, others: Vec::new() };
        assert_eq!(family.line(), "ready");
        family
    }

    fn pid(&self) -> i32 {
        self.parent.id() as i32
    }

    fn scope(&self) -> Scope {
        Scope::Tree(self.pid())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn tell(&mut self, line: &str) -> i32 {
        writeln!(self.to, "{line}").unwrap();
        let answer = self.line();
        answer.parse().unwrap_or_else(|_| panic!("{line}: {answer:?}"))
    }

    fn begets(&mut self, line: &str) -> i32 {
        let pid = self.tell(line);
        self.others.push(pid);
        pid
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        for pid in &self.others {
            let _ = ferry_sys::ptrace::send(*pid, libc::SIGKILL);
        }
        let _ = self.parent.kill();
        let _ = self.parent.wait();
    }
}

/// Pages of all spaces.
#[derive(Default)]
struct Copy(Mutex<BTreeMap<(SpaceId, u64), Vec<u8>>>);

impl Copy {
    fn each(
        &self,
        space: SpaceId,
        ranges: &[Range],
        mut with: impl FnMut(&mut BTreeMap<(SpaceId, u64), Vec<u8>>, (SpaceId, u64)),
    ) {
        let mut all = self.0.lock().unwrap();
        let pages = ranges.iter().flat_map(|range| (range.start..range.end()).step_by(4096));
        pages.for_each(|at| with(&mut all, (space, at)));
    }
}

impl PageSink for &Copy {
    fn write(&self, space: SpaceId, start: u64, bytes: &[u8]) -> io::Result<()> {
        let mut parts = bytes.chunks_exact(4096);
        let range = Range { start, len: bytes.len() as u64 };
        self.each(space, &[range], |all, at| drop(all.insert(at, parts.next().unwrap().to_vec())));
        Ok(())
    }
}

impl Filler for &Copy {
    fn zero(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.each(space, ranges, |all, at| drop(all.insert(at, vec![0; 4096])));
        Ok(())
    }
}

/// The source of a live move.
#[derive(Default)]
struct Source {
    tracking: Tracking,
    engine: Engine<TaskTracker>,
    copy: Copy,
}

impl Source {
    fn refresh(&mut self, scope: &Scope) -> Tracked {
        let mut tracked = self.tracking.refresh(scope, &|_| false, &mut Vec::new()).unwrap();
        let known: Vec<SpaceId> = self.engine.spaces().collect();
        for id in known.iter().filter(|id| tracked.spaces.iter().all(|space| space.space != **id)) {
            self.engine.remove(*id);
        }
        for space in &mut tracked.spaces {
            assert_eq!(
                space.userfaultfd.is_none(),
                known.contains(&space.space),
                "each is opened once: {space:?}"
            );
            if let Some(userfaultfd) = space.userfaultfd.take() {
                self.engine.add(TaskTracker::new(space.space, space.pid, userfaultfd).unwrap()).unwrap();
            }
        }
        tracked
    }

    fn round(&mut self, last: bool) -> u64 {
        let mut carrier = Local(&self.copy);
        let round = match last {
            true => self.engine.last_round(&mut carrier, &|| false),
            false => self.engine.round(&mut carrier, &|| false),
        };
        round.unwrap().dirty_bytes
    }
}

fn pid_of(tracked: &Tracked, pid: i32) -> Option<SpaceId> {
    tracked.spaces.iter().find(|space| space.pid == pid).map(|space| space.space)
}

#[test]
fn a_family_that_changes_all_the_time_is_copied_exactly() {
    let mut family = Family::start();
    let mut source = Source::default();
    let first = source.refresh(&family.scope());
    let parent = pid_of(&first, family.pid()).unwrap();
    assert!(first.untracked.is_empty() && first.spaces.len() == 1, "{first:?}");
    source.round(false);
    // A child that shares all pages since the fork, and one that executes another program.
    let child = family.begets("fork 7");
    let sleeper = family.begets("spawn");
    let second = source.refresh(&family.scope());
    assert_eq!(pid_of(&second, family.pid()), Some(parent));
    let child_space = pid_of(&second, child).unwrap();
    assert!(pid_of(&second, sleeper).is_some() && second.state.spaces.len() == 3, "{second:?}");
    assert_eq!(second.state.tasks.iter().map(|task| task.pid).collect::<Vec<_>>()[0], family.pid());
    assert!(
        second.state.tasks[1..].iter().all(|task| task.parent == family.pid() && task.threads.len() == 1)
    );
    let mut dirty = 0;
    for round in 0..6 {
        dirty += source.round(false);
        match round {
            1 => drop(family.tell("map")),
            3 => drop(family.tell(&format!("end {child}"))),
            4 => drop(family.begets("fork 9")),
            _ => {}
        }
        let tracked = source.refresh(&family.scope());
        assert_eq!(pid_of(&tracked, child), (round < 3).then_some(child_space));
    }
    assert!(dirty > 0);

    let mut seized = capture::seize(&family.scope()).unwrap();
    let captured =
        seized.capture(&Context { numbers: source.tracking.numbers(), ..Context::default() }).unwrap();
    source.round(true);
    let ids: Vec<u32> = captured.state.spaces.iter().map(|space| space.id).collect();
    assert_eq!(ids, source.engine.spaces().map(|id| id.0).collect::<Vec<_>>());
    assert!(ids.contains(&parent.0) && !ids.contains(&child_space.0), "{ids:?}: a number is not given twice");
    assert_equal(&captured, &source);
    drop(source);
    seized.release().unwrap();
    assert_eq!(family.tell("map"), 0, "it goes on as if nothing had been");
}

/// Every page with content is in the copy, as it is.
fn assert_equal(captured: &capture::Captured, source: &Source) {
    let copy = source.copy.0.lock().unwrap();
    let mut pages = 0;
    for access in &captured.memory {
        let ferry_transfer::access::Via::Task { pid } = access.via else { continue };
        for at in access.ranges.iter().flat_map(|range| (range.start..range.end()).step_by(4096)) {
            let mut page = vec![0; PAGE as usize];
            assert_eq!(ferry_sys::process_vm::read(pid, at, &mut page).unwrap(), page.len());
            let copied = copy.get(&(access.space, at));
            assert!(copied == Some(&page), "{at:#x} of process {pid} differs: {}", copied.is_some());
            pages += 1;
        }
    }
    assert!(pages > 1000, "{pages}");
}

#[test]
fn another_program_has_another_number() {
    let mut family = Family::start();
    let mut source = Source::default();
    let before = pid_of(&source.refresh(&family.scope()), family.pid()).unwrap();
    source.round(false);
    writeln!(family.to, "exec").unwrap();
    assert_eq!(family.line(), "ready");
    let after = pid_of(&source.refresh(&family.scope()), family.pid()).unwrap();
    assert_ne!(before, after);
    source.round(false);
    // And once more, with no look before the pause: what the capture says has not been seen by any round.
    writeln!(family.to, "exec").unwrap();
    assert_eq!(family.line(), "ready");
    let mut seized = capture::seize(&family.scope()).unwrap();
    let numbers = source.tracking.numbers();
    assert!(!numbers.watched().contains(&family.pid()));
    let captured = seized.capture(&Context { numbers, ..Context::default() }).unwrap();
    assert!(![before.0, after.0].contains(&captured.state.spaces[0].id));
}

#[test]
fn a_draft_is_what_the_capture_will_say() {
    let mut family = Family::start();
    family.begets("fork 3");
    family.begets("spawn");
    let mut tracking = Tracking::default();
    let mut draft = || {
        let early = |mapping: &Mapping| mapping.name.ends_with(b"libc.so.6");
        tracking.refresh(&family.scope(), &early, &mut Vec::new()).unwrap().state
    };
    // Who is just executing a program has a layout that is not filled in yet: the next draft sees it.
    let draft = loop {
        let state = draft();
        if state.spaces.iter().all(|space| space.layout[0] != 0) {
            break state;
        }
    };
    let mut seized = capture::seize(&family.scope()).unwrap();
    let captured =
        seized.capture(&Context { numbers: tracking.numbers(), ..Context::default() }).unwrap().state;
    let related = |state: &ferry_process::records::State| -> Vec<_> {
        let tasks = state.tasks.iter();
        tasks.map(|task| (task.pid, task.parent, task.group, task.session, task.life, task.space)).collect()
    };
    assert_eq!(related(&draft), related(&captured));
    for (early, last) in draft.spaces.iter().zip(&captured.spaces) {
        assert_eq!((early.id, &early.auxv, &early.exe), (last.id, &last.auxv, &last.exe));
        assert_eq!((early.layout, early.vdso_hash), (last.layout, last.vdso_hash));
        let libc = |vma: &&ferry_process::records::Vma| match &vma.backing {
            ferry_process::records::Backing::File { path, .. } => path.ends_with(b"libc.so.6"),
            _ => false,
        };
        assert!(last.vmas.iter().any(|vma| libc(&vma)) && !early.vmas.iter().any(|vma| libc(&vma)));
        // What both have is the same; the processes ran on in between.
        let same = early.vmas.iter().filter(|vma| last.vmas.contains(vma)).count();
        assert!(same * 10 > early.vmas.len() * 9, "{same} of {}", early.vmas.len());
    }
}
