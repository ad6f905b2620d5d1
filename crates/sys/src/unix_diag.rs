//! `sock_diag(7)` for Unix sockets: names, peers, queues and states of all of them in a network namespace.
//!
//! It is the only way to learn who a Unix socket's peer is. Netlink here is by hand: one request, one dump, bounded.

use crate::sockaddr::{peek, send, socket};
use rustix::fd::AsFd;
use std::collections::HashMap;
use std::io;

/// Sockets that are read at most.
pub const SOCKETS_MAX: usize = 1 << 20;

/// One Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixInfo {
    /// `SOCK_*`.
    pub sort: u8,
    /// `TCP_ESTABLISHED` 1 (connected), `TCP_CLOSE` 7, `TCP_LISTEN` 10.
    pub state: u8,
    /// As in `sun_path`, without the final zero byte of a path.
    pub name: Option<Vec<u8>>,
    /// Inode and device of the node that it was bound to (device as `major << 20 | minor`).
    pub node: Option<(u32, u32)>,
    /// Inode of its peer.
    pub peer: Option<u32>,
    /// A listening socket: inodes of those who wait to be accepted (0: not told).
    pub waiting: Vec<u32>,
    /// Bytes that wait to be read; a listening socket: connections that wait.
    pub receive_queue: u32,
    /// Bytes on their way to the peer; a listening socket: its backlog.
    pub send_queue: u32,
    /// `RCV_SHUTDOWN` 1, `SEND_SHUTDOWN` 2.
    pub shutdown: u8,
}

/// Opens a socket for [`dump`] in the network namespace of the calling thread.
///
/// # Errors
/// EPROTONOSUPPORT where the kernel has no sock_diag.
pub fn open() -> io::Result<rustix::fd::OwnedFd> {
    socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG)
}

/// All Unix sockets of the namespace that `diag` was opened in, by inode.
///
/// # Errors
/// ENOENT where the kernel has no diag for Unix sockets.
pub fn dump(diag: impl AsFd) -> io::Result<HashMap<u32, UnixInfo>> {
    const SHOW_ALL: u32 = 0x1F;
    let mut request = Vec::with_capacity(40);
    request.extend(40_u32.to_ne_bytes());
    request.extend(20_u16.to_ne_bytes()); // SOCK_DIAG_BY_FAMILY
    request.extend((libc::NLM_F_REQUEST as u16 | libc::NLM_F_DUMP as u16).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(SHOW_ALL.to_ne_bytes());
    request.extend([0; 8]);
    send(&diag, &request, None)?;
    let mut sockets = HashMap::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        let len = match rustix::io::read(&diag, &mut buffer) {
            Ok(len) => len,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if read_messages(&buffer[..len], &mut sockets)? {
            return Ok(sockets);
        }
        if sockets.len() > SOCKETS_MAX {
            return Err(io::Error::other("more Unix sockets than are read"));
        }
    }
}

/// Bytes that wait in a netlink socket, or nothing: used to refuse those with unread messages.
///
/// # Errors
/// As [`peek`].
pub fn has_unread(netlink: impl AsFd) -> io::Result<bool> {
    Ok(peek(netlink, 16)?.is_some())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// Reads the messages of one datagram; `true` at the end of the dump.
fn read_messages(mut bytes: &[u8], sockets: &mut HashMap<u32, UnixInfo>) -> io::Result<bool> {
    while let (Some(len), Some(sort)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let len = len as usize;
        if len < 16 || len > bytes.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match i32::from(sort) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let code = u32_at(bytes, 16).map_or(libc::EPROTO, |code| -(code as i32));
                return Err(io::Error::from_raw_os_error(code));
            }
            20 => {
                if let Some((inode, info)) = read_socket(&bytes[16..len]) {
                    sockets.insert(inode, info);
                }
            }
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn read_socket(bytes: &[u8]) -> Option<(u32, UnixInfo)> {
    let inode = u32_at(bytes, 4)?;
    let mut info = UnixInfo { sort: *bytes.get(1)?, state: *bytes.get(2)?, ..UnixInfo::default() };
    let mut rest = bytes.get(16..)?;
    while let (Some(len), Some(sort)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let len = (len as usize).clamp(4, rest.len());
        let value = &rest[4..len];
        match sort {
            0 => {
                let mut name = value.to_vec();
                // A path comes with its final zero byte; an abstract name begins with one and has none at the end.
                if name.first() != Some(&0) && name.last() == Some(&0) {
                    name.pop();
                }
                info.name = Some(name);
            }
            1 => info.node = Some((u32_at(value, 0)?, u32_at(value, 4)?)),
            2 => info.peer = u32_at(value, 0),
            3 => info.waiting = value.chunks_exact(4).filter_map(|four| u32_at(four, 0)).collect(),
            4 => (info.receive_queue, info.send_queue) = (u32_at(value, 0)?, u32_at(value, 4)?),
            6 => info.shutdown = *value.first()?,
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((inode, info))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockaddr::pair;

    #[test]
    fn finds_peers_and_queues() {
        let (a, b) = pair(libc::SOCK_STREAM).unwrap();
        send(&a, b"waiting", None).unwrap();
        let inode = |fd: &rustix::fd::OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino as u32;
        let all = dump(open().unwrap()).unwrap();
        let info = &all[&inode(&b)];
        assert_eq!(info.peer, Some(inode(&a)));
        assert_eq!((info.state, info.receive_queue, info.sort), (1, 7, libc::SOCK_STREAM as u8));
    }

    #[test]
    fn bounds_what_it_reads() {
        let mut sockets = HashMap::new();
        for bytes in [&[0xff_u8; 40][..], &[0; 40], &[1, 0, 0, 0, 20, 0], &[]] {
            let _ = read_messages(bytes, &mut sockets);
        }
    }
}
