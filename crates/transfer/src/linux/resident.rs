//! The address space of a process in which pages are missing, by its userfaultfd.

use crate::pager::{Happening, Placed, Resident};
use ferry_sys::userfaultfd::{self, Event, MissingPages};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// One address space, held from outside. While it is held, what is missing in it is never zero.
#[derive(Debug)]
pub struct MissingMemory(MissingPages);

impl MissingMemory {
    /// Serves what was agreed on with the kernel before; what is missing has been registered.
    #[must_use]
    pub fn new(pages: MissingPages) -> Self {
        Self(pages)
    }
}

impl AsFd for MissingMemory {
    /// Readable when something has happened.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Resident for MissingMemory {
    fn happenings(&mut self) -> io::Result<Vec<Happening<Self>>> {
        let mut all = Vec::new();
        loop {
            let events = self.0.events()?;
            if events.is_empty() {
                return Ok(all);
            }
            all.extend(events.into_iter().map(|event| match event {
                Event::Fault { address } => Happening::Fault { address },
                Event::Fork { pages } => Happening::Fork { child: Self(pages) },
                Event::Remap { from, to, len } => Happening::Remap { from, to, len },
                Event::Remove { start, end } | Event::Unmap { start, end } => {
                    Happening::Forget { start, end }
                }
            }));
        }
    }

    fn place(&self, address: u64, bytes: &[u8]) -> io::Result<Placed> {
        self.0.place(address, bytes).map(placed)
    }

    fn place_zero(&self, address: u64, len: u64) -> io::Result<Placed> {
        self.0.place_zero(address, len).map(placed)
    }

    fn wake(&self, address: u64, len: u64) -> io::Result<()> {
        self.0.wake(address, len)
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
