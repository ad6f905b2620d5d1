//! An address space whose writes can be tracked.

use super::range_set::RangeSet;
use crate::space::{Range, SpaceId};
use std::io;

/// A range that cannot be tracked: what it holds travels in the pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untracked {
    /// The range.
    pub range: Range,
    /// What it is and why, in words: `shared memory /dev/shm/x: others may write to it`.
    pub why: String,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Pages with content that were written since the scan before, or never reported. In the same instant as each was looked at it
    /// was protected: a later write is found by the next scan.
    pub dirty: RangeSet,
    /// All pages with content, tracked or not. A page that is neither here nor in `dirty` has no content (any more): its mapping is
    /// gone, or it was given back.
    pub content: RangeSet,
    /// Where a page without content does not read as zero: private mappings of files, tracked or not. If the target was sent content
    /// there, it is read and sent again.
    pub backed: RangeSet,
    /// What is not tracked; its content is in `content`, not in `dirty`.
    pub untracked: Vec<Untracked>,
}

/// An address space to be tracked. All methods may be called while others write to it.
pub trait TrackedSpace: Send {
    /// Which one.
    fn id(&self) -> SpaceId;

    /// Begins anew: the next scan reports all content as dirty.
    ///
    /// # Errors
    /// Tracking is not possible at all. Then nothing is armed.
    fn arm(&mut self) -> io::Result<()>;

    /// What was written since the scan before, protected again. Memory that appeared is found, and tracked from now on if it can be:
    /// then all its content is dirty.
    ///
    /// # Errors
    /// What was written is unknown. The next scan that succeeds reports all content.
    fn scan(&mut self) -> io::Result<Found>;

    /// As [`Self::scan`], for the last time: nobody writes any more, so nothing need be protected for a next one.
    ///
    /// # Errors
    /// As [`Self::scan`].
    fn scan_still(&mut self) -> io::Result<Found> {
        self.scan()
    }

    /// Fills `buffer` with the content of `ranges`, one after the other; their lengths add up to the buffer's. What is written
    /// meanwhile may be torn: it is dirty, and read again.
    ///
    /// # Errors
    /// A page is gone.
    fn read(&self, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()>;

    /// Whether it learns by the scans of others what was written to it: then it is scanned after them.
    fn is_told_by_others(&self) -> bool {
        false
    }

    /// Ends the tracking; the workload's memory is as it was before. Does nothing when it is not armed.
    ///
    /// # Errors
    /// A part is still tracked.
    fn disarm(&mut self) -> io::Result<()>;
}

impl<S: TrackedSpace + ?Sized> TrackedSpace for Box<S> {
    fn id(&self) -> SpaceId {
        (**self).id()
    }

    fn arm(&mut self) -> io::Result<()> {
        (**self).arm()
    }

    fn scan(&mut self) -> io::Result<Found> {
        (**self).scan()
    }

    fn scan_still(&mut self) -> io::Result<Found> {
        (**self).scan_still()
    }

    fn read(&self, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        (**self).read(ranges, buffer)
    }

    fn is_told_by_others(&self) -> bool {
        (**self).is_told_by_others()
    }

    fn disarm(&mut self) -> io::Result<()> {
        (**self).disarm()
    }
}
