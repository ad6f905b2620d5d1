//! The pager's process: what somebody waits for first, everything else in the background.

use super::handover::{self, Deaf};
use super::ledger::{Known, Ledger};
use super::standing::{Standing, Step};
use super::ways::Way;
use ferry_sys::fork;
use ferry_sys::say::say;
use ferry_sys::schedule;
use ferry_sys::userfaultfd::{self, Event, EventLog, MissingPages};
use ferry_transfer::engine::RangeSet;
use ferry_transfer::pager::{Happening, PREFETCH_BYTES, Pager, Placed, Resident, Wanted};
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId};
use ferry_transfer::wire::demand::Answer;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::time::Timespec;
use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

/// Bytes that are asked for at once in the background, which is what an answer has: a fault waits for at most one to be placed.
const CHUNK_BYTES: u64 = 64 << 10;

/// Bytes that are on the way while nobody waits, on each way: enough for a link of a gigabit per second and 16 ms.
const WINDOW_BYTES: u64 = 2 << 20;

/// The same while somebody does: the background yields, and does not stop.
const YIELDING_BYTES: u64 = 256 << 10;

/// The background begins when the workload runs, which is seen by the first page that it waits for: before, it would keep the host from
/// letting it run. After so long it begins in any case.
const STILL_MAX: Duration = Duration::from_millis(300);

/// What is asked for before, so that the first pages need not be waited for.
const EARLY_BYTES: u64 = 4 << 20;

/// How long after that first page: the next ones are waited for, too.
const QUIET: Duration = Duration::from_millis(10);

/// How often to look whether it is time for that.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// How far a fault may be from the one before so that whoever caused both goes forward.
const FORWARD_BYTES: u64 = 2 * PREFETCH_BYTES;

/// Answers that are taken from a background way before all else is looked at again.
const ANSWERS_AT_ONCE: usize = 4;

/// Bytes that are read from a way at once.
const READ_BYTES: usize = 128 << 10;

/// Bytes after which is written down what came: as much is asked for again at most if the pager dies.
const SNAPSHOT_EVERY_BYTES: u64 = 256 << 20;

/// Room in the log below which is written down what the events came to.
const ROOM_MIN: usize = 256;

/// How often what is missing is counted for others.
const COUNT_EVERY: Duration = Duration::from_millis(20);

/// How long to wait when the kernel refuses pages because a mapping changes.
const BEHIND: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000 };

/// How long to wait when nothing is to be done.
const IDLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What the process is given.
pub(super) struct Setup<'a> {
    pub(super) ledger: &'a Ledger,
    /// Readable when the shim has died.
    pub(super) shim: BorrowedFd<'a>,
    /// Readable when the shim wants something to be looked at.
    pub(super) bell: BorrowedFd<'a>,
    /// Where the numbers of children's userfaultfds are written, and -1 when the source has agreed.
    pub(super) news: BorrowedFd<'a>,
    /// What a predecessor was given: how often, and what it has left open.
    pub(super) ways_before: (u64, Vec<i32>),
    /// Where another shim comes after this one has died.
    pub(super) door: BorrowedFd<'a>,
}

/// Serves until it is released. Never returns: what the calling process had belongs to the shim.
pub(super) fn run(setup: &Setup<'_>) -> ! {
    let standing = setup.ledger.standing();
    let served = std::panic::catch_unwind(AssertUnwindSafe(|| Process::begin(setup)?.serve()));
    match served {
        Ok(Ok(())) => fork::exit_now(0),
        Ok(Err(error)) => {
            standing.set_failed(&error.to_string());
            say(format_args!("The pager failed: {error}"));
            fork::exit_now(1)
        }
        Err(_) => fork::exit_now(101),
    }
}

/// An address space whose events are read into the log.
#[derive(Debug)]
struct Heard<'a> {
    pages: MissingPages,
    log: &'a EventLog,
    news: BorrowedFd<'a>,
}

impl Resident for Heard<'_> {
    fn happenings(&mut self) -> io::Result<Vec<Happening<Self>>> {
        let mut all = Vec::new();
        // What does not fit is read when room has been made.
        while self.log.room() > 0 {
            let Some(event) = self.log.read(&self.pages)? else { break };
            all.push(match event {
                Event::Fault { address } => Happening::Fault { address },
                Event::Fork { pages } => {
                    tell(self.news, pages.as_fd().as_raw_fd());
                    Happening::Fork { child: Self { pages, log: self.log, news: self.news } }
                }
                Event::Remap { from, to, len } => Happening::Remap { from, to, len },
                Event::Remove { start, end } | Event::Unmap { start, end } => {
                    Happening::Forget { start, end }
                }
            });
        }
        Ok(all)
    }

    fn place(&self, address: u64, bytes: &[u8]) -> io::Result<Placed> {
        self.pages.place(address, bytes).map(placed)
    }

    fn place_zero(&self, address: u64, len: u64) -> io::Result<Placed> {
        self.pages.place_zero(address, len).map(placed)
    }

    fn wake(&self, address: u64, len: u64) -> io::Result<()> {
        self.pages.wake(address, len)
    }
}

fn placed(placed: userfaultfd::Placed) -> Placed {
    match placed {
        userfaultfd::Placed::Bytes(bytes) => Placed::Bytes(bytes),
        userfaultfd::Placed::Present => Placed::Present,
        userfaultfd::Placed::Changing => Placed::Changing,
        userfaultfd::Placed::NoMapping => Placed::NoMapping,
        userfaultfd::Placed::Gone => Placed::Gone,
    }
}

/// Tells the shim. When the pipe is full it has enough to do; a successor tells all once more.
fn tell(news: BorrowedFd<'_>, number: i32) {
    let _ = rustix::io::write(news, &number.to_ne_bytes());
}

/// Why an answer could not be used.
enum Trouble {
    /// The way is lost.
    Way,
    /// The workload's memory cannot be served any more.
    Memory(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Memory(error)
    }
}

struct Process<'a> {
    setup: &'a Setup<'a>,
    standing: Standing<'a>,
    pager: Pager<Heard<'a>>,
    known: Known,
    ways: Vec<Way>,
    ways_given: u64,
    /// Pages that somebody waits for, and since when.
    waiting: BTreeMap<(SpaceId, u64), Instant>,
    /// The page of each space that was waited for last.
    touched: BTreeMap<SpaceId, u64>,
    /// When the background begins; none before there is a way to the source.
    begins: Option<Instant>,
    /// Bytes that were asked for before.
    early_bytes: u64,
    since_snapshot: u64,
    counted: Instant,
    buffer: Vec<u8>,
    /// The shim has died.
    alone: bool,
}

impl<'a> Process<'a> {
    fn begin(setup: &'a Setup<'a>) -> io::Result<Self> {
        let _ = rustix::thread::set_name(c"ferry-pager");
        // Children of the workload need descriptors, in this process alone.
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let _ = fork::set_limit(fork::DESCRIPTORS_LIMIT, most.unwrap_or(u64::MAX), most.unwrap_or(u64::MAX));
        // Somebody always waits for it.
        schedule::precede();
        let standing = setup.ledger.standing();
        let mut known = setup.ledger.read()?;
        let mut residents = Vec::new();
        for (number, absent) in std::mem::take(&mut known.residents) {
            let Ok(fd) = fork::inherited(number) else { continue };
            tell(setup.news, number);
            let pages = MissingPages::taken_over(fd);
            residents.push((Heard { pages, log: &setup.ledger.log, news: setup.news }, absent));
        }
        let mut process = Self {
            setup,
            standing,
            pager: Pager::new(residents),
            known,
            ways: Vec::new(),
            ways_given: 0,
            waiting: BTreeMap::new(),
            touched: BTreeMap::new(),
            begins: None,
            early_bytes: 0,
            since_snapshot: 0,
            counted: Instant::now(),
            buffer: vec![0; READ_BYTES],
            alone: false,
        };
        standing.set_connected(false);
        process.count();
        // Those of a predecessor are in the middle of something: only ways that are given from now on are taken.
        process.ways_given = setup.ways_before.0;
        setup.ways_before.1.iter().for_each(|number| drop(fork::inherited(*number)));
        // Whoever was told to a predecessor that died touches the page once more.
        for resident in process.pager.residents() {
            resident.wake(userfaultfd::FIRST, userfaultfd::LENGTH)?;
        }
        Ok(process)
    }

    fn serve(mut self) -> io::Result<()> {
        loop {
            self.wait()?;
            self.follow_ways();
            if let Err(trouble) = self.attend().and_then(|()| self.take_background()) {
                self.lose(trouble)?;
            }
            if self.ask_background().is_err() || self.ways.iter_mut().any(|way| way.flush().is_err()) {
                self.lose(Trouble::Way)?;
            }
            self.settle()?;
            if self.standing.is_released() {
                return Ok(());
            }
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let early = self.begins.is_some_and(|begins| Instant::now() < begins);
        let time = match self.pager.is_behind() {
            true => BEHIND,
            false if early => SOON,
            false => IDLE,
        };
        let mut watched = vec![PollFd::from_borrowed_fd(self.setup.bell, PollFlags::IN)];
        let life = if self.alone { self.setup.door } else { self.setup.shim };
        watched.push(PollFd::from_borrowed_fd(life, PollFlags::IN));
        watched.extend(self.ways.iter().map(|way| PollFd::from_borrowed_fd(way.as_fd(), way.wants())));
        let residents = self.pager.residents();
        watched.extend(residents.map(|each| PollFd::from_borrowed_fd(each.pages.as_fd(), PollFlags::IN)));
        match poll(&mut watched, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |at: usize| !watched[at].revents().is_empty();
        let (rung, life) = (ready(0), ready(1));
        drop(watched);
        if rung {
            let _ = rustix::io::read(self.setup.bell, &mut [0; 8]);
        }
        match (life, self.alone) {
            (true, false) => {
                self.alone = true;
                self.close_all_else()
            }
            (true, true) => self.hand_over(),
            _ => Ok(()),
        }
    }

    /// The shim has died: what was its is to end with it, its lock and its connections too.
    fn close_all_else(&self) -> io::Result<()> {
        let mut kept: Vec<i32> = self.setup.ledger.files().map(|file| file.as_raw_fd()).to_vec();
        kept.extend([0, 1, 2]);
        kept.extend([self.setup.bell, self.setup.news, self.setup.door].map(|fd| fd.as_raw_fd()));
        kept.extend(self.ways.iter().map(|way| way.as_fd().as_raw_fd()));
        kept.extend(self.pager.residents().map(|each| each.pages.as_fd().as_raw_fd()));
        fork::keep_only(&kept)
    }

    /// Another shim is at the door: it gets everything, and has a pager of its own then. Nothing is read meanwhile.
    fn hand_over(&mut self) -> io::Result<()> {
        let residents: Vec<BorrowedFd<'_>> = self.pager.residents().map(|each| each.pages.as_fd()).collect();
        match handover::give(self.setup.door, self.setup.ledger, &residents) {
            Ok(()) => fork::exit_now(0),
            // It died before it had all.
            Err(Deaf) => Ok(()),
        }
    }

    fn follow_ways(&mut self) {
        let (given, numbers) = self.standing.ways();
        if given == self.ways_given {
            return;
        }
        self.ways.clear();
        self.ways_given = given;
        let streams = numbers.into_iter().filter_map(|number| fork::inherited(number).ok());
        self.ways = streams.filter_map(|stream: OwnedFd| Way::new(stream).ok()).collect();
        self.standing.set_connected(!self.ways.is_empty());
        self.pager.ask_again();
        let Some(first) = self.ways.first_mut() else { return };
        // After a restart it ran before.
        let still = if self.standing.restarts() > 0 { Duration::ZERO } else { STILL_MAX };
        self.begins.get_or_insert_with(|| Instant::now() + still);
        for (space, start) in self.waiting.keys() {
            let _ = first.asker.ask(*space, &[Range { start: *start, len: PAGE_SIZE }], true);
        }
        if self.standing.step() == Step::AllIn {
            self.say_all_in();
        }
    }

    fn lose(&mut self, trouble: Trouble) -> io::Result<()> {
        match trouble {
            Trouble::Memory(error) => Err(error),
            Trouble::Way => {
                self.standing.set_ways_closed(self.ways_given);
                self.ways.clear();
                self.standing.set_connected(false);
                self.pager.ask_again();
                Ok(())
            }
        }
    }

    /// What somebody waits for.
    fn attend(&mut self) -> Result<(), Trouble> {
        let wanted = self.pager.hear()?;
        self.ask(wanted)?;
        while self.take_answer(0)? {}
        Ok(())
    }

    fn ask(&mut self, wanted: Vec<Wanted>) -> Result<(), Trouble> {
        let now = Instant::now();
        for Wanted { space, ranges, .. } in wanted {
            let Some(first) = ranges.first().copied() else { continue };
            self.standing.add_fault();
            self.begins = self.begins.map(|begins| begins.min(now + QUIET));
            self.waiting.entry((space, first.start)).or_insert(now);
            if self.ways.is_empty() {
                continue;
            }
            // The page alone; what lies behind it follows, where it is in nobody's way.
            let page = Range { start: first.start, len: PAGE_SIZE };
            let mut rest = vec![Range { start: page.end(), len: first.len - PAGE_SIZE }];
            rest.extend(&ranges[1..]);
            rest.retain(|range| range.len > 0);
            let last = self.touched.insert(space, first.start);
            let forward = last.is_some_and(|last| (last..last + FORWARD_BYTES).contains(&first.start));
            let busy = !forward || self.ways[0].asker.awaited_bytes() > 0;
            let said = self.ways[0].asker.ask(space, &[page], true);
            let behind = if busy && self.ways.len() > 1 { 1 } else { 0 };
            said.and_then(|()| self.ways[behind].asker.ask(space, &rest, false)).map_err(|_| Trouble::Way)?;
            self.ways[0].flush().map_err(|_| Trouble::Way)?;
        }
        Ok(())
    }

    fn take_background(&mut self) -> Result<(), Trouble> {
        for at in 1..self.ways.len() {
            for _ in 0..ANSWERS_AT_ONCE {
                if at >= self.ways.len() || !self.take_answer(at)? {
                    break;
                }
                self.attend()?;
            }
        }
        Ok(())
    }

    /// Takes one answer, if one is here; whether there was.
    fn take_answer(&mut self, at: usize) -> Result<bool, Trouble> {
        let Self { ways, pager, known, standing, buffer, .. } = self;
        let Some(way) = ways.get_mut(at) else { return Ok(false) };
        // Twice, for borrows end only at a return.
        let mut is_here = way.asker.has_answer().map_err(|_| Trouble::Way)?;
        if !is_here {
            way.fill(buffer).map_err(|_| Trouble::Way)?;
            is_here = way.asker.has_answer().map_err(|_| Trouble::Way)?;
        }
        if !is_here {
            return Ok(false);
        }
        let (space, ranges, content) = match way.asker.answer().map_err(|_| Trouble::Way)? {
            None => return Ok(false),
            Some(Answer::Agreed) => {
                standing.set_step(Step::Agreed);
                tell(self.setup.news, -1);
                return Ok(true);
            }
            Some(Answer::Pages { space, ranges, content }) => (space, ranges, Some(content)),
            Some(Answer::Zero { space, ranges }) => (space, ranges, None),
        };
        let mut more = Vec::new();
        let (mut offset, mut zeros) = (0, Vec::new());
        for range in &ranges {
            let len = range.len as usize;
            let bytes = match content {
                Some(content) => &content[offset..offset + len],
                None => {
                    zeros.resize(len, 0);
                    &zeros[..len]
                }
            };
            offset += len;
            more.extend(pager.arrive(space, range.start, bytes)?);
            let waited = self.waiting.range((space, range.start)..(space, range.end()));
            let came: Vec<(SpaceId, u64)> = waited.map(|(place, _)| *place).collect();
            for place in came {
                if let Some(since) = self.waiting.remove(&place) {
                    standing.add_wait(since.elapsed());
                }
            }
            standing.add_placed(known.delivered.add(space, range, bytes));
        }
        self.since_snapshot += ranges.iter().map(|range| range.len).sum::<u64>();
        self.ask(more)?;
        Ok(true)
    }

    fn ask_background(&mut self) -> io::Result<()> {
        let early = self.begins.is_none_or(|begins| Instant::now() < begins);
        let first = usize::from(self.ways.len() > 1);
        let window = if self.waiting.is_empty() { WINDOW_BYTES } else { YIELDING_BYTES };
        for at in first..self.ways.len() {
            while !self.pager.is_behind() && self.ways[at].asker.awaited_bytes() < window {
                if early && self.early_bytes >= EARLY_BYTES {
                    return Ok(());
                }
                let Some(wanted) = self.pager.background(CHUNK_BYTES) else { return Ok(()) };
                self.early_bytes += wanted.ranges.iter().map(|range| range.len).sum::<u64>();
                self.ways[at].asker.ask(wanted.space, &wanted.ranges, false)?;
            }
        }
        Ok(())
    }

    fn count(&mut self) {
        self.standing.set_missing(self.pager.missing_bytes());
        self.counted = Instant::now();
    }

    /// Writes down what has to be, and sees whether all is in.
    fn settle(&mut self) -> io::Result<()> {
        if self.counted.elapsed() > COUNT_EVERY {
            self.count();
        }
        if self.setup.ledger.log.room() < ROOM_MIN || self.since_snapshot > SNAPSHOT_EVERY_BYTES {
            self.write_down()?;
        }
        if self.standing.step() == Step::Fetching && self.pager.is_complete() && !self.pager.is_behind() {
            // Written down before the source hears it, which ends then.
            self.write_down()?;
            self.count();
            self.standing.set_hash(self.known.delivered.sum.hash());
            self.standing.set_step(Step::AllIn);
            self.say_all_in();
        }
        Ok(())
    }

    fn write_down(&mut self) -> io::Result<()> {
        let number = |each: &Heard<'_>| each.pages.as_fd().as_raw_fd();
        self.known.residents =
            self.pager.parts().map(|(each, absent)| (number(each), absent.clone())).collect();
        self.setup.ledger.write(&self.known)?;
        self.known.residents.clear();
        self.since_snapshot = 0;
        Ok(())
    }

    fn say_all_in(&mut self) {
        // Not on the way that goes before everything: the source may have to read some of it once more.
        let Some(way) = self.ways.last_mut() else { return };
        let pages: Vec<(SpaceId, RangeSet)> =
            self.known.delivered.pages.iter().map(|(space, pages)| (*space, pages.to_set())).collect();
        // What cannot be said on this way is said on the next.
        let _ = way.asker.all_in(&pages, self.known.delivered.sum.hash());
        let _ = way.flush();
    }
}
