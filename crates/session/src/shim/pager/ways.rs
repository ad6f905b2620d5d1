//! The ways to the source: sockets that are never waited for, one at a time.

use ferry_transfer::wire::demand::Asker;
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::fs::File;
use std::io::{self, Read, Write};

/// One of them.
pub(super) struct Way {
    stream: File,
    pub(super) asker: Asker,
}

impl Way {
    pub(super) fn new(stream: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&stream, true)?;
        Ok(Self { stream: stream.into(), asker: Asker::default() })
    }

    pub(super) fn wants(&self) -> PollFlags {
        if self.asker.outgoing().is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// Writes what waits, as much as goes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.asker.outgoing().is_empty() {
            match self.stream.write(self.asker.outgoing()) {
                Ok(count) => self.asker.wrote(count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes what has come, at most a buffer full; whether there was anything.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.asker.came(&buffer[..count]);
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Way {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
