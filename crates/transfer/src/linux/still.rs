//! A space whose writes nobody tracks: it is read once, in the pause.
//!
//! Shared memory objects, and processes in which no userfaultfd could be opened. To the engine it is one whose content is all
//! untracked, so that it waits for the last round.

use super::opened::Opened;
use crate::access::SpaceAccess;
use crate::engine::{Found, TrackedSpace, Untracked};
use crate::space::{Range, SpaceId};
use std::io;

/// One space of stopped tasks.
pub struct StillSpace {
    space: SpaceId,
    opened: Opened,
    ranges: Vec<Range>,
}

impl StillSpace {
    /// Opens it. Its ranges are those that hold content.
    ///
    /// # Errors
    /// The task is gone, or this process may not read it.
    pub fn open(access: SpaceAccess) -> io::Result<Self> {
        let opened = Opened::open(&access.via, false)?;
        Ok(Self { space: access.space, opened, ranges: access.ranges })
    }
}

impl TrackedSpace for StillSpace {
    fn id(&self) -> SpaceId {
        self.space
    }

    fn arm(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn scan(&mut self) -> io::Result<Found> {
        // One for all of it: there may be a million of ranges.
        let whole = self.ranges.first().zip(self.ranges.last()).map(|(first, last)| Untracked {
            range: Range { start: first.start, len: last.end() - first.start },
            why: "nothing can tell what was written to it".to_owned(),
        });
        Ok(Found {
            content: self.ranges.iter().copied().collect(),
            untracked: whole.into_iter().collect(),
            ..Found::default()
        })
    }

    fn read(&self, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        self.opened.read_ranges(ranges, buffer)
    }

    fn disarm(&mut self) -> io::Result<()> {
        Ok(())
    }
}
