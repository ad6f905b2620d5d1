//! `userfaultfd(2)` in asynchronous write-protect mode (Linux 6.7): the kernel notes what is written, nobody has to answer.
//!
//! A userfaultfd belongs to the address space that opened it. Whoever holds a copy of the descriptor can use it from outside, the
//! handshake included: so the tracked task only has to make one call, `userfaultfd(FLAGS)`. What has been written since is told by
//! [`crate::pagemap`].
#![allow(unsafe_code)]

use linux_raw_sys::general as raw;
use linux_raw_sys::ioctl;
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::io;

/// Number of the call that the tracked task makes.
pub const SYSCALL: i64 = libc::SYS_userfaultfd;

/// Its only argument: close-on-exec, never blocking.
pub const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK;

const _: () = assert!(ioctl::UFFDIO_API == 0xc018_aa3f && size_of::<raw::uffdio_api>() == 0x18);
const _: () = assert!(ioctl::UFFDIO_REGISTER == 0xc020_aa00 && size_of::<raw::uffdio_register>() == 0x20);
const _: () = assert!(ioctl::UFFDIO_UNREGISTER == 0x8010_aa01 && size_of::<raw::uffdio_range>() == 0x10);

/// A userfaultfd that tracks writes. When its last copy is closed, nothing is tracked any more.
#[derive(Debug)]
pub struct WriteTracker(OwnedFd);

impl WriteTracker {
    /// Opens one for the calling process.
    ///
    /// # Errors
    /// EPERM where unprivileged userfaultfds are switched off; as [`Self::begin`].
    pub fn open() -> io::Result<Self> {
        // SAFETY: the call takes flags only; the descriptor is new and ours.
        let fd = unsafe {
            match libc::syscall(SYSCALL, FLAGS) {
                -1 => return Err(io::Error::last_os_error()),
                fd => OwnedFd::from_raw_fd(fd as i32),
            }
        };
        Self::begin(fd)
    }

    /// Makes a tracker of a new userfaultfd, whoever opened it: agrees on asynchronous write protection with the kernel.
    ///
    /// # Errors
    /// EINVAL where the kernel has no such mode (before Linux 6.7), or when features were agreed on already.
    pub fn begin(fd: OwnedFd) -> io::Result<Self> {
        // Without WP_UNPOPULATED anonymous memory is not tracked in this mode.
        let features = u64::from(raw::UFFD_FEATURE_WP_ASYNC | raw::UFFD_FEATURE_WP_UNPOPULATED);
        let mut api = raw::uffdio_api { api: u64::from(raw::UFFD_API), features, ioctls: 0 };
        // SAFETY: the kernel reads and writes one `uffdio_api`, which is alive.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::UFFDIO_API), &raw mut api) })?;
        Ok(Self(fd))
    }

    /// Lets writes to the mappings between `start` and `start + len` (bytes, pages) be tracked. Every page counts as written until
    /// it is protected, which the scan does.
    ///
    /// # Errors
    /// EBUSY when another userfaultfd has a part of it, EINVAL when a mapping in it cannot be tracked or there is none, ESRCH or ENOMEM
    /// when the address space is gone (the task has ended or executes another program).
    pub fn track(&self, start: u64, len: u64) -> io::Result<()> {
        let mode = u64::from(raw::UFFDIO_REGISTER_MODE_WP);
        let mut register = raw::uffdio_register { range: raw::uffdio_range { start, len }, mode, ioctls: 0 };
        // SAFETY: the kernel reads and writes one `uffdio_register`, which is alive; it changes how faults of that address space
        // are noted, not its content.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), u64::from(ioctl::UFFDIO_REGISTER), &raw mut register) };
        check(result)
    }

    /// Tracks it no longer.
    ///
    /// # Errors
    /// EINVAL where there is no mapping, ESRCH or ENOMEM when the address space is gone.
    pub fn untrack(&self, start: u64, len: u64) -> io::Result<()> {
        let mut range = raw::uffdio_range { start, len };
        // SAFETY: the kernel reads one `uffdio_range`, which is alive.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), u64::from(ioctl::UFFDIO_UNREGISTER), &raw mut range) };
        check(result)
    }
}

fn check(done: i32) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped::Mapped;
    use crate::pagemap::{IS_TRACKED, PAGE, Pagemap, Query};

    fn written(pagemap: &Pagemap, memory: &Mapped) -> Vec<(u64, u64)> {
        let start = memory.as_ptr() as u64;
        let found = pagemap.scan(start, start + memory.len() as u64, &Query::WRITTEN_AND_PROTECT).unwrap();
        found.iter().map(|region| ((region.start - start) / PAGE, (region.end - start) / PAGE)).collect()
    }

    #[test]
    fn writes_are_noted_until_the_next_scan() {
        let mut memory = Mapped::new(64 * PAGE as usize).unwrap();
        memory.huge(false).unwrap();
        memory[3 * PAGE as usize] = 1;
        let (start, len) = (memory.as_ptr() as u64, memory.len() as u64);
        let tracker = WriteTracker::open().unwrap();
        let pagemap = Pagemap::open(std::process::id() as i32).unwrap();
        assert_eq!(
            written(&pagemap, &memory),
            [],
            "not tracked yet: nothing is said and nothing is protected"
        );
        tracker.track(start, len).unwrap();
        assert_eq!(written(&pagemap, &memory), [(3, 4)]);
        assert_eq!(written(&pagemap, &memory), []);
        memory[3 * PAGE as usize] = 2;
        memory[7 * PAGE as usize] = 2;
        memory[8 * PAGE as usize] = 2;
        assert_eq!(written(&pagemap, &memory), [(3, 4), (7, 9)]);
        tracker.untrack(start, len).unwrap();
        let content = pagemap.scan(start, start + len, &Query::PRIVATE_CONTENT).unwrap();
        assert!(content.iter().all(|region| region.categories & IS_TRACKED == 0));
    }

    #[test]
    fn a_second_tracker_is_refused() {
        let memory = Mapped::new(PAGE as usize).unwrap();
        let (start, len) = (memory.as_ptr() as u64, memory.len() as u64);
        let first = WriteTracker::open().unwrap();
        let second = WriteTracker::open().unwrap();
        first.track(start, len).unwrap();
        assert_eq!(second.track(start, len).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    }
}
