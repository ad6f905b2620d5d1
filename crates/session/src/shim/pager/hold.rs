//! The shim's side: it starts the pager, and another when that one dies; it answers for it, and takes over from one that has lost its shim.

use super::handover::{self, Given};
use super::ledger::{Known, Ledger};
use super::process::{self, Setup};
use super::standing::Step;
use crate::shim::protocol::PagerStatus;
use ferry_process::restore::Held;
use ferry_sys::fork::{self, Clone3, Forked};
use ferry_transfer::pager::Absent;
use ferry_transfer::wire::demand::{Delivered, PageSum};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A pager that lives shorter has not got anywhere.
const SHORT: Duration = Duration::from_secs(1);

/// Pagers in a row that got nowhere, after which no other is started. The workload waits, and nothing is lost.
const SHORT_MAX: u32 = 50;

/// Missing memory of a workload, and who serves it. Dropping it lets go of the memory: what is missing then would read as zero, so the
/// workload must have ended.
pub(in crate::shim) struct Hold {
    dir: PathBuf,
    ledger: Ledger,
    /// Wakes the pager.
    bell: OwnedFd,
    /// What the pager tells: reading end, writing end.
    news: (OwnedFd, OwnedFd),
    door: OwnedFd,
    /// This process.
    shim: OwnedFd,
    pager: Option<Running>,
    short: u32,
}

struct Running {
    pid: i32,
    pidfd: OwnedFd,
    since: Instant,
}

/// What a workload of which nothing is missing answers.
pub(in crate::shim) fn nothing_missing() -> PagerStatus {
    PagerStatus { complete: Some(PageSum::default().hash()), ..PagerStatus::default() }
}

/// What has happened to a pager since the last look.
#[derive(Debug, Default)]
pub(in crate::shim) struct News {
    /// Userfaultfds, by their numbers in the table, of which init is to have copies.
    pub(in crate::shim) fresh: Vec<(i32, OwnedFd)>,
    /// The source has agreed that all is in: init is to let go, and then [`Hold::release`].
    pub(in crate::shim) agreed: bool,
}

impl Hold {
    /// Starts a pager for memory that has just been registered.
    pub(in crate::shim) fn begin(dir: &Path, held: Vec<Held>) -> io::Result<Self> {
        let resident = |each: Held| {
            let absent = Absent::new(each.space, &each.missing);
            (each.pages.into_fd().into_raw_fd(), absent)
        };
        let residents: Vec<(i32, Absent)> = held.into_iter().map(resident).collect();
        let missing = residents.iter().map(|(_, absent)| absent.bytes()).sum();
        let mut hold = Self::make(dir, &Known { residents, delivered: Delivered::default() })?;
        // The pager counts them when it gets to run; whoever asks before that is not to hear of none.
        hold.ledger.standing().set_missing(missing);
        hold.start()?;
        Ok(hold)
    }

    /// Takes over from the pager of a shim that has died; where that pager has died, too, what init holds: the userfaultfds and, with
    /// numbers below zero, the ledger. None: nobody holds anything.
    pub(in crate::shim) fn take_over(
        dir: &Path,
        by_init: impl FnOnce() -> io::Result<Vec<(i32, OwnedFd)>>,
    ) -> io::Result<Option<Self>> {
        let mut hold = match handover::take(dir)? {
            Some(Given { files, residents, line }) => {
                let hold = Self::after(dir, &Ledger::open(files)?, residents)?;
                line.confirm()?;
                hold
            }
            None => {
                let held = by_init()?;
                if held.is_empty() {
                    return Ok(None);
                }
                let (mut files, residents): (Vec<_>, Vec<_>) =
                    held.into_iter().partition(|(number, _)| *number < 0);
                files.sort_by_key(|(number, _)| -number);
                let files = files.into_iter().map(|(_, file)| file).collect();
                Self::after(dir, &Ledger::open(files)?, residents)?
            }
        };
        hold.ledger.standing().add_restart();
        hold.start()?;
        Ok(Some(hold))
    }

    /// What another ledger says, with the numbers of this table.
    fn after(dir: &Path, before: &Ledger, residents: Vec<(i32, OwnedFd)>) -> io::Result<Self> {
        let mut known = before.read()?;
        let mut renamed = Vec::new();
        for (number, fd) in residents {
            // Of several with one number only the last lives.
            if let Some(at) = known.residents.iter().position(|(old, _)| *old == number) {
                let (_, absent) = known.residents.swap_remove(at);
                renamed.push((fd.into_raw_fd(), absent));
            }
        }
        known.residents = renamed;
        let hold = Self::make(dir, &known)?;
        hold.ledger.standing().copy(before.standing());
        Ok(hold)
    }

    fn make(dir: &Path, known: &Known) -> io::Result<Self> {
        let this = Pid::from_raw(std::process::id().cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            dir: dir.to_owned(),
            ledger: Ledger::create(known)?,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            news: pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?,
            door: handover::door(dir)?,
            shim: pidfd_open(this, PidfdFlags::empty())?,
            pager: None,
            short: 0,
        })
    }

    fn start(&mut self) -> io::Result<()> {
        let setup = Setup {
            ledger: &self.ledger,
            shim: self.shim.as_fd(),
            bell: self.bell.as_fd(),
            news: self.news.1.as_fd(),
            door: self.door.as_fd(),
            ways_before: self.ledger.standing().ways(),
        };
        // Whatever the child does next, nobody else closes them.
        self.ledger.standing().set_ways_closed(setup.ways_before.0);
        let how = Clone3 {
            flags: fork::SHARED_DESCRIPTORS,
            exit_signal: fork::CHILD_ENDED,
            pidfd: true,
            ..Clone3::default()
        };
        match fork::clone3(&how)? {
            Forked::Child => process::run(&setup),
            Forked::Parent(pid, Some(pidfd)) => {
                self.pager = Some(Running { pid, pidfd, since: Instant::now() });
                Ok(())
            }
            Forked::Parent(_, None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Readable when [`Self::look`] has something to do.
    pub(in crate::shim) fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let pager = self.pager.iter().map(|pager| pager.pidfd.as_fd());
        std::iter::once(self.news.0.as_fd()).chain(pager)
    }

    /// Starts another pager if it has died, and says what is new.
    pub(in crate::shim) fn look(&mut self) -> News {
        let mut news = News::default();
        let mut words = [0; 4096];
        while let Ok(len) = rustix::io::read(&self.news.0, &mut words)
            && len > 0
        {
            let numbers = words[..len].chunks_exact(4);
            for number in numbers.map(|word| word.try_into().map_or(-1, i32::from_ne_bytes)) {
                if let Ok(copy) = fork::copy_of(number) {
                    news.fresh.push((number, copy));
                }
            }
        }
        let standing = self.ledger.standing();
        news.agreed = standing.step() == Step::Agreed && !standing.is_released();
        let ended =
            self.pager.take_if(|pager| fork::wait(pager.pid, false).is_ok_and(|ended| ended.is_some()));
        if let Some(ended) = ended
            && !standing.is_released()
        {
            self.short = if ended.since.elapsed() < SHORT { self.short + 1 } else { 0 };
            standing.add_restart();
            if self.short > SHORT_MAX {
                standing.set_failed("the pager ends again and again; what is missing stays missing");
            } else if let Err(error) = self.start() {
                self.ledger.standing().set_failed(&format!("no other pager could be started: {error}"));
            }
        }
        news
    }

    /// Copies for init, as [`Self::take_over`] wants them back: the ledger.
    pub(in crate::shim) fn files(&self) -> Vec<(i32, BorrowedFd<'_>)> {
        (1..).map(|number: i32| -number).zip(self.ledger.files()).collect()
    }

    /// Gives the pager other ways to the source.
    pub(in crate::shim) fn give(&self, ways: Vec<OwnedFd>) {
        // They are the pager's from here on, which shares the table.
        let numbers: Vec<i32> = ways.into_iter().map(IntoRawFd::into_raw_fd).collect();
        self.ledger.standing().give_ways(&numbers);
        self.ring();
    }

    /// Init has let go: the pager may, too.
    pub(in crate::shim) fn release(&self) {
        self.ledger.standing().set_released();
        self.ring();
    }

    /// Whether the pager has let go of everything and has ended.
    pub(in crate::shim) fn is_over(&self) -> bool {
        self.ledger.standing().is_released() && self.pager.is_none()
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// How far it is.
    pub(in crate::shim) fn status(&self) -> PagerStatus {
        self.ledger.standing().status()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        handover::remove_door(&self.dir);
        if let Some(pager) = self.pager.take() {
            if let Some(pid) = Pid::from_raw(pager.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = fork::wait(pager.pid, true);
        }
        if self.ledger.standing().is_released() {
            return;
        }
        for (number, _) in self.ledger.read().unwrap_or_default().residents {
            drop(fork::inherited(number));
        }
    }
}
