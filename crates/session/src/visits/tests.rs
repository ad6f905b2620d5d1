//! What is kept: found by content, never more than allowed, never given out damaged, never half.

use super::*;
use ferry_transfer::access::Via;
use ferry_transfer::space::{Range, SpaceId};
use ferry_transfer::wire::rounds::{Held, PageName};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PAGE: usize = PAGE_SIZE as usize;

fn id(number: u8) -> WorkloadId {
    WorkloadId([number; 16])
}

/// A memory of pages that each hold one byte throughout; its file has the name of the first.
fn memory(dir: &Path, pages: &[u8]) -> SpaceAccess {
    let path = dir.join(format!("memory-{}", pages[0]));
    std::fs::write(&path, pages.iter().flat_map(|byte| [*byte; PAGE]).collect::<Vec<u8>>()).unwrap();
    let ranges = vec![Range { start: 0, len: pages.len() as u64 * PAGE_SIZE }];
    SpaceAccess {
        space: SpaceId(u32::from(pages[0])),
        via: Via::File { path: path.display().to_string() },
        ranges,
    }
}

/// Keeps it, and waits until it is on disk.
fn keep(visits: &Visits, number: u8, spaces: &[SpaceAccess]) -> u64 {
    let bytes = visits.keep(id(number), spaces).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while bytes > 0 && visits.find(id(number)).is_none() {
        assert!(Instant::now() < end, "it is not there after a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    bytes
}

/// What a visit has: the byte of each page.
fn content(visit: &Visit) -> Vec<u8> {
    let read = |position| {
        let mut page = [0; PAGE];
        visit.read(position, &mut page).unwrap();
        assert_eq!(visit.names()[position as usize * NAME_BYTES..][..NAME_BYTES], PageName::of(&page).0);
        page[0]
    };
    (0..visit.pages() as u32).map(read).collect()
}

#[test]
fn what_is_kept_is_found_and_nobody_else_may_read_it() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let visits = Visits::new(dir.path(), 1 << 30);
    let spaces = [memory(dir.path(), &[1, 0, 2, 3]), memory(dir.path(), &[4, 2])];
    assert_eq!(keep(&visits, 7, &spaces), 5 * PAGE_SIZE, "all but zeros");
    let visit = visits.find(id(7)).unwrap();
    assert_eq!(content(&visit), [1, 2, 3, 4, 2]);
    assert!(visit.read(5, &mut [0; PAGE]).is_err() && !visit.is_spoilt());
    assert!(visits.find(id(8)).is_none());
    for place in [visits.dir.clone(), visits.place(id(7)), visits.place(id(7)).join(PAGES)] {
        assert_eq!(std::fs::metadata(place).unwrap().mode() & 0o077, 0);
    }
    assert_eq!(keep(&visits, 7, &[memory(dir.path(), &[9])]), PAGE_SIZE);
    assert_eq!(content(&visits.find(id(7)).unwrap()), [9], "a later visit takes its place");
    visits.forget(id(7)).unwrap();
    assert!(visits.find(id(7)).is_none());
}

#[test]
fn without_leave_nothing_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Visits::new(dir.path(), 0).keep(id(1), &[memory(dir.path(), &[1])]).unwrap(), 0);
    assert!(!dir.path().join(DIR).exists());
    // Nor used, nor left over, when leave is taken back.
    keep(&Visits::new(dir.path(), 1 << 20), 1, &[memory(dir.path(), &[1])]);
    let none = Visits::new(dir.path(), 0);
    assert!(none.find(id(1)).is_none());
    none.tidy().unwrap();
    assert_eq!(none.all().unwrap(), []);
}

#[test]
fn no_more_is_kept_than_is_allowed_and_the_oldest_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let one = PAGE_SIZE + NAME_BYTES as u64;
    let visits = Visits::new(dir.path(), 4 * one);
    for number in 1..=3 {
        keep(&visits, number, &[memory(dir.path(), &[number, 100 + number])]);
        std::thread::sleep(Duration::from_millis(20));
    }
    let there: BTreeSet<u8> = (1..=3).filter(|number| visits.find(id(*number)).is_some()).collect();
    assert_eq!(there, BTreeSet::from([2, 3]));
    // What does not fit alone is kept in part.
    assert_eq!(keep(&visits, 4, &[memory(dir.path(), &[1, 2, 3, 4, 5, 6, 7, 8])]), 4 * PAGE_SIZE);
    assert_eq!(content(&visits.find(id(4)).unwrap()), [1, 2, 3, 4]);
    assert!(visits.bytes().unwrap() <= 4 * one);
}

#[test]
fn what_was_damaged_is_never_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let visits = Visits::new(dir.path(), 1 << 30);
    keep(&visits, 1, &[memory(dir.path(), &[1, 2])]);
    let pages = visits.place(id(1)).join(PAGES);
    let mut bytes = std::fs::read(&pages).unwrap();
    bytes[PAGE + 9] ^= 1;
    std::fs::write(&pages, &bytes).unwrap();
    let visit = visits.find(id(1)).unwrap();
    visit.read(0, &mut [0; PAGE]).unwrap();
    assert!(!visit.is_spoilt());
    assert!(visit.read(1, &mut [0; PAGE]).unwrap_err().to_string().contains("damaged"));
    assert!(visit.is_spoilt());
    // Files that do not belong together are not even opened, and go.
    std::fs::write(&pages, &bytes[..PAGE]).unwrap();
    assert!(visits.find(id(1)).is_none());
    assert!(!visits.place(id(1)).exists());
}

#[test]
fn what_was_begun_and_not_ended_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let visits = Visits::new(dir.path(), 1 << 30);
    keep(&visits, 1, &[memory(dir.path(), &[1])]);
    std::fs::rename(visits.place(id(1)), visits.unfinished(id(1))).unwrap();
    assert!(visits.find(id(1)).is_none());
    visits.tidy().unwrap();
    assert_eq!(visits.all().unwrap(), []);
    // What cannot be read is an error, and nothing is left of it.
    let gone = SpaceAccess { ranges: vec![Range { start: 0, len: 9 << 20 }], ..memory(dir.path(), &[2]) };
    std::fs::write(dir.path().join("memory-2"), "").unwrap();
    let kept = visits.keep(id(1), &[gone]);
    assert!(kept.is_err() || kept.is_ok_and(|bytes| bytes == 0));
    assert!(visits.find(id(1)).is_none() && visits.all().unwrap().is_empty());
}
