//! A move whose puppets are made before the program stands still: drafts, each filled and checked, then the last state.
//!
//! Drafts are made of captures, by leaving out what a draft does not have. Every second one leaves out more: some mappings and some
//! processes, as if they had come only later. What the target is said to have kept is not written again, so that a wrong answer shows
//! in the program's own verification; and it is compared with what was written.

use super::{Content, Taken, finish, read_all, spec, take, wait_for};
use ferry_process::capsule::{Capsule, Spec, pack_upper, unpack_upper};
use ferry_process::capture::{self, Context, Scope};
use ferry_process::layout;
use ferry_process::records::memory::Backing;
use ferry_process::records::{Files, State, Thread};
use ferry_process::restore::{Home, Puppets};
use ferry_transfer::linux::{LinuxSink, LinuxSource};
use ferry_transfer::space::{PAGE_SIZE, PageSink, Range, SpaceId, covers};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

pub fn move_over(source: &Capsule, directory: &Path, drafts: u32) -> (Capsule, i32) {
    let record = source.capture().unwrap();
    let mut files = Vec::new();
    pack_upper(source.directory(), &mut files).unwrap();
    let mut wanted = Spec::restored(&record, spec(directory, 1).name, directory.join("1"));
    wanted.end_with_creator = true;
    unpack_upper(&wanted.directory, &mut files.as_slice()).unwrap();
    let target = Capsule::create(&wanted).unwrap();
    let home =
        Home { init: target.init_pid(), cgroup: Some(target.cgroup().path().to_owned()), staged: None };

    let changes = std::fs::read_to_string(directory.join("log")).unwrap().contains("READY")
        && directory.join("changing").exists();
    let mut numbers = Numbers::default();
    let mut puppets: Option<(Puppets, State)> = None;
    let mut held = Held::default();
    for number in 0..drafts {
        if changes && number > 0 {
            std::fs::write(format!("/proc/{}/root/tmp/step{number}", source.init_pid()), "").unwrap();
            wait_for(&directory.join("log"), &format!("STEP{number}"));
            if number == 1 {
                wait_for(&directory.join("log"), "AGAIN");
            }
        }
        let (state, content) = look(source, &mut numbers);
        let draft = draft(&state, number % 2 == 0);
        let begin = Instant::now();
        puppets = Some(match puppets {
            None => (Puppets::draft(&draft, &home).unwrap(), draft),
            Some((mut puppets, before)) => {
                puppets.reconcile(&draft).unwrap();
                held.keep(&layout::kept(&before, &draft));
                (puppets, draft)
            }
        });
        eprintln!("draft {number} in {:?}", begin.elapsed());
        let (puppets, _) = puppets.as_mut().unwrap();
        puppets.expect_missing();
        held.check(puppets);
        held.write(puppets, content, false);
    }

    let Taken { mut state, mut content, log, seized } = take(source, directory, Vec::new(), None);
    numbers.apply(&mut state, &mut content);
    let mut contents = Vec::new();
    let record = source.capture().unwrap();
    source.pack_contents(&record, true, &mut contents).unwrap();
    target.restore_contents(&record, &mut contents.as_slice()).unwrap();
    seized.kill().unwrap();
    let (mut puppets, before) = puppets.unwrap();
    let begin = Instant::now();
    puppets.complete(&state).unwrap();
    eprintln!("completed in {:?}", begin.elapsed());
    held.keep(&layout::kept(&before, &state));
    held.check(&puppets);
    held.write(&puppets, content, true);
    let (first, _) = finish(puppets, &state, &target, &log);
    (target, first)
}

/// State and content of the running tree, which stands still for as long as that takes.
fn look(source: &Capsule, numbers: &mut Numbers) -> (State, Content) {
    let mut seized = capture::seize(&Scope::Cgroup(source.cgroup().path().to_owned())).unwrap();
    let captured = seized.capture(&Context::default()).unwrap();
    let (mut state, mut content) = (captured.state, read_all(&LinuxSource::open(captured.memory).unwrap()));
    seized.release().unwrap();
    numbers.apply(&mut state, &mut content);
    (state, content)
}

/// What a draft has of a state. `less`: without the youngest process that has no children, and without every fifth mapping.
fn draft(state: &State, less: bool) -> State {
    let mut draft = State { files: Files::default(), ..state.clone() };
    if less && draft.tasks.len() > 1 {
        draft.tasks.pop();
    }
    for task in &mut draft.tasks {
        task.threads.truncate(1);
        if let Some(leader) = task.threads.first_mut() {
            *leader = Thread { tid: leader.tid, ..Thread::default() };
        }
        task.actions.clear();
        task.limits.clear();
        task.pending.clear();
        task.timers.clear();
    }
    let used: BTreeSet<u32> = draft.tasks.iter().filter_map(|task| task.space).collect();
    draft.spaces.retain(|space| used.contains(&space.id));
    for space in &mut draft.spaces {
        let mut number = 0;
        space.vmas.retain(|vma| {
            number += 1;
            !less || number % 5 != 0 || matches!(vma.backing, Backing::Kernel { .. })
        });
    }
    draft
}

/// Numbers of spaces that last: those of captures begin anew each time.
#[derive(Default)]
struct Numbers {
    spaces: BTreeMap<(i32, Vec<u8>), u32>,
    objects: BTreeMap<(u64, u64), u32>,
    next: u32,
}

fn count(next: &mut u32) -> u32 {
    *next += 1;
    *next
}

impl Numbers {
    fn apply(&mut self, state: &mut State, content: &mut Content) {
        let mut new: BTreeMap<u32, u32> = BTreeMap::new();
        for task in &mut state.tasks {
            let Some(id) = task.space else { continue };
            let space = state.spaces.iter_mut().find(|space| space.id == id).unwrap();
            // Another program of the same process has its auxiliary vector elsewhere.
            let next = &mut self.next;
            let number = *self.spaces.entry((task.pid, space.auxv.clone())).or_insert_with(|| count(next));
            new.insert(id, number);
        }
        for object in &mut state.objects {
            let next = &mut self.next;
            let number = *self.objects.entry((object.device, object.inode)).or_insert_with(|| count(next));
            new.insert(object.id, number);
            object.id = number;
        }
        for task in &mut state.tasks {
            task.space = task.space.map(|id| new[&id]);
        }
        for space in &mut state.spaces {
            space.id = new[&space.id];
            for vma in &mut space.vmas {
                if let Backing::Object { id, .. } = &mut vma.backing {
                    *id = new[id];
                }
            }
        }
        for (space, ..) in content.iter_mut() {
            *space = SpaceId(new[&space.0]);
        }
    }
}

/// What the target has, by page.
#[derive(Default)]
struct Held(BTreeMap<(SpaceId, u64), Vec<u8>>);

impl Held {
    fn keep(&mut self, kept: &BTreeMap<SpaceId, ferry_transfer::engine::RangeSet>) {
        self.0.retain(|(space, at), _| {
            kept.get(space).is_some_and(|ranges| covers(ranges.ranges(), *at, PAGE_SIZE))
        });
    }

    /// Everything that is held is really there.
    fn check(&self, puppets: &Puppets) {
        let by_space = puppets.access().into_iter().map(|access| {
            let held = self.0.keys().filter(|(space, _)| *space == access.space);
            let ranges = held.map(|(_, at)| Range { start: *at, len: PAGE_SIZE }).collect();
            ferry_transfer::access::SpaceAccess { ranges, ..access }
        });
        let pages = LinuxSource::open(by_space.collect()).unwrap();
        let mut found = 0;
        for (space, start, bytes) in read_all(&pages) {
            assert!(self.0[&(space, start)] == bytes, "{start:#x} of space {} is not what was kept", space.0);
            found += 1;
        }
        assert_eq!(found, self.0.len(), "spaces are missing");
    }

    /// Writes what is not held with the same content, as far as it is allowed for; all of it at the last.
    fn write(&mut self, puppets: &Puppets, content: Content, last: bool) {
        let access = puppets.access();
        let allowed: BTreeMap<SpaceId, Vec<Range>> =
            access.iter().map(|access| (access.space, access.ranges.clone())).collect();
        let sink = LinuxSink::open(access).unwrap();
        let mut now = BTreeSet::new();
        for (space, start, bytes) in content {
            for (at, page) in (start..).step_by(PAGE_SIZE as usize).zip(bytes.chunks(PAGE_SIZE as usize)) {
                let may = allowed.get(&space).is_some_and(|ranges| covers(ranges, at, PAGE_SIZE));
                assert!(may || !last, "{at:#x} of space {} cannot be written", space.0);
                now.insert((space, at));
                if may && self.0.get(&(space, at)).map(Vec::as_slice) != Some(page) {
                    sink.write(space, at, page).unwrap();
                    self.0.insert((space, at), page.to_vec());
                }
            }
        }
        let gone: Vec<(SpaceId, u64)> = self.0.keys().filter(|page| !now.contains(page)).copied().collect();
        for (space, at) in gone {
            // A page of a file that is no longer the program's own: what the file has there. The engine reads that at the source.
            sink.write(space, at, &[0; PAGE_SIZE as usize]).unwrap();
            self.0.insert((space, at), vec![0; PAGE_SIZE as usize]);
        }
    }
}
