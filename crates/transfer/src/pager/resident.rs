//! An address space that somebody lives in while pages of it are missing.

use std::io;

/// What happened in it.
#[derive(Debug)]
pub enum Happening<R> {
    /// A page that is not there was touched; who did waits.
    Fault {
        /// The page.
        address: u64,
    },
    /// A child came to be, in which the same pages are missing.
    Fork {
        /// The child's address space.
        child: R,
    },
    /// A mapping was moved.
    Remap {
        /// Where it was.
        from: u64,
        /// Where it is.
        to: u64,
        /// Its length, bytes.
        len: u64,
    },
    /// Memory was given back, or its mapping is gone: nothing between these is waited for any more.
    Forget {
        /// First byte.
        start: u64,
        /// First byte after it.
        end: u64,
    },
}

/// What came of placing pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// So many bytes are in place; the rest needs another try.
    Bytes(u64),
    /// The first page is there already.
    Present,
    /// Happenings wait to be taken in first.
    Changing,
    /// Nothing is mapped there any more.
    NoMapping,
    /// The address space has ended.
    Gone,
}

/// An address space with missing pages. Its happenings are taken in by one thread.
pub trait Resident: Sized {
    /// What happened since the last time, in order. Never waits.
    ///
    /// # Errors
    /// It can no longer be heard.
    fn happenings(&mut self) -> io::Result<Vec<Happening<Self>>>;

    /// Puts pages in their places where none are, and lets go on who waits for them.
    ///
    /// # Errors
    /// What [`Placed`] has no word for.
    fn place(&self, address: u64, bytes: &[u8]) -> io::Result<Placed>;

    /// As [`Self::place`], with zeros.
    ///
    /// # Errors
    /// As [`Self::place`].
    fn place_zero(&self, address: u64, len: u64) -> io::Result<Placed>;

    /// Has whoever waits for a page between `address` and `address + len` touch it again, which is told again if it is still not
    /// there. Nobody else would: the kernel forgets those who wait for what was given back or moved.
    ///
    /// # Errors
    /// It can no longer be reached.
    fn wake(&self, address: u64, len: u64) -> io::Result<()>;
}
