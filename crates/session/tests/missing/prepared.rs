//! What is prepared before the memory of a workload begins to be missing, and what is refused.

use super::moving::Move;
use ferry_session::shim::Spec;
use ferry_session::shim::client::Client;
use ferry_session::shim::protocol::Phase;
use ferry_transfer::access::Missing;
use ferry_transfer::linux::{LinuxSink, LinuxSource};
use ferry_transfer::space::{PageSink, PageSource};
use std::path::PathBuf;
use std::time::Duration;

/// As after the rounds of a hybrid move: old content in some of the pages, and others that were only looked at.
pub fn stale() {
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

pub fn opened_early() {
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

pub fn refused() {
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
