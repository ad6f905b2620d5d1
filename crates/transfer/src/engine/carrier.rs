//! What brings pages to the other side, and what takes them there.

use crate::space::{PageSink, Range, SpaceId};
use std::io;

/// A way for pages to the other side. One is used for any number of rounds; after an error it is not used again. Between two calls of
/// [`Self::settle`] no page is handed over twice, so what lies between them may arrive in any order.
///
/// What is handed over is owned from then on: an implementation queues it for threads of its own and returns, so that the next pages
/// are read while these are on their way; it blocks when its queue is full.
///
/// What the implementer owes: once a call has failed, nothing of what was handed over may reach the target any more before the next
/// carrier's first call does. Else an old page could come after a new one.
pub trait Carrier {
    /// A buffer for [`Self::pages`], of any length: one that is used again costs no fresh pages.
    fn buffer(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes over the content of `ranges` (ascending, disjoint), one after the other in `bytes`.
    ///
    /// # Errors
    /// The way is broken: it is unknown which pages have arrived since the last [`Self::settle`].
    fn pages(&mut self, space: SpaceId, ranges: Vec<Range>, bytes: Vec<u8>) -> io::Result<()>;

    /// Takes over that `ranges` (ascending, disjoint) are all zero.
    ///
    /// # Errors
    /// As [`Self::pages`].
    fn zero(&mut self, space: SpaceId, ranges: Vec<Range>) -> io::Result<()>;

    /// Returns when everything handed over is in its place.
    ///
    /// # Errors
    /// As [`Self::pages`].
    fn settle(&mut self) -> io::Result<()>;
}

/// Memory to fill that can be told of zeros, too.
pub trait Filler: PageSink {
    /// Makes `ranges` of one space read as zero.
    ///
    /// # Errors
    /// As [`PageSink::write`].
    fn zero(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()>;
}

/// A carrier to a filler in the same process, without a link between: for tests, benchmarks, and moves within a host.
#[derive(Debug)]
pub struct Local<F>(pub F);

impl<F: Filler> Carrier for Local<F> {
    fn pages(&mut self, space: SpaceId, ranges: Vec<Range>, bytes: Vec<u8>) -> io::Result<()> {
        self.0.write_ranges(space, &ranges, &bytes)
    }

    fn zero(&mut self, space: SpaceId, ranges: Vec<Range>) -> io::Result<()> {
        self.0.zero(space, &ranges)
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}
