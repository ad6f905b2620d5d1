//! Asynchronous write protection (Linux 6.7): the kernel notes what is written, nobody has to answer. What has been written since is
//! told by [`crate::pagemap`].

use super::{agree, open, register, unregister, write_protect};
use linux_raw_sys::general as raw;
use rustix::fd::OwnedFd;
use std::io;

/// What a task calls `userfaultfd` with that is to be tracked: as [`super::FLAGS`], and only faults of user mode (UFFD_USER_MODE_ONLY), which
/// every task may ask for. It makes no difference to this mode, which answers no fault: what the kernel writes is noted all the same.
pub const TRACK_FLAGS: i32 = super::FLAGS | 1;

/// A userfaultfd that tracks writes. When its last copy is closed, nothing is tracked any more.
#[derive(Debug)]
pub struct WriteTracker(OwnedFd);

impl WriteTracker {
    /// Opens one for the calling process.
    ///
    /// # Errors
    /// EPERM where unprivileged userfaultfds are switched off; as [`Self::begin`].
    pub fn open() -> io::Result<Self> {
        Self::begin(open()?)
    }

    /// Makes a tracker of a new userfaultfd, whoever opened it: agrees on asynchronous write protection with the kernel.
    ///
    /// # Errors
    /// EINVAL where the kernel has no such mode (before Linux 6.7), or when features were agreed on already.
    pub fn begin(fd: OwnedFd) -> io::Result<Self> {
        // Without WP_UNPOPULATED anonymous memory is not tracked in this mode.
        agree(&fd, raw::UFFD_FEATURE_WP_ASYNC | raw::UFFD_FEATURE_WP_UNPOPULATED)?;
        Ok(Self(fd))
    }

    /// Lets writes to the mappings between `start` and `start + len` (bytes, pages) be tracked. Every page counts as written until
    /// it is protected, which the scan does.
    ///
    /// # Errors
    /// EBUSY when another userfaultfd has a part of it, EINVAL when a mapping in it cannot be tracked or there is none, ESRCH or ENOMEM
    /// when the address space is gone (the task has ended or executes another program).
    pub fn track(&self, start: u64, len: u64) -> io::Result<()> {
        register(&self.0, start, len, raw::UFFDIO_REGISTER_MODE_WP)
    }

    /// Protects every page of a tracked range, also where nothing is: there a marker stands until the page is touched. Only shared memory
    /// needs that: what was written to it stays when the process gives the page back.
    ///
    /// # Errors
    /// ENOENT where a part is not tracked, ESRCH or ENOMEM when the address space is gone.
    pub fn protect(&self, start: u64, len: u64) -> io::Result<()> {
        loop {
            match write_protect(&self.0, start, len) {
                // Somebody changes the mappings at this moment.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                result => return result,
            }
        }
    }

    /// Tracks it no longer.
    ///
    /// # Errors
    /// EINVAL where there is no mapping, ESRCH or ENOMEM when the address space is gone.
    pub fn untrack(&self, start: u64, len: u64) -> io::Result<()> {
        unregister(&self.0, start, len)
    }
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
