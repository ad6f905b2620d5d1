//! What brings pages to the other side, and what takes them there.

use crate::space::{PageSink, Range, SpaceId};
use std::io;

/// A way for pages to the other side. One is used for any number of rounds; after an error it is not used again.
///
/// What the implementer owes: once a call has failed, nothing of what was handed over may reach the target any more before the next
/// carrier's first call does. Else an old page could come after a new one.
pub trait Carrier {
    /// Takes over the content of `ranges`, one after the other in `bytes`.
    ///
    /// # Errors
    /// The way is broken: it is unknown which pages have arrived since the last [`Self::settle`].
    fn pages(&mut self, space: SpaceId, ranges: &[Range], bytes: &[u8]) -> io::Result<()>;

    /// Takes over that `ranges` are all zero.
    ///
    /// # Errors
    /// As [`Self::pages`].
    fn zero(&mut self, space: SpaceId, ranges: &[Range]) -> io::Result<()>;

    /// Takes over that `ranges` have no content any more.
    ///
    /// # Errors
    /// As [`Self::pages`].
    fn discard(&mut self, space: SpaceId, ranges: &[Range]) -> io::Result<()>;

    /// Returns when everything handed over is in its place.
    ///
    /// # Errors
    /// As [`Self::pages`].
    fn settle(&mut self) -> io::Result<()>;
}

/// Memory to fill that can also lose content again.
pub trait Filler: PageSink {
    /// Makes `ranges` read as zero.
    ///
    /// # Errors
    /// As [`PageSink::write`].
    fn zero(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()>;

    /// Makes `ranges` what they were before anything was written: zero for anonymous memory, the file's content for a private mapping
    /// of a file. Where nothing is mapped it does nothing.
    ///
    /// # Errors
    /// As [`PageSink::write`].
    fn discard(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()>;
}

/// A carrier to a filler in the same process, without a link between: for tests, benchmarks, and moves within a host.
#[derive(Debug)]
pub struct Local<F>(pub F);

impl<F: Filler> Carrier for Local<F> {
    fn pages(&mut self, space: SpaceId, ranges: &[Range], bytes: &[u8]) -> io::Result<()> {
        self.0.write_ranges(space, ranges, bytes)
    }

    fn zero(&mut self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.0.zero(space, ranges)
    }

    fn discard(&mut self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.0.discard(space, ranges)
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}
