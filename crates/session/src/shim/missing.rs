//! A workload that begins to run before all of its memory is there, as its shim sees it.

use super::pager::{Hold, nothing_missing};
use super::protocol::{PagerStatus, Phase};
use super::workload::{FREEZE_TIME_MAX, Workload, no_capsule, unable};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::Hash;
use ferry_process::capsule::Capsule;
use ferry_process::restore::Held;
use ferry_sys::say::say;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::io;

impl Workload {
    /// Starts the pager for what a restore has left missing. Init holds all of it, too, before anybody is told that it is prepared.
    pub(super) fn hold_back(&mut self, held: Vec<Held>) -> Result<()> {
        if held.is_empty() {
            return Ok(());
        }
        let capsule = self.capsule.as_mut().ok_or_else(no_capsule)?;
        let numbers: Vec<(i32, BorrowedFd<'_>)> =
            held.iter().map(|each| (each.pages.as_fd().as_raw_fd(), each.pages.as_fd())).collect();
        capsule.hold(&numbers)?;
        let hold = Hold::begin(&self.dir, held).map_err(|e| unable("The pager could not be started", &e))?;
        let hold = self.pager.insert(hold);
        capsule.hold(&hold.files())?;
        if let Some(record) = &mut self.record {
            record.missing = Some(true);
        }
        Ok(())
    }

    /// Takes over from the pager of a shim that was killed.
    pub(super) fn regain_pager(&mut self) -> Result<()> {
        let missing = self.record.as_ref().is_some_and(|record| record.missing == Some(true));
        let Some(capsule) = self.capsule.as_mut().filter(|_| missing) else { return Ok(()) };
        let by_init = || capsule.held().map_err(|e| io::Error::other(e.to_string()));
        let hold = Hold::take_over(&self.dir, by_init);
        let hold = hold.map_err(|e| unable("The workload's missing memory could not be taken over", &e))?;
        let Some(hold) = hold else {
            // All was in before the pager let go of it, and its shim died before it had written that nobody holds it any more.
            if let Some(record) = self.record.as_mut().filter(|record| record.all_in.is_some()) {
                record.missing = None;
                return Ok(());
            }
            let what = "Nobody holds the workload's missing memory any more";
            return Err(Error::new(Kind::Unable, what));
        };
        // The numbers are others now. What is missing is safe here meanwhile.
        capsule.let_go()?;
        capsule.hold(&hold.files())?;
        self.pager = Some(hold);
        Ok(())
    }

    /// What the pager has told, and whether it lives.
    pub(super) fn look_after_pager(&mut self) {
        let Some(hold) = &mut self.pager else { return };
        let news = hold.look();
        if !news.fresh.is_empty()
            && let Some(capsule) = &mut self.capsule
        {
            let fresh: Vec<(i32, BorrowedFd<'_>)> =
                news.fresh.iter().map(|(number, fd)| (*number, fd.as_fd())).collect();
            if let Err(error) = capsule.hold(&fresh) {
                say(format_args!("The capsule's init does not hold missing memory: {error}"));
            }
        }
        if news.agreed {
            let all_in = hold.status().complete;
            self.let_pager_go(all_in);
        }
        if self.pager.as_ref().is_some_and(Hold::is_over) {
            self.paged = self.pager.take().map(|hold| hold.status());
        }
    }

    /// Everything is in. That is on disk before the first of its holders lets go: a shim that comes later finds it there, or finds them.
    /// While it cannot be written, nobody lets go; the next round tries again.
    fn let_pager_go(&mut self, all_in: Option<Hash>) {
        let Some(record) = &mut self.record else { return };
        record.all_in = all_in;
        if let Err(error) = self.save() {
            if !std::mem::replace(&mut self.unwritten, true) {
                say(format_args!("{error}: the pager stays until it is"));
            }
            return;
        }
        self.unwritten = false;
        if let Some(Err(error)) = self.capsule.as_mut().map(Capsule::let_go) {
            say(format_args!("The capsule's init does not let go of memory that has come: {error}"));
        }
        if let Some(hold) = &self.pager {
            hold.release();
        }
        if let Some(record) = &mut self.record {
            // On disk with whatever is written next. Until then a shim that comes looks for a pager that has gone, and knows why.
            record.missing = None;
        }
    }

    /// Other ways to the source of missing pages.
    pub(super) fn give_ways(&mut self, ways: Vec<OwnedFd>) -> Result<()> {
        self.require(&[Phase::Prepared, Phase::Running, Phase::Exited], "be given pages")?;
        if let Some(hold) = &self.pager {
            hold.give(ways);
        }
        Ok(())
    }

    /// How far its pager is.
    pub(super) fn pager_status(&mut self) -> Result<PagerStatus> {
        self.look_after_pager();
        if let Some(hold) = &self.pager {
            return Ok(hold.status());
        }
        if let Some(status) = &self.paged {
            return Ok(status.clone());
        }
        self.require(&[Phase::Prepared, Phase::Running, Phase::Exited, Phase::Held], "have a pager")?;
        let all_in = self.record.as_ref().and_then(|record| record.all_in);
        let nothing = nothing_missing();
        // What has ended before all of it was in never gets the rest.
        let nothing_was = nothing.complete.filter(|_| self.phase() != Phase::Exited);
        Ok(PagerStatus { complete: all_in.or(nothing_was), ..nothing })
    }

    /// The pages will never come. Who waits for one waits on; a task that does so in the middle of a system call does not freeze, and runs
    /// in circles in the kernel until it is killed.
    pub(super) fn hold_for_good(&mut self) -> Result<()> {
        if self.phase() == Phase::Held {
            return Ok(());
        }
        self.require(&[Phase::Prepared, Phase::Running], "be held")?;
        if self.pager.is_none() {
            return Err(Error::new(Kind::Refused, "Nothing of the workload's memory is missing"));
        }
        let cgroup = self.cgroup()?;
        cgroup.freeze().map_err(|e| unable("The workload could not be frozen", &e))?;
        if let Err(error) = cgroup.wait_frozen(FREEZE_TIME_MAX / 10) {
            say(format_args!("Not all of the workload is frozen: {error}"));
        }
        self.set_phase(Phase::Held)
    }

    /// Refuses what needs all of the memory.
    pub(super) fn require_whole(&self, what: &str) -> Result<()> {
        match &self.pager {
            None => Ok(()),
            Some(_) => {
                let message =
                    format!("Memory of the workload is still on its way here: it cannot {what} yet");
                Err(Error::new(Kind::Refused, message).hint("wait until its move is complete"))
            }
        }
    }
}
