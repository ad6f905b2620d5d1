//! A capsule whose memory is tracked while it runs, as the source of a live move does.

use ferry_process::capsule::Capsule;
use ferry_process::capture::Scope;
use ferry_process::capture::interrupted::KnownWait;
use ferry_process::live::Tracking;
use ferry_transfer::engine::TrackedSpace;
use ferry_transfer::linux::TaskTracker;
use std::fs;

/// A tracking and what it opened; dropped, it is as if it had never been.
pub struct Begun {
    pub tracking: Tracking,
    pub waits: Vec<KnownWait>,
    _trackers: Vec<TaskTracker>,
}

pub fn scope(capsule: &Capsule) -> Scope {
    Scope::Cgroup(capsule.cgroup().path().to_owned())
}

/// Tracks every process, and looks again: nothing is opened twice, and every space keeps its number.
pub fn begin(capsule: &Capsule, mut waits: Vec<KnownWait>) -> Begun {
    let mut tracking = Tracking::default();
    let first = tracking.refresh(&scope(capsule), &|_| false, &mut waits).unwrap();
    // All of them can be tracked, but those whose descriptors are not theirs alone.
    let sharing = |(_, why): &&(i32, String)| why.contains("shares its descriptors with process");
    assert_eq!(first.untracked.iter().find(|each| !sharing(each)), None);
    let alive = first.state.tasks.iter().filter(|task| task.space.is_some());
    assert_eq!(alive.count(), first.spaces.len() + first.untracked.len());
    let numbers: Vec<u32> = first.spaces.iter().map(|space| space.space.0).collect();
    let mut trackers = Vec::new();
    for space in first.spaces {
        let userfaultfd = space.userfaultfd.expect("it is new");
        trackers.push(TaskTracker::new(space.space, space.pid, userfaultfd).unwrap());
    }
    for tracker in &mut trackers {
        assert!(!tracker.scan().unwrap().dirty.is_empty());
        tracker.scan().unwrap();
    }
    let again = tracking.refresh(&scope(capsule), &|_| false, &mut waits).unwrap();
    let known = again.spaces.iter().filter(|space| space.userfaultfd.is_none());
    let known: Vec<u32> = known.map(|space| space.space.0).collect();
    assert!(numbers.iter().all(|number| known.contains(number)), "{numbers:?} {known:?}");
    assert_nothing_left(capsule);
    Begun { tracking, waits, _trackers: trackers }
}

/// No process holds a userfaultfd.
pub fn assert_nothing_left(capsule: &Capsule) {
    for pid in capsule.cgroup().procs().unwrap() {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let link = fs::read_link(entry.path()).unwrap_or_default();
            assert!(
                !link.to_string_lossy().contains("userfaultfd"),
                "process {pid} holds {}",
                link.display()
            );
        }
    }
}
