//! A descriptor that lives as long as the capsule, whatever becomes of who made it: its init holds it and gives it back. This is
//! how a workload keeps its terminal when the shim, which reads the master side, is killed.

use super::Capsule;
use super::error::{Doing, Error, Result};
use super::line::{self, AT_ONCE, Event, GIVE, HELD, HOLD, KEEP, LAST, LET_GO};
use super::run::Ended;
use ferry_sys::scm;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::RecvFlags;
use std::io;

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

    /// Has init hold copies of descriptors beside that one, each by a number; of one number the last.
    ///
    /// # Errors
    /// When init cannot be reached.
    pub fn hold(&mut self, descriptors: &[(i32, BorrowedFd<'_>)]) -> Result<()> {
        for part in descriptors.chunks(AT_ONCE) {
            let numbers = part.iter().flat_map(|(number, _)| number.to_le_bytes());
            let message: Vec<u8> = std::iter::once(HOLD).chain(numbers).collect();
            let passed: Vec<BorrowedFd<'_>> = part.iter().map(|(_, fd)| *fd).collect();
            scm::send(&self.line, &message, &passed).doing(|| "reach the capsule's init".into())?;
            self.kept_answer()?;
        }
        Ok(())
    }

    /// What init holds so.
    ///
    /// # Errors
    /// When init cannot be reached.
    pub fn held(&mut self) -> Result<Vec<(i32, OwnedFd)>> {
        let doing = || "hear from the capsule's init".into();
        scm::send(&self.line, &[HELD], &[]).doing(|| "reach the capsule's init".into())?;
        let mut all = Vec::new();
        loop {
            let mut buffer = [0; AT_ONCE * 4];
            let (len, passed) = scm::receive(&self.line, &mut buffer, RecvFlags::empty()).doing(doing)?;
            if len == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).doing(doing);
            }
            if !passed.is_empty() && passed.len() * 4 == len {
                let numbers = buffer[..len].chunks_exact(4);
                all.extend(numbers.map(|four| four.try_into().map_or(0, i32::from_le_bytes)).zip(passed));
                continue;
            }
            match Event::from_bytes(&buffer[..len]) {
                Some(Event::Kept) => return Ok(all),
                Some(Event::Ended(pid, status)) => self.ended.push_back(Ended { pid, status }),
                _ => return Err(Error::Invalid("The capsule's init said something unexpected".into())),
            }
        }
    }

    /// Has init let go of what it holds so.
    ///
    /// # Errors
    /// When init cannot be reached.
    pub fn let_go(&mut self) -> Result<()> {
        scm::send(&self.line, &[LET_GO], &[]).doing(|| "reach the capsule's init".into())?;
        self.kept_answer().map(drop)
    }

    /// Which process id was given last in the capsule, by a fork or to a thread. As long as it stays the same nobody was born, not even
    /// somebody who has ended since.
    ///
    /// # Errors
    /// When init cannot be reached.
    pub fn last_pid(&mut self) -> Result<i32> {
        scm::send(&self.line, &[LAST], &[]).doing(|| "reach the capsule's init".into())?;
        match self.answer()? {
            (Event::Last(pid), _) => Ok(pid),
            _ => Err(unexpected()),
        }
    }

    fn kept_answer(&mut self) -> Result<Option<OwnedFd>> {
        match self.answer()? {
            (Event::Kept, fd) => Ok(fd),
            _ => Err(unexpected()),
        }
    }

    /// What init says next, but for ends of its children.
    fn answer(&mut self) -> Result<(Event, Option<OwnedFd>)> {
        loop {
            match line::receive(self.line.as_fd(), true).doing(|| "hear from the capsule's init".into())? {
                Some((Event::Ended(pid, status), _)) => self.ended.push_back(Ended { pid, status }),
                Some(answer) => return Ok(answer),
                None => return Err(unexpected()),
            }
        }
    }
}

fn unexpected() -> Error {
    Error::Invalid("The capsule's init said something unexpected".into())
}
