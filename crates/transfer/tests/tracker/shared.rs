//! Shared memory that processes write to through their mappings and by descriptor: what differs is found, and content is only
//! compared where nobody can know.

use super::child::{DONTNEED, MADVISE, MREMAP, MUNMAP, PAGE, SHARED, Tracked, pages};
use super::live::{Copy, wait_until_stopped};
use super::within;
use ferry_transfer::access::{SpaceAccess, Via};
use ferry_transfer::engine::{Engine, Found, Local, RangeSet, TrackedSpace};
use ferry_transfer::linux::{ObjectSpace, SharedObjects, TaskTracker};
use ferry_transfer::space::SpaceId;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::MetadataExt;
use tempfile::NamedTempFile;

const PWRITE: i64 = 18;
const FTRUNCATE: i64 = 77;
const FALLOCATE: i64 = 285;
/// FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE.
const PUNCH: i64 = 3;

/// A file in memory of so many pages.
fn memory_file(count: u64) -> NamedTempFile {
    let file = NamedTempFile::new_in("/dev/shm").unwrap();
    file.as_file().set_len(count * PAGE).unwrap();
    file
}

/// Opens it as an object. `open`: somebody may have it open.
fn object(file: &NamedTempFile, open: bool, objects: &SharedObjects) -> ObjectSpace {
    let via = Via::File { path: file.path().to_str().unwrap().into() };
    let access = SpaceAccess { space: SpaceId(1), via, ranges: Vec::new() };
    let metadata = file.as_file().metadata().unwrap();
    ObjectSpace::open(&access, (metadata.dev(), metadata.ino()), open, objects).unwrap()
}

/// A round, of which everything found is read, as the engine does.
fn round(trackers: &mut [TaskTracker], object: &mut ObjectSpace) -> Found {
    for tracker in trackers {
        tracker.scan().unwrap();
    }
    let found = object.scan().unwrap();
    let mut buffer = vec![0; found.dirty.bytes() as usize];
    object.read(found.dirty.ranges(), &mut buffer).unwrap();
    found
}

fn dirty(found: &Found) -> Vec<u64> {
    within(&found.dirty, 0, 4096)
}

#[test]
fn stores_of_several_processes_are_found_and_nothing_is_compared() {
    let file = memory_file(600);
    let (mut one, mut other) = (Tracked::start(file.path()), Tracked::start(file.path()));
    let (here, there) = (one.map_file(600, SHARED), other.map_file(300, SHARED));
    one.write(here, [0, 5, 599], 1);
    let objects = SharedObjects::default();
    let mut trackers = [one.tracker_of(3).noting(&objects), other.tracker_of(4).noting(&objects)];
    let mut object = object(&file, false, &objects);
    assert_eq!(dirty(&round(&mut trackers, &mut object)), [0, 5, 599]);
    assert_eq!(dirty(&round(&mut trackers, &mut object)), [0_u64; 0]);
    // What was noted before the object was there is compared once; from here on, nothing is.
    let compared = object.compared_bytes();
    one.write(here, [5, 77], 2);
    other.write(there, [5, 78], 3);
    other.read_into(there + 20 * PAGE + 100, 2 * PAGE);
    assert_eq!(dirty(&round(&mut trackers, &mut object)), [5, 20, 21, 22, 77, 78]);
    assert_eq!(dirty(&round(&mut trackers, &mut object)), [0_u64; 0]);
    // A page that was written and given back has its content still.
    one.write(here, [5, 300, 599], 4);
    one.call(MADVISE, &[here as i64, 600 * PAGE as i64, DONTNEED]);
    let found = dirty(&round(&mut trackers, &mut object));
    assert!([5, 300, 599].iter().all(|page| found.contains(page)), "{found:?}");
    one.write(here, [6], 5);
    assert!(dirty(&round(&mut trackers, &mut object)).contains(&6));
    assert_eq!(object.compared_bytes(), compared);
    // Nothing is left of the tracking.
    trackers.iter_mut().for_each(|tracker| tracker.disarm().unwrap());
    one.write(here, [7], 6);
}

#[test]
fn where_nobody_can_know_content_is_compared() {
    let file = memory_file(600);
    let mut child = Tracked::start(file.path());
    let at = child.map_file(600, SHARED);
    child.write(at, 0..64, 1);
    let objects = SharedObjects::default();
    let mut trackers = vec![child.tracker().noting(&objects)];
    let mut object = object(&file, false, &objects);
    assert_eq!(dirty(&round(&mut trackers, &mut object)), (0..64).collect::<Vec<_>>());
    assert_eq!(dirty(&round(&mut trackers, &mut object)), [0_u64; 0]);
    // Unmapped, with what was written through it, and mapped again.
    child.write(at, [3, 64], 2);
    child.call(MUNMAP, &[at as i64, 600 * PAGE as i64]);
    let at = child.map_file(600, SHARED);
    assert_eq!(dirty(&round(&mut trackers, &mut object)), [3, 64]);
    // Moved.
    child.write(at, [4], 3);
    let at = child.call(MREMAP, &[at as i64, 600 * PAGE as i64, 640 * PAGE as i64, 1]) as u64;
    child.write(at, [5], 3);
    assert_eq!(dirty(&round(&mut trackers, &mut object)), [4, 5]);
    // By a child that nobody tracks: it is for the caller to say so.
    let grandchild = child.tell(&format!("fork {}", at + 9 * PAGE));
    kill_process(Pid::from_raw(grandchild as i32).unwrap(), Signal::KILL).unwrap();
    objects.doubt();
    assert_eq!(dirty(&round(&mut trackers, &mut object)), [9]);
    // Whoever wrote has ended, and its tracker with it.
    child.write(at, [8], 9);
    drop((trackers, child));
    assert_eq!(dirty(&round(&mut [], &mut object)), [8]);
}

#[test]
fn what_is_open_is_compared_in_each_round() {
    let file = memory_file(600);
    let mut child = Tracked::start(file.path());
    let at = child.map_file(600, SHARED);
    child.write(at, 0..64, 1);
    let objects = SharedObjects::default();
    let mut trackers = [child.tracker().noting(&objects)];
    let mut object = object(&file, true, &objects);
    assert_eq!(dirty(&round(&mut trackers, &mut object)), (0..64).collect::<Vec<_>>());
    let fd = child.tell("own 0");
    child.call(PWRITE, &[fd, at as i64, 100, 17 * PAGE as i64 + 50]);
    assert_eq!(dirty(&round(&mut trackers, &mut object)), [17]);
    child.call(FALLOCATE, &[fd, PUNCH, 2 * PAGE as i64, 2 * PAGE as i64]);
    let found = round(&mut trackers, &mut object);
    assert!(within(&found.content, 0, 64).iter().all(|page| ![2, 3].contains(page)));
    // What was taken away and is as before again is not at the target: there it is zero by now.
    let block = child.map(None, 1, super::PRIVATE);
    child.write(block, [0], 1);
    child.call(PWRITE, &[fd, block as i64, PAGE as i64, 2 * PAGE as i64]);
    assert_eq!(dirty(&round(&mut trackers, &mut object)), [2]);
    child.call(FTRUNCATE, &[fd, 700 * PAGE as i64]);
    child.call(PWRITE, &[fd, at as i64, 100, 699 * PAGE as i64]);
    assert!(dirty(&round(&mut trackers, &mut object)).contains(&699));
    child.call(FTRUNCATE, &[fd, 10 * PAGE as i64]);
    assert!(round(&mut trackers, &mut object).content.bytes() <= 10 * PAGE);
}

#[test]
fn an_object_that_is_written_to_in_every_way_is_copied_exactly() {
    let file = memory_file(2000);
    let (mut one, mut other) = (Tracked::start(file.path()), Tracked::start(file.path()));
    let (here, there) = (one.map_file(2000, SHARED), other.map_file(2000, SHARED));
    other.write(there, 0..64, 7);
    let objects = SharedObjects::default();
    let copy = Copy::default();
    let trackers = [one.tracker_of(3).noting(&objects), other.tracker_of(4).noting(&objects)];
    let mut engine: Engine<Box<dyn TrackedSpace>> = Engine::default();
    for tracker in trackers {
        // What they have of their own is not looked at here.
        let id = tracker.id();
        engine.add(Box::new(tracker)).unwrap();
        engine.allow(id, RangeSet::default());
    }
    engine.add(Box::new(object(&file, true, &objects))).unwrap();
    one.tell(&format!("storm {here} 2000"));
    let fd = other.tell("own 0");
    for number in 0..12_i64 {
        engine.round(&mut Local(&copy), &|| false).unwrap();
        let at = number as u64 * 100;
        match number {
            3 => drop(other.call(PWRITE, &[fd, there as i64, 9000, at as i64 * PAGE as i64 + 50])),
            5 => drop(other.call(FALLOCATE, &[fd, PUNCH, at as i64 * PAGE as i64, 64 * PAGE as i64])),
            7 => drop(other.call(FTRUNCATE, &[fd, 2400 * PAGE as i64])),
            8 => drop(other.call(PWRITE, &[fd, there as i64, 900, 2399 * PAGE as i64])),
            _ => other.write(there, at..at + 3, number as u8),
        }
    }
    for child in [&one, &other] {
        kill_process(Pid::from_raw(child.pid()).unwrap(), Signal::STOP).unwrap();
        wait_until_stopped(child.pid());
    }
    // The processes' own memory is not part of this.
    let own = engine.remove(SpaceId(3)).into_iter().chain(engine.remove(SpaceId(4)));
    let mut own: Vec<_> = own.collect();
    own.iter_mut().for_each(|tracker| drop(tracker.scan().unwrap()));
    engine.last_round(&mut Local(&copy), &|| false).unwrap();
    drop(own);
    let bytes = std::fs::read(file.path()).unwrap();
    let copy = copy.0.lock().unwrap();
    for (page, at) in bytes.chunks(PAGE as usize).zip((0..).step_by(PAGE as usize)) {
        match copy.get(&at) {
            Some(copied) => assert!(page == copied, "{:?} differs", pages(at, 0..1)),
            None => assert!(page.iter().all(|byte| *byte == 0), "{:?} was not sent", pages(at, 0..1)),
        }
    }
}
