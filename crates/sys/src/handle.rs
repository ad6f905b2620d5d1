//! `open_by_handle_at(2)`: an inode found again by the handle that the kernel writes out for inotify watches.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::io;

/// Opens (`O_PATH`) what `handle` of type `sort` names on the file system of `mount`.
///
/// # Errors
/// ESTALE when it is gone, EOPNOTSUPP where the file system has no handles (an overlay), EPERM without
/// CAP_DAC_READ_SEARCH.
pub fn open(mount: impl AsFd, sort: i32, handle: &[u8]) -> io::Result<OwnedFd> {
    if handle.len() > 128 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = [0_u32; 34];
    bytes[0] = handle.len() as u32;
    bytes[1] = sort as u32;
    for (place, four) in bytes[2..].iter_mut().zip(handle.chunks(4)) {
        let mut word = [0; 4];
        word[..four.len()].copy_from_slice(four);
        *place = u32::from_ne_bytes(word);
    }
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the kernel reads a file_handle: two words of header and as many bytes as it says, all within `bytes`.
    unsafe {
        let fd =
            libc::syscall(libc::SYS_open_by_handle_at, mount.as_fd().as_raw_fd(), bytes.as_mut_ptr(), flags);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}
