//! The engine and the tracker together: a process writes all the time, rounds run, it is stopped, and the copy is the original.

use super::child::{DONTNEED, MADVISE, MREMAP, PAGE, PRIVATE, Tracked};
use super::start;
use ferry_transfer::engine::{Engine, Filler, Local, RangeSet};
use ferry_transfer::space::{PageSink, Range, SpaceId};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

/// Pages by address.
#[derive(Default)]
pub struct Copy(pub Mutex<BTreeMap<u64, Vec<u8>>>);

impl Copy {
    fn each(&self, ranges: &[Range], mut with: impl FnMut(&mut BTreeMap<u64, Vec<u8>>, u64)) {
        let mut all = self.0.lock().unwrap();
        ranges
            .iter()
            .flat_map(|range| (range.start..range.end()).step_by(4096))
            .for_each(|at| with(&mut all, at));
    }
}

impl PageSink for &Copy {
    fn write(&self, _: SpaceId, address: u64, bytes: &[u8]) -> io::Result<()> {
        let mut parts = bytes.chunks_exact(4096);
        let range = Range { start: address, len: bytes.len() as u64 };
        self.each(&[range], |all, at| drop(all.insert(at, parts.next().unwrap().to_vec())));
        Ok(())
    }
}

impl Filler for &Copy {
    fn zero(&self, _: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.each(ranges, |all, at| drop(all.insert(at, vec![0; 4096])));
        Ok(())
    }
}

/// Every private page that the process has now is in the copy, as it is; what the copy has beyond that was given back.
fn assert_equal(child: &Tracked, copy: &Copy) {
    let maps = ferry_sys::proc::read(child.pid(), "maps").unwrap();
    let maps = ferry_sys::proc::maps::parse(&maps).unwrap();
    let private = maps.iter().filter(|mapping| !mapping.shared && mapping.end < 1 << 63);
    let private: Vec<_> = private.map(|mapping| (mapping.start, mapping.end, false)).collect();
    let content = ferry_sys::pagemap::private_content(child.pid(), &private).unwrap().0;
    let content: RangeSet =
        content.iter().map(|region| Range { start: region.start, len: region.end - region.start }).collect();
    let copy = copy.0.lock().unwrap();
    let copied: RangeSet = copy.keys().map(|at| Range { start: *at, len: PAGE }).collect();
    assert_eq!(content.difference(&copied), RangeSet::default());
    let mut page = vec![0; 4096];
    for (at, copied) in copy.iter() {
        if private.iter().all(|(start, end, _)| !(*start..*end).contains(at)) {
            assert!(copied.iter().all(|byte| *byte == 0), "{at:#x} is not mapped any more");
            continue;
        }
        assert_eq!(ferry_sys::process_vm::read(child.pid(), *at, &mut page).unwrap(), 4096);
        assert!(page == *copied, "{at:#x} differs");
    }
}

#[test]
fn a_process_that_writes_all_the_time_is_copied_exactly() {
    let (_file, mut child) = start();
    let at = child.map(None, 2000, PRIVATE);
    let other = child.map(None, 64, PRIVATE);
    child.write(other, 0..64, 3);
    let copy = Copy::default();
    let mut engine = Engine::arm(vec![child.tracker()]).unwrap();
    child.tell(&format!("storm {at} 2000"));
    let mut rounds = Vec::new();
    for number in 0..12_u64 {
        rounds.push(engine.round(&mut Local(&copy), &|| false).unwrap());
        // While it writes, its mappings change, too.
        match number {
            2 => drop(child.call(MADVISE, &[(other + 8 * PAGE) as i64, 8 * PAGE as i64, DONTNEED])),
            4 => drop(child.call(MREMAP, &[other as i64, 64 * PAGE as i64, 4096 * PAGE as i64, 1])),
            6 => {
                let fresh = child.map(Some(other), 16, PRIVATE);
                child.write(fresh, [0, 15], 9);
            }
            _ => {}
        }
    }
    assert!(rounds[1..].iter().any(|round| round.dirty_bytes > 0), "{rounds:?}");
    assert!(rounds.iter().any(|round| round.discarded_bytes >= 8 * PAGE), "{rounds:?}");
    // What only the scan of the process that stands still can find.
    child.call(MADVISE, &[(at + 100 * PAGE) as i64, 8 * PAGE as i64, DONTNEED]);
    let latest = child.map(None, 600, PRIVATE);
    child.write(latest, 5..300, 4);
    let pid = Pid::from_raw(child.pid()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    wait_until_stopped(child.pid());
    let still = engine.still_round(&mut Local(&copy), &|| false).unwrap();
    assert!(still.dirty_bytes >= 295 * PAGE && engine.is_done(), "{still:?}");
    let last = engine.last_round(&mut Local(&copy), &|| false).unwrap();
    assert_eq!((last.sent_bytes, last.zero_bytes, last.discarded_bytes), (0, 0, 0));
    assert_equal(&child, &copy);
    // Untracked again and let go, it works as before.
    engine.disarm().unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    child.tell("calm");
    child.write(other, [1], 1);
    assert!(last.last && last.skipped_bytes == 0);
}

/// All of its threads: the state of one says nothing of the others.
pub fn wait_until_stopped(pid: i32) {
    let begin = std::time::Instant::now();
    loop {
        let tasks = ferry_sys::proc::numbers(&format!("/proc/{pid}/task")).unwrap();
        let stopped = tasks.iter().all(|tid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        });
        if stopped {
            return;
        }
        assert!(begin.elapsed().as_secs() < 60, "it does not stop");
        std::thread::yield_now();
    }
}
