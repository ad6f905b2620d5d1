//! A descriptor that lives as long as the capsule, whatever becomes of who made it: its init holds it and gives it back. This is
//! how a workload keeps its terminal when the shim, which reads the master side, is killed.

use super::Capsule;
use super::error::{Doing, Error, Result};
use super::line::{self, Event, GIVE, KEEP};
use super::run::Ended;
use ferry_sys::scm;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

impl Capsule {
    /// Has init hold a copy of `fd`, instead of what it may have held before.
    ///
    /// # Errors
    /// When init cannot be reached.
    pub fn keep(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        scm::send(&self.line, &[KEEP], &[fd]).doing(|| "reach the capsule's init".into())?;
        self.kept_answer().map(drop)
    }

    /// What init holds, if it holds something.
    ///
    /// # Errors
    /// When init cannot be reached.
    pub fn kept(&mut self) -> Result<Option<OwnedFd>> {
        scm::send(&self.line, &[GIVE], &[]).doing(|| "reach the capsule's init".into())?;
        self.kept_answer()
    }

    fn kept_answer(&mut self) -> Result<Option<OwnedFd>> {
        loop {
            match line::receive(self.line.as_fd(), true).doing(|| "hear from the capsule's init".into())? {
                Some((Event::Kept, fd)) => return Ok(fd),
                Some((Event::Ended(pid, status), _)) => self.ended.push_back(Ended { pid, status }),
                _ => return Err(Error::Invalid("The capsule's init said something unexpected".into())),
            }
        }
    }
}
