//! The journal cut, bent and filled up.

use super::*;
use ferry_model::handover::{Key, Step};
use ferry_model::ids::{BootId, Epoch, MoveId, WorkloadId};
use std::os::unix::fs::PermissionsExt;

fn entry(n: u8) -> Entry {
    let key = Key { id: WorkloadId([1; 16]), epoch: Epoch(3), mv: MoveId([n; 16]) };
    let reason = "x".repeat(usize::from(n) * 3);
    Entry::Step { key, boot_id: BootId([2; 16]), step: Step::Aborted { reason } }
}

/// A journal of `count` entries; the file's bytes, and the length of the file after each entry.
fn written(path: &Path, count: u8) -> (Vec<u8>, Vec<u64>) {
    let mut journal = Journal::open(path).unwrap();
    let mut ends = vec![journal.end];
    for n in 0..count {
        journal.append(&entry(n)).unwrap();
        ends.push(journal.end);
    }
    (std::fs::read(path).unwrap(), ends)
}

#[test]
fn what_was_appended_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    written(&path, 5);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let journal = Journal::open(&path).unwrap();
    assert_eq!(journal.entries(), (0..5).map(entry).collect::<Vec<_>>());
}

#[test]
fn cut_at_each_byte_it_keeps_every_whole_entry_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (bytes, ends) = written(&path, 6);
    for cut in 0..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let whole = ends.windows(2).filter(|frame| {
            let (length, _, _) = header(&bytes[frame[0] as usize..]).unwrap();
            frame[0] as usize + HEADER + length as usize <= cut
        });
        let whole = whole.count() as u8;
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.entries(), (0..whole).map(entry).collect::<Vec<_>>(), "cut at {cut}");
        journal.append(&entry(99)).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.entries().last(), Some(&entry(99)), "cut at {cut}");
        assert_eq!(journal.entries().len(), usize::from(whole) + 1, "cut at {cut}");
    }
}

#[test]
fn a_last_frame_of_which_parts_are_zero_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (bytes, ends) = written(&path, 3);
    // The file's size reached the disk, the frame's bytes did not, or not all.
    for from in ends[2]..ends[3] {
        if (1..8).contains(&(from - ends[2])) {
            continue; // No sector ends inside of a length and its complement.
        }
        let mut torn = bytes.clone();
        torn[from as usize..].fill(0);
        torn.extend_from_slice(&[0; 700]);
        std::fs::write(&path, &torn).unwrap();
        let left = if padding(&bytes, &ends, from as usize) { 3 } else { 2 };
        assert_eq!(Journal::open(&path).unwrap().entries().len(), left, "zero from {from}");
    }
}

#[test]
fn damage_before_the_last_frame_is_reported_at_each_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (bytes, ends) = written(&path, 3);
    for at in 0..ends[2] as usize {
        let mut bent = bytes.clone();
        bent[at] ^= 0x40;
        std::fs::write(&path, &bent).unwrap();
        let opened = Journal::open(&path);
        if padding(&bytes, &ends, at) {
            assert_eq!(opened.unwrap().entries().len(), 3, "byte {at} is only padding");
        } else {
            assert!(matches!(opened, Err(JournalError::Damaged { .. })), "byte {at}: {opened:?}");
        }
    }
}

/// Byte `at` lies between an entry and the next frame.
fn padding(bytes: &[u8], ends: &[u64], at: usize) -> bool {
    ends.windows(2).any(|frame| {
        let (start, end) = (frame[0] as usize, frame[1] as usize);
        let (length, _, _) = header(&bytes[start..]).unwrap();
        (start + HEADER + length as usize..end).contains(&at)
    })
}

#[test]
fn frames_cannot_be_exchanged_or_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (bytes, ends) = written(&path, 3);
    let part = |n: usize| &bytes[ends[n] as usize..ends[n + 1] as usize];
    for order in [[0, 0, 1], [1, 0, 2], [0, 2, 1], [0, 2, 2]] {
        let mut mixed = bytes[..ends[0] as usize].to_vec();
        order.iter().for_each(|n| mixed.extend_from_slice(part(*n)));
        std::fs::write(&path, &mixed).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::Damaged { .. })), "{order:?}");
    }
}

#[test]
fn only_one_process_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let journal = Journal::open(&path).unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::Busy { .. })));
    drop(journal);
    Journal::open(&path).unwrap();
}

#[test]
fn a_long_one_is_shortened_to_the_last_move() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut journal = Journal::open(&path).unwrap();
    let mut n = 0;
    while journal.end <= COMPACT_BYTES {
        journal.append(&entry(n)).unwrap();
        n = (n + 1) % 250;
    }
    let last = journal.entries().last().cloned();
    journal.reserve().unwrap();
    assert!(journal.end < 4096);
    journal.append(&entry(251)).unwrap();
    drop(journal);
    let journal = Journal::open(&path).unwrap();
    assert_eq!(journal.entries().iter().rev().nth(1), last.as_ref());
    assert_eq!(journal.entries().last(), Some(&entry(251)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_entry_without_bounds_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&dir.path().join("journal")).unwrap();
    let key = Key { id: WorkloadId([1; 16]), epoch: Epoch(3), mv: MoveId([0; 16]) };
    let step = Step::Aborted { reason: "x".repeat(ENTRY_BYTES_MAX) };
    let long = Entry::Step { key, boot_id: BootId([2; 16]), step };
    assert!(matches!(journal.append(&long), Err(JournalError::TooLong { .. })));
    journal.append(&entry(1)).unwrap();
}
