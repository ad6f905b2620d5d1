//! `SO_ATTACH_FILTER`: a packet filter on one socket.
//!
//! Used for three things. While a workload stands still, frames for it are picked out of all that pass a bridge. While TCP connections are read, nothing may reach them: repair mode does not stop what comes in, and
//! two ends within one network namespace must be read as of one moment. While a connection is rebuilt, a reset must not
//! reach it: one comes when its peer lived in the same network namespace and is gone, as soon as the connection
//! acknowledges anything.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd};
use std::io;

/// Drops every TCP segment with the RST flag that is meant for `socket`.
///
/// # Errors
/// ENOMEM, ENOTSOCK.
pub fn drop_resets(socket: impl AsFd) -> io::Result<()> {
    // Load the byte of the flags, test RST, drop or let pass whole.
    attach(socket, &[(0x30, 0, 0, 13), (0x45, 0, 1, 4), (0x06, 0, 0, 0), (0x06, 0, 0, u32::MAX)])
}

/// Drops everything that is meant for `socket`.
///
/// # Errors
/// ENOMEM, ENOTSOCK.
pub fn drop_all(socket: impl AsFd) -> io::Result<()> {
    attach(socket, &[(0x06, 0, 0, 0)])
}

/// Drops what does not concern the device with the MAC address `mac`: frames to it, and questions to all for an address (ARP, and
/// IPv6 to a solicited-node group) pass. For sockets that see whole frames.
///
/// # Errors
/// ENOMEM, ENOTSOCK.
pub fn frames_for(socket: impl AsFd, mac: [u8; 6]) -> io::Result<()> {
    let high = u32::from_be_bytes([mac[0], mac[1], mac[2], mac[3]]);
    let low = u32::from(u16::from_be_bytes([mac[4], mac[5]]));
    attach(
        socket,
        &[
            // The destination's first word, then its last two bytes.
            (0x20, 0, 0, 0),
            (0x15, 0, 2, high),
            (0x28, 0, 0, 4),
            (0x15, 7, 6, low),
            // ARP; or IPv6 to 33:33:ff.
            (0x28, 0, 0, 12),
            (0x15, 5, 0, 0x0806),
            (0x15, 0, 3, 0x86dd),
            (0x20, 0, 0, 0),
            (0x54, 0, 0, 0xffff_ff00),
            (0x15, 1, 0, 0x3333_ff00),
            (0x06, 0, 0, 0),
            (0x06, 0, 0, u32::MAX),
        ],
    )
}

/// Instructions as code, two jumps and a constant.
fn attach(socket: impl AsFd, program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    let mut program: Vec<_> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads a sock_fprog, which points to as many instructions as it says; both live through the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the filter away.
///
/// # Errors
/// ENOENT when there is none.
pub fn detach(socket: impl AsFd) -> io::Result<()> {
    crate::sockopt::set_int(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
}
