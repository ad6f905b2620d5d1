//! `close_range(2)`: what a new program must not inherit.
#![allow(unsafe_code)]

use std::io;

/// Marks every open descriptor from `first` on close-on-exec.
///
/// # Errors
/// ENOSYS before Linux 5.9, EINVAL before 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: closes nothing now; only a flag of each descriptor changes.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
