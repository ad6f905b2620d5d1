//! The pager over a real process, which touches, forks, moves, unmaps and gives back memory that has not come yet, and verifies every
//! byte. The source is slow, loses everything once, and answers out of order.

use ferry_sys::userfaultfd::MissingPages;
use ferry_transfer::linux::MissingMemory;
use ferry_transfer::pager::{Absent, Pager, Wanted};
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::time::Timespec;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SPACE: SpaceId = SpaceId(1);

/// How long everything may take on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(60);

fn content(base: u64, range: &Range) -> Vec<u8> {
    let pages = (range.start..range.end()).step_by(PAGE_SIZE as usize).map(|at| (at - base) / PAGE_SIZE);
    pages.flat_map(|page| std::iter::repeat_n(((page * 7 + 3) % 251) as u8, PAGE_SIZE as usize)).collect()
}

#[test]
fn a_process_that_lives_in_missing_memory_never_sees_anything_else() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pager/child.py");
    let mut command = Command::new("python3");
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python3 is one of the packages that tests need");
    let (mut to, mut from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    let words: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [at, pages, fd] = words[..] else { panic!("{line:?}") };

    let pidfd = pidfd_open(Pid::from_raw(child.id() as i32).unwrap(), PidfdFlags::empty()).unwrap();
    let userfaultfd = pidfd_getfd(pidfd, fd as i32, PidfdGetfdFlags::empty()).unwrap();
    let missing = MissingPages::begin(userfaultfd).unwrap();
    let whole = Range { start: at, len: pages * PAGE_SIZE };
    missing.expect(whole.start, whole.len).unwrap();
    let mut pager = Pager::new(vec![(MissingMemory::new(missing), Absent::new(SPACE, &[whole]))]);
    // From here on all that it needs has to come from us.
    let (said, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in from.lines().map_while(Result::ok) {
            let _ = said.send(line);
        }
    });
    writeln!(to).unwrap();

    let began = Instant::now();
    let mut on_the_way: VecDeque<Wanted> = VecDeque::new();
    let (mut lost, mut lived, mut turns) = (false, false, 0_u64);
    while !(lived && pager.is_complete()) {
        assert!(began.elapsed() < TIME_MAX, "{} bytes are still missing", pager.missing_bytes());
        for line in hears.try_iter() {
            assert_eq!(line, "lived");
            lived = true;
        }
        let mut fds: Vec<PollFd<'_>> =
            pager.residents().map(|resident| PollFd::new(resident, PollFlags::IN)).collect();
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 500_000 }));
        drop(fds);
        on_the_way.extend(pager.hear().unwrap());
        turns += 1;
        if on_the_way.len() < 3 && turns % 3 == 0 {
            on_the_way.extend(pager.background(16 * PAGE_SIZE));
        }
        if turns == 60 && !lost {
            // The way to the source breaks; another one begins anew.
            lost = true;
            on_the_way.clear();
            pager.ask_again();
        }
        // Mostly the newest first, which is out of order.
        let next = if turns % 4 == 0 { on_the_way.pop_front() } else { on_the_way.pop_back() };
        for range in next.iter().flat_map(|wanted| &wanted.ranges) {
            let more = pager.arrive(SPACE, range.start, &content(at, range)).unwrap();
            on_the_way.extend(more);
        }
    }
    // Nobody serves it any more: what had not come would be zero now.
    drop(pager);
    writeln!(to).unwrap();
    let last = hears.recv_timeout(TIME_MAX).unwrap();
    assert_eq!(last, "OK");
    assert!(child.wait().unwrap().success());
}
