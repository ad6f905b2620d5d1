//! `signalfd(2)`.
#![allow(unsafe_code)]

use rustix::fd::{FromRawFd, OwnedFd};
use std::io;

/// Makes a signalfd, close-on-exec, that takes the signals of `mask` (bit 0 is signal 1).
///
/// # Errors
/// EMFILE and the like.
pub fn signalfd(mask: u64) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads eight bytes and makes a descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8_usize, libc::SFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}
