//! Events that no death of their reader takes along: they are read into memory that its successor has, too.
//!
//! A reader that is killed dies between two of its own instructions, but a call that has begun comes to its end first. So the kernel puts each
//! event directly into a slot of the log, and installs the descriptor of a child before that. What was read and not counted yet is
//! found in the slot behind the last that counts. Faults are not kept: whoever waits can be woken, and touches the page again.
//!
//! There are two logs, of which one is active. When it is nearly full, whoever reads writes down what all events come to so far, and goes
//! over to the other one, which is empty: one store of one word.

use super::missing::{EVENT_BYTES, Event, MissingPages, event};
use linux_raw_sys::general as raw;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::MemfdFlags;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words beside the logs, for whoever shares it.
pub const WORDS: usize = 128;

/// Events in each log.
const SLOTS: usize = 1024;

/// Bytes of a slot: the descriptor that is read, then the event.
const SLOT_BYTES: usize = 8 + EVENT_BYTES;

/// Bytes of the words: those of ours (which log is active, how many events each has), then the caller's.
const HEAD_BYTES: usize = (3 + WORDS) * 8;

const LOG_BYTES: usize = SLOTS * SLOT_BYTES;

const BYTES: usize = (HEAD_BYTES + 2 * LOG_BYTES).next_multiple_of(4096);

/// Events that were read, in shared memory.
#[derive(Debug)]
pub struct EventLog {
    at: *mut u8,
}

/// An event that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Number of the userfaultfd from which it was read, in the reader's table.
    pub fd: i32,
    /// What happened.
    pub what: What,
}

/// As [`Event`], with a number instead of a child's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A child, with the number of its userfaultfd in the reader's table.
    Fork(i32),
    /// A mapping was moved: from, to, bytes.
    Remap(u64, u64, u64),
    /// Given back, or gone: start, end.
    Forget(u64, u64),
}

impl EventLog {
    /// A new one, empty, with the memory file that it is in.
    ///
    /// # Errors
    /// No memory is left.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let file = rustix::fs::memfd_create("ferry-events", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, BYTES as u64)?;
        Ok((Self::open(file.as_fd())?, file))
    }

    /// The one in a memory file.
    ///
    /// # Errors
    /// It is too short, or cannot be mapped.
    pub fn open(file: BorrowedFd<'_>) -> io::Result<Self> {
        if rustix::fs::fstat(file)?.st_size < BYTES as i64 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice; only drop unmaps it.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, prot, flags, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { at: at.cast() }) }
    }

    /// A word of whoever shares the log; zero at first.
    #[must_use]
    pub fn word(&self, number: usize) -> &AtomicU64 {
        assert!(number < WORDS);
        self.own(3 + number)
    }

    fn own(&self, number: usize) -> &AtomicU64 {
        // SAFETY: within the head of the mapping, which is aligned to a page; all who share it use it as atomic words only.
        unsafe { &*self.at.add(number * 8).cast::<AtomicU64>() }
    }

    /// Which of both logs is active: 0 or 1.
    #[must_use]
    pub fn active(&self) -> usize {
        (self.own(0).load(Ordering::Acquire) & 1) as usize
    }

    fn count(&self) -> &AtomicU64 {
        self.own(1 + self.active())
    }

    fn slot(&self, log: usize, number: usize) -> *mut u8 {
        assert!(log < 2 && number < SLOTS);
        // SAFETY: within the mapping, by the assertion.
        unsafe { self.at.add(HEAD_BYTES + log * LOG_BYTES + number * SLOT_BYTES) }
    }

    /// Events that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        SLOTS.saturating_sub(self.count().load(Ordering::Acquire) as usize)
    }

    /// Reads one event, if there is one and it fits.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn read(&self, pages: &MissingPages) -> io::Result<Option<Event>> {
        loop {
            let at = self.count().load(Ordering::Acquire) as usize;
            if at >= SLOTS {
                return Ok(None);
            }
            let slot = self.slot(self.active(), at);
            let fd = pages.as_fd().as_raw_fd();
            // SAFETY: the slot lies within the mapping; nobody else uses it while this process is the only reader.
            let len = unsafe {
                std::ptr::write_bytes(slot, 0, SLOT_BYTES);
                std::ptr::write_unaligned(slot.cast::<i32>(), fd);
                libc::read(fd, slot.add(8).cast(), EVENT_BYTES)
            };
            if len < 0 {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(None),
                    io::ErrorKind::Interrupted => continue,
                    _ => Err(error),
                };
            }
            let bytes = self.bytes(self.active(), at);
            if is_kept(&bytes) {
                self.count().store(at as u64 + 1, Ordering::Release);
            }
            match event(&bytes[8..]) {
                Some(event) => return Ok(Some(event)),
                None => continue,
            }
        }
    }

    fn bytes(&self, log: usize, number: usize) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        // SAFETY: the slot lies within the mapping, and `bytes` is as long.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.slot(log, number).cast_const(),
                bytes.as_mut_ptr(),
                SLOT_BYTES,
            );
        }
        bytes
    }

    /// What was read since the active log began, in order. What a reader that died had read and not counted is counted now.
    #[must_use]
    pub fn noted(&self) -> Vec<Noted> {
        let mut count = (self.count().load(Ordering::Acquire) as usize).min(SLOTS);
        if count < SLOTS && is_kept(&self.bytes(self.active(), count)) {
            count += 1;
            self.count().store(count as u64, Ordering::Release);
        }
        (0..count).filter_map(|at| noted(&self.bytes(self.active(), at))).collect()
    }

    /// Goes over to the other log, which is empty then. What all events came to has been written down for it.
    pub fn switch(&self) {
        let other = 1 - self.active();
        // SAFETY: the other log lies within the mapping, and nobody reads it while it is not active.
        unsafe { std::ptr::write_bytes(self.slot(other, 0), 0, LOG_BYTES) };
        self.own(1 + other).store(0, Ordering::Release);
        self.own(0).store(other as u64, Ordering::Release);
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no reference into it outlives this value.
        unsafe {
            libc::munmap(self.at.cast(), BYTES);
        }
    }
}

/// Whether a slot has an event that must not be lost.
fn is_kept(slot: &[u8; SLOT_BYTES]) -> bool {
    !matches!(u32::from(slot[8]), 0 | raw::UFFD_EVENT_PAGEFAULT)
}

fn noted(slot: &[u8; SLOT_BYTES]) -> Option<Noted> {
    let word = |at: usize| slot.get(8 + at..16 + at)?.try_into().ok().map(u64::from_ne_bytes);
    let fd = i32::from_ne_bytes(slot[..4].try_into().ok()?);
    let what = match u32::from(slot[8]) {
        raw::UFFD_EVENT_FORK => What::Fork(i32::from_ne_bytes(slot[16..20].try_into().ok()?)),
        raw::UFFD_EVENT_REMAP => What::Remap(word(8)?, word(16)?, word(24)?),
        raw::UFFD_EVENT_REMOVE | raw::UFFD_EVENT_UNMAP => What::Forget(word(8)?, word(16)?),
        _ => return None,
    };
    Some(Noted { fd, what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped::Mapped;
    use crate::pagemap::PAGE;

    #[test]
    fn what_was_read_is_there_for_who_comes_after() {
        let mut memory = Mapped::new(8 * PAGE as usize).unwrap();
        memory.huge(false).unwrap();
        let (start, len) = (memory.as_ptr() as u64, memory.len() as u64);
        let pages = MissingPages::begin(super::super::open().unwrap()).unwrap();
        let fd = pages.as_fd().as_raw_fd();
        pages.expect(start, len).unwrap();
        let (log, file) = EventLog::create().unwrap();
        let gone =
            |page: u64| Noted { fd, what: What::Forget(start + page * PAGE, start + (page + 1) * PAGE) };
        std::thread::scope(|scope| {
            let giving = scope.spawn(move || {
                memory.discard(PAGE as usize, PAGE as usize).unwrap();
                memory.discard(3 * PAGE as usize, PAGE as usize).unwrap();
                memory
            });
            let read = |log: &EventLog| {
                loop {
                    if let Some(event) = log.read(&pages).unwrap() {
                        break event;
                    }
                }
            };
            assert!(matches!(read(&log), Event::Remove { .. }));
            assert_eq!(log.noted(), [gone(1)]);
            assert!(matches!(read(&log), Event::Remove { .. }));
            let memory = giving.join().unwrap();
            // A reader that was killed before it could count.
            log.own(1).store(1, Ordering::Release);
            let successor = EventLog::open(file.as_fd()).unwrap();
            assert_eq!(successor.noted(), [gone(1), gone(3)]);
            assert_eq!(successor.room(), SLOTS - 2);
            log.word(3).store(7, Ordering::Relaxed);
            successor.switch();
            assert_eq!((log.active(), log.noted(), log.room()), (1, vec![], SLOTS));
            assert_eq!(successor.word(3).load(Ordering::Relaxed), 7);
            pages.give_up(start, len).unwrap();
            drop(memory);
        });
    }
}
