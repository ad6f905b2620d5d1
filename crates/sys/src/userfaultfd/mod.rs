//! `userfaultfd(2)`, from outside of the process whose memory it is about.
//!
//! A userfaultfd belongs to the address space that opened it. Whoever holds a copy of the descriptor can use it from outside, the
//! handshake included: so the task itself only has to make one call, `userfaultfd(FLAGS)`. Two uses, never of one descriptor:
//! [`WriteTracker`] has the kernel note what is written, [`MissingPages`] answers for pages that are not there yet.
#![allow(unsafe_code)]

mod log;
mod missing;
mod track;

pub use log::{EventLog, Noted, WORDS, What};
pub use missing::{Event, MissingPages, Placed};
pub use track::{TRACK_FLAGS, WriteTracker};

use linux_raw_sys::general as raw;
use linux_raw_sys::ioctl;
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::io;

/// Number of the call that the task makes.
pub const SYSCALL: i64 = libc::SYS_userfaultfd;

/// Its only argument: close-on-exec, never blocking.
pub const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK;

/// First address of a task that may be named, and bytes from there to the end of its addresses: all of its memory.
pub const FIRST: u64 = 1 << 16;
/// See [`FIRST`].
pub const LENGTH: u64 = 0x7fff_ffff_f000 - FIRST;

const _: () = assert!(ioctl::UFFDIO_API == 0xc018_aa3f && size_of::<raw::uffdio_api>() == 0x18);
const _: () = assert!(ioctl::UFFDIO_REGISTER == 0xc020_aa00 && size_of::<raw::uffdio_register>() == 0x20);
const _: () = assert!(ioctl::UFFDIO_UNREGISTER == 0x8010_aa01 && size_of::<raw::uffdio_range>() == 0x10);
const _: () = assert!(ioctl::UFFDIO_COPY == 0xc028_aa03 && size_of::<raw::uffdio_copy>() == 0x28);
const _: () =
    assert!(ioctl::UFFDIO_WRITEPROTECT == 0xc018_aa06 && size_of::<raw::uffdio_writeprotect>() == 0x18);
const _: () = assert!(ioctl::UFFDIO_ZEROPAGE == 0xc020_aa04 && size_of::<raw::uffdio_zeropage>() == 0x20);

/// UFFDIO_WRITEPROTECT_MODE_WP.
const PROTECT: u64 = 1;

/// Opens one for the calling process; nothing is agreed on yet.
///
/// # Errors
/// EPERM where unprivileged userfaultfds are switched off.
pub fn open() -> io::Result<OwnedFd> {
    // SAFETY: the call takes flags only; the descriptor is new and ours.
    unsafe {
        match libc::syscall(SYSCALL, FLAGS) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd as i32)),
        }
    }
}

/// Agrees with the kernel on what a new userfaultfd is used for.
fn agree(fd: &OwnedFd, features: u32) -> io::Result<()> {
    let mut api = raw::uffdio_api { api: u64::from(raw::UFFD_API), features: u64::from(features), ioctls: 0 };
    // SAFETY: the kernel reads and writes one `uffdio_api`, which is alive.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::UFFDIO_API), &raw mut api) })
}

/// Puts the mappings in a range under it.
fn register(fd: &OwnedFd, start: u64, len: u64, mode: u32) -> io::Result<()> {
    let range = raw::uffdio_range { start, len };
    let mut register = raw::uffdio_register { range, mode: u64::from(mode), ioctls: 0 };
    // SAFETY: the kernel reads and writes one `uffdio_register`, which is alive; it changes how faults of that address space are
    // handled, not its content.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::UFFDIO_REGISTER), &raw mut register) })
}

/// Takes them from under it.
fn unregister(fd: &OwnedFd, start: u64, len: u64) -> io::Result<()> {
    let mut range = raw::uffdio_range { start, len };
    // SAFETY: the kernel reads one `uffdio_range`, which is alive.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::UFFDIO_UNREGISTER), &raw mut range) })
}

/// Protects a range that is under it for write protection.
fn write_protect(fd: &OwnedFd, start: u64, len: u64) -> io::Result<()> {
    let range = raw::uffdio_range { start, len };
    let mut protect = raw::uffdio_writeprotect { range, mode: PROTECT };
    // SAFETY: the kernel reads one `uffdio_writeprotect`, which is alive.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::UFFDIO_WRITEPROTECT), &raw mut protect) })
}

fn check(done: i32) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
