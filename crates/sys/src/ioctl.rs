//! `ioctl(2)` for requests that take or give a plain number or a short run of bytes, and `fcntl(2)` in the same way.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd};
use std::io;

fn check(done: i32) -> io::Result<i32> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

/// Requests whose argument points to an `int`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Int {
    /// Bytes that wait to be read (`FIONREAD`, `SIOCINQ`, `TIOCINQ`).
    Readable = 0x541B,
    /// Bytes that wait to be sent or acknowledged (`SIOCOUTQ`, `TIOCOUTQ`).
    Unacknowledged = 0x5411,
    /// Bytes that were never sent (`SIOCOUTQNSD`).
    Unsent = 0x894B,
    /// Number of a pseudo-terminal (`TIOCGPTN`).
    TerminalNumber = 0x8004_5430,
    /// `TIOCSPTLCK`.
    SetTerminalLock = 0x4004_5431,
    /// `TIOCGPTLCK`.
    TerminalLock = 0x8004_5439,
    /// `TIOCGEXCL`.
    TerminalExclusive = 0x8004_5440,
    /// `TIOCPKT`.
    SetPacketMode = 0x5420,
    /// `TIOCGPKT`.
    PacketMode = 0x8004_5438,
}

/// Reads the `int` that `request` gives.
///
/// # Errors
/// ENOTTY when the descriptor does not know the request.
pub fn get(fd: impl AsFd, request: Int) -> io::Result<i32> {
    let mut value: i32 = 0;
    // SAFETY: every request of `Int` reads or writes one int behind the pointer.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as u64, &raw mut value) })?;
    Ok(value)
}

/// Gives `request` an `int`.
///
/// # Errors
/// As [`get`].
pub fn set(fd: impl AsFd, request: Int, value: i32) -> io::Result<()> {
    let mut value = value;
    // SAFETY: every request of `Int` reads or writes one int behind the pointer.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as u64, &raw mut value) })?;
    Ok(())
}

/// The number that the next inotify watch gets (`INOTIFY_IOC_SETNEXTWD`).
///
/// # Errors
/// ENOTTY where the kernel is built without checkpoint and restore.
pub fn set_next_watch(inotify: impl AsFd, wd: i32) -> io::Result<()> {
    // SAFETY: the request takes its argument by value.
    check(unsafe { libc::ioctl(inotify.as_fd().as_raw_fd(), 0x4004_4900, i64::from(wd)) })?;
    Ok(())
}

/// Expirations of a timerfd that were not read (`TFD_IOC_SET_TICKS`).
///
/// # Errors
/// EINVAL for 0, ENOTTY where the kernel is built without checkpoint and restore.
pub fn set_timer_ticks(timer: impl AsFd, ticks: u64) -> io::Result<()> {
    // SAFETY: the request reads eight bytes behind the pointer.
    check(unsafe { libc::ioctl(timer.as_fd().as_raw_fd(), 0x4008_5400, &raw const ticks) })?;
    Ok(())
}

/// The wait status of a process that has ended, by a pidfd that was opened while it lived (`PIDFD_GET_INFO`). `None`: it has not been
/// collected by its parent yet.
///
/// # Errors
/// ENOTTY or EINVAL before Linux 6.15, which do not tell.
pub fn exit_status(pidfd: impl AsFd) -> io::Result<Option<i32>> {
    const GET_INFO: u64 = 0xC040_FF0B;
    const EXIT: u64 = 1 << 3;
    // `struct pidfd_info` in its first version: mask, cgroup, eleven ids, exit code.
    let mut info = [0u64; 8];
    info[0] = EXIT;
    // SAFETY: the request reads and writes 64 bytes behind the pointer, as its number says.
    check(unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO, info.as_mut_ptr()) })?;
    Ok((info[0] & EXIT != 0).then_some((info[7] >> 32) as u32 as i32))
}

/// Sets or clears `TIOCEXCL`.
///
/// # Errors
/// ENOTTY.
pub fn set_exclusive(terminal: impl AsFd, exclusive: bool) -> io::Result<()> {
    let request = if exclusive { libc::TIOCEXCL } else { libc::TIOCNXCL };
    // SAFETY: the requests take no argument.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), request) })?;
    Ok(())
}

/// Length of what `TCGETS2` gives, bytes.
pub const TERMINAL_SETTINGS_LEN: usize = 44;

/// Reads a terminal's settings (`TCGETS2`).
///
/// # Errors
/// ENOTTY.
pub fn terminal_settings(terminal: impl AsFd) -> io::Result<[u8; TERMINAL_SETTINGS_LEN]> {
    let mut settings = [0; TERMINAL_SETTINGS_LEN];
    // SAFETY: the kernel writes a termios2, 44 bytes.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), 0x802C_542A, settings.as_mut_ptr()) })?;
    Ok(settings)
}

/// Writes a terminal's settings at once (`TCSETS2`).
///
/// # Errors
/// ENOTTY, EIO.
pub fn set_terminal_settings(terminal: impl AsFd, settings: &[u8; TERMINAL_SETTINGS_LEN]) -> io::Result<()> {
    // SAFETY: the kernel reads a termios2, 44 bytes.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), 0x402C_542B, settings.as_ptr()) })?;
    Ok(())
}

/// Reads a terminal's size: rows, columns, width and height in pixels.
///
/// # Errors
/// ENOTTY.
pub fn terminal_size(terminal: impl AsFd) -> io::Result<[u16; 4]> {
    let mut size = [0; 4];
    // SAFETY: the kernel writes four unsigned shorts.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) })?;
    Ok(size)
}

/// Sets a terminal's size.
///
/// # Errors
/// ENOTTY.
pub fn set_terminal_size(terminal: impl AsFd, size: &[u16; 4]) -> io::Result<()> {
    // SAFETY: the kernel reads four unsigned shorts.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, size.as_ptr()) })?;
    Ok(())
}

/// Who gets SIGIO: `F_OWNER_*` and the id in the caller's pid namespace.
///
/// # Errors
/// EBADF.
pub fn owner(fd: impl AsFd) -> io::Result<(i32, i32)> {
    let mut owner = [0_i32; 2];
    // SAFETY: the kernel writes a struct f_owner_ex, two ints.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), 16, owner.as_mut_ptr()) })?;
    Ok((owner[0], owner[1]))
}

/// The signal instead of SIGIO (`F_GETSIG`); 0: SIGIO.
///
/// # Errors
/// EBADF.
pub fn owner_signal(fd: impl AsFd) -> io::Result<i32> {
    // SAFETY: no pointer.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), 11) })
}

/// Sets the status flags (`F_SETFL`) from `O_*` bits: only append, non-blocking, async, direct and noatime can change.
///
/// # Errors
/// EPERM, EINVAL.
pub fn set_status_flags(fd: impl AsFd, flags: u32) -> io::Result<()> {
    // SAFETY: no pointer.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETFL, flags) })?;
    Ok(())
}

/// `F_OFD_SETLK`: a lock that belongs to the description. `len` 0: to the end.
///
/// # Errors
/// EAGAIN when another holds it.
pub fn lock_description(fd: impl AsFd, exclusive: bool, start: u64, len: u64) -> io::Result<()> {
    let lock = flock(exclusive, start, len)?;
    // SAFETY: the kernel reads a struct flock.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_OFD_SETLK, lock.as_ptr()) })?;
    Ok(())
}

/// A `struct flock` as bytes, for `F_SETLK` in another task.
///
/// # Errors
/// Offsets beyond what the kernel takes.
pub fn flock(exclusive: bool, start: u64, len: u64) -> io::Result<Vec<u8>> {
    let [start, len] = [start, len].map(|value| i64::try_from(value).ok());
    let (Some(start), Some(len)) = (start, len) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let sort = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as i16;
    let mut bytes = Vec::with_capacity(32);
    bytes.extend(sort.to_ne_bytes());
    bytes.extend((libc::SEEK_SET as i16).to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(start.to_ne_bytes());
    bytes.extend(len.to_ne_bytes());
    bytes.extend([0; 8]);
    Ok(bytes)
}
