//! Pages that are not there yet: a task that touches one stands still until somebody puts it there.
//!
//! Never zeros by accident: the kernel fills in nothing while a copy of the descriptor is open. When the last one is closed it does, for
//! those that wait and all later ones; so whoever serves sees to it that there is a second holder.
//!
//! Memory that the task gives back, moves or hands to a child is told by events, and the task waits at each until it has been read. A
//! page that is put in while such an event waits is refused ([`Placed::Changing`]): read the events, then look again.

use super::{agree, register, unregister};
use crate::pagemap::PAGE;
use linux_raw_sys::{general as raw, ioctl};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::io;

/// Events that are read at once.
const EVENTS: usize = 64;

/// Bytes of one event.
pub(super) const EVENT_BYTES: usize = 32;

const _: () = assert!(size_of::<raw::uffd_msg>() == EVENT_BYTES);

/// A userfaultfd that is asked for missing pages.
#[derive(Debug)]
pub struct MissingPages(OwnedFd);

/// What the task did.
#[derive(Debug)]
pub enum Event {
    /// It touched a page that is missing, and waits.
    Fault {
        /// The page.
        address: u64,
    },
    /// It has a child, in which the same pages are missing. Its faults come on this descriptor.
    Fork {
        /// Of the child.
        pages: MissingPages,
    },
    /// A mapping was moved, with what is missing in it.
    Remap {
        /// Where it was.
        from: u64,
        /// Where it is.
        to: u64,
        /// How long it is, bytes.
        len: u64,
    },
    /// Memory was given back: zero from here on, and not missing any more.
    Remove {
        /// First byte.
        start: u64,
        /// First byte after it.
        end: u64,
    },
    /// Mappings are gone.
    Unmap {
        /// First byte.
        start: u64,
        /// First byte after it.
        end: u64,
    },
}

/// What came of putting a page in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// So many bytes are in their places; the rest, if any, comes after another look.
    Bytes(u64),
    /// A page is there already: it was put in before, or written whole.
    Present,
    /// The task is changing its mappings: read the events first.
    Changing,
    /// There is no such mapping under this descriptor any more, or what was to be placed is not all of one mapping.
    NoMapping,
    /// The address space is gone.
    Gone,
}

impl MissingPages {
    /// Agrees with the kernel on a new userfaultfd, whoever opened it.
    ///
    /// # Errors
    /// EINVAL when features were agreed on already, or the kernel lacks the events (before Linux 4.11); EPERM without CAP_SYS_PTRACE.
    pub fn begin(fd: OwnedFd) -> io::Result<Self> {
        let events = raw::UFFD_FEATURE_EVENT_FORK
            | raw::UFFD_FEATURE_EVENT_REMAP
            | raw::UFFD_FEATURE_EVENT_REMOVE
            | raw::UFFD_FEATURE_EVENT_UNMAP;
        agree(&fd, events)?;
        Ok(Self(fd))
    }

    /// Takes over one on which was agreed already: a second holder's copy.
    #[must_use]
    pub fn taken_over(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// From now on pages between `start` and `start + len` (bytes, pages) that are not there are missing, not zero.
    ///
    /// # Errors
    /// EINVAL for a private mapping of a file, EBUSY when another userfaultfd has a part of it, ESRCH or ENOMEM when the address space
    /// is gone.
    pub fn expect(&self, start: u64, len: u64) -> io::Result<()> {
        register(&self.0, start, len, raw::UFFDIO_REGISTER_MODE_MISSING)
    }

    /// What is not there between `start` and `start + len` is zero from now on; who waits goes on.
    ///
    /// # Errors
    /// EINVAL where there is no mapping, ESRCH or ENOMEM when the address space is gone.
    pub fn give_up(&self, start: u64, len: u64) -> io::Result<()> {
        unregister(&self.0, start, len)
    }

    /// Puts `bytes` (pages) at `address`, and lets go on who waits for them. Nothing that is there is overwritten.
    ///
    /// # Errors
    /// What [`Placed`] has no word for.
    pub fn place(&self, address: u64, bytes: &[u8]) -> io::Result<Placed> {
        let (src, len) = (bytes.as_ptr() as u64, bytes.len() as u64);
        let mut copy = raw::uffdio_copy { dst: address, src, len, mode: 0, copy: 0 };
        // SAFETY: the kernel reads and writes one `uffdio_copy` and reads `len` bytes at `src`, both alive; what it writes to is
        // memory of the other address space that was not there before.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), u64::from(ioctl::UFFDIO_COPY), &raw mut copy) };
        placed(done, len, copy.copy)
    }

    /// As [`Self::place`], with zeros.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub fn place_zero(&self, start: u64, len: u64) -> io::Result<Placed> {
        let range = raw::uffdio_range { start, len };
        let mut zero = raw::uffdio_zeropage { range, mode: 0, zeropage: 0 };
        // SAFETY: the kernel reads and writes one `uffdio_zeropage`, which is alive; as in `place`.
        let done =
            unsafe { libc::ioctl(self.0.as_raw_fd(), u64::from(ioctl::UFFDIO_ZEROPAGE), &raw mut zero) };
        placed(done, len, zero.zeropage)
    }

    /// Has whoever waits for a page between `start` and `start + len` look again; if it is still missing, its fault is told again.
    ///
    /// # Errors
    /// EINVAL for what is no range of pages.
    pub fn wake(&self, start: u64, len: u64) -> io::Result<()> {
        let mut range = raw::uffdio_range { start, len };
        // SAFETY: the kernel reads one `uffdio_range`, which is alive; no memory is changed.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), u64::from(ioctl::UFFDIO_WAKE), &raw mut range) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// What has happened since the last time, in order; nothing when nothing has.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn events(&self) -> io::Result<Vec<Event>> {
        let mut buffer = [0_u8; EVENTS * EVENT_BYTES];
        match rustix::io::read(&self.0, &mut buffer) {
            Ok(len) => Ok(buffer[..len].chunks_exact(EVENT_BYTES).filter_map(event).collect()),
            Err(rustix::io::Errno::AGAIN) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// A copy of the descriptor, for a second holder.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn second_holder(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

impl AsFd for MissingPages {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel says how far it came in a field beside the result.
fn placed(done: i32, len: u64, bytes: i64) -> io::Result<Placed> {
    if done == 0 {
        return Ok(Placed::Bytes(len));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN) => {
            Ok(u64::try_from(bytes).ok().filter(|n| *n > 0).map_or(Placed::Changing, Placed::Bytes))
        }
        // Whoever put it there has woken who waited.
        Some(libc::EEXIST) => Ok(Placed::Present),
        Some(libc::ENOENT) => Ok(Placed::NoMapping),
        Some(libc::ESRCH) => Ok(Placed::Gone),
        _ => Err(error),
    }
}

/// One event as the kernel writes it: its kind, and arguments from byte 8 on. None: a kind that was not asked for.
pub(super) fn event(bytes: &[u8]) -> Option<Event> {
    let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    Some(match u32::from(*bytes.first()?) {
        raw::UFFD_EVENT_PAGEFAULT => Event::Fault { address: word(16)? & !(PAGE - 1) },
        raw::UFFD_EVENT_FORK => {
            let fd = i32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
            // SAFETY: the kernel has just installed this descriptor in our table, for whoever reads the event.
            Event::Fork { pages: MissingPages(unsafe { OwnedFd::from_raw_fd(fd) }) }
        }
        raw::UFFD_EVENT_REMAP => Event::Remap { from: word(8)?, to: word(16)?, len: word(24)? },
        raw::UFFD_EVENT_REMOVE => Event::Remove { start: word(8)?, end: word(16)? },
        raw::UFFD_EVENT_UNMAP => Event::Unmap { start: word(8)?, end: word(16)? },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped::Mapped;

    #[test]
    fn who_touches_a_missing_page_waits_until_it_is_there() {
        let memory = Mapped::new(8 * PAGE as usize).unwrap();
        memory.huge(false).unwrap();
        let (start, len) = (memory.as_ptr() as u64, memory.len() as u64);
        let pages = MissingPages::begin(super::super::open().unwrap()).unwrap();
        pages.expect(start, len).unwrap();
        std::thread::scope(|scope| {
            let touching = scope.spawn(move || {
                assert_eq!((memory[3 * PAGE as usize], memory[5 * PAGE as usize]), (1, 2));
                memory
            });
            let mut asked = Vec::new();
            while asked.len() < 2 {
                for event in pages.events().unwrap() {
                    let Event::Fault { address } = event else { panic!("{event:?}") };
                    assert!(!touching.is_finished());
                    asked.push((address - start) / PAGE);
                    let content = [asked.len() as u8; PAGE as usize];
                    assert_eq!(pages.place(address, &content).unwrap(), Placed::Bytes(PAGE));
                    assert_eq!(pages.place(address, &content).unwrap(), Placed::Present);
                }
            }
            assert_eq!(asked, [3, 5]);
            let memory = touching.join().unwrap();
            assert_eq!(pages.place_zero(start + PAGE, PAGE).unwrap(), Placed::Bytes(PAGE));
            assert_eq!(memory[PAGE as usize], 0);
            pages.give_up(start, len).unwrap();
            assert_eq!(memory[0], 0, "given up: zero, and nobody waits");
            assert_eq!(pages.place(start + 6 * PAGE, &[1; PAGE as usize]).unwrap(), Placed::NoMapping);
        });
    }

    #[test]
    fn who_waits_for_a_page_that_is_given_back_is_told_again_when_woken() {
        let memory = Mapped::new(2 * PAGE as usize).unwrap();
        memory.huge(false).unwrap();
        let (start, len) = (memory.as_ptr() as u64, memory.len() as u64);
        let pages = MissingPages::begin(super::super::open().unwrap()).unwrap();
        pages.expect(start, len).unwrap();
        std::thread::scope(|scope| {
            let touching = scope.spawn(move || (memory[PAGE as usize], memory));
            let mut told = 0;
            while told < 3 {
                for event in pages.events().unwrap() {
                    assert!(
                        matches!(event, Event::Fault { address } if address == start + PAGE),
                        "{event:?}"
                    );
                    assert!(!touching.is_finished());
                    told += 1;
                    pages.wake(start, len).unwrap();
                }
            }
            while pages.place_zero(start + PAGE, PAGE).unwrap() == Placed::Changing {}
            let (byte, memory) = touching.join().unwrap();
            assert_eq!(byte, 0);
            pages.give_up(start, len).unwrap();
            drop(memory);
        });
    }

    #[test]
    fn what_is_given_back_is_told_before_it_is_gone() {
        let mut memory = Mapped::new(4 * PAGE as usize).unwrap();
        memory.huge(false).unwrap();
        let (start, len) = (memory.as_ptr() as u64, memory.len() as u64);
        let pages = MissingPages::begin(super::super::open().unwrap()).unwrap();
        pages.expect(start, len).unwrap();
        std::thread::scope(|scope| {
            let giving = scope.spawn(move || {
                memory.discard(PAGE as usize, PAGE as usize).unwrap();
                memory
            });
            loop {
                match pages.events().unwrap().as_slice() {
                    [] => assert!(!giving.is_finished(), "it went on before the event was read"),
                    [Event::Remove { start: at, end }] => {
                        assert_eq!((*at, *end), (start + PAGE, start + 2 * PAGE));
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
            let memory = giving.join().unwrap();
            // Else its end is an event, too, which nobody reads.
            pages.give_up(start, len).unwrap();
            drop(memory);
        });
    }
}
