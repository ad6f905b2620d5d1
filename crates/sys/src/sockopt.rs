//! `getsockopt(2)` and `setsockopt(2)` on plain bytes: a socket's options are carried from host to host as data.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd};
use std::io;

/// Longest option value that is carried, bytes.
pub const VALUE_MAX: usize = 4096;

/// Reads an option; the buffer's length says how much is taken at most. Returns how many bytes the kernel wrote.
///
/// # Errors
/// ENOPROTOOPT for an option that this kernel or family lacks.
pub fn get_into(socket: impl AsFd, level: i32, name: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = u32::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes at most `len` bytes into the buffer, which has as many.
    let done = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, buffer.as_mut_ptr().cast(), &raw mut len)
    };
    if done == 0 { Ok(len as usize) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option of at most [`VALUE_MAX`] bytes.
///
/// # Errors
/// As [`get_into`].
pub fn get(socket: impl AsFd, level: i32, name: i32) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; VALUE_MAX];
    let len = get_into(socket, level, name, &mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Reads an option that is an `int`.
///
/// # Errors
/// As [`get_into`].
pub fn get_int(socket: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut buffer = [0; 4];
    match get_into(socket, level, name, &mut buffer)? {
        4 => Ok(i32::from_ne_bytes(buffer)),
        1 => Ok(i32::from(buffer[0])),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sets an option.
///
/// # Errors
/// What the kernel says: EPERM, EINVAL, ENOPROTOOPT ..
pub fn set(socket: impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = u32::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads `len` bytes from the slice, which has as many.
    let done =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option that is an `int`.
///
/// # Errors
/// As [`set`].
pub fn set_int(socket: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set(socket, level, name, &value.to_ne_bytes())
}
