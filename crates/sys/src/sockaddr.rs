//! Sockets by addresses that are plain bytes (`struct sockaddr` as the kernel has it), and messages looked at without being taken.
//!
//! Addresses travel from host to host as they are; nothing here needs to understand them.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::io;
use std::mem::{size_of, zeroed};

const ADDRESS_MAX: usize = size_of::<libc::sockaddr_storage>();

fn check(done: i32) -> io::Result<i32> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

/// Makes a socket, close-on-exec.
///
/// # Errors
/// EAFNOSUPPORT, EPROTONOSUPPORT, EPERM.
pub fn socket(domain: i32, sort: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: makes a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::socket(domain, sort | libc::SOCK_CLOEXEC, protocol))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Makes two connected Unix sockets, close-on-exec.
///
/// # Errors
/// EMFILE and the like.
pub fn pair(sort: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: the kernel fills two descriptors that nobody else owns.
    unsafe {
        check(libc::socketpair(libc::AF_UNIX, sort | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()))?;
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

type NameCall = unsafe extern "C" fn(i32, *mut libc::sockaddr, *mut u32) -> i32;

fn name_of(socket: BorrowedFd<'_>, call: NameCall) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; ADDRESS_MAX];
    let mut len = ADDRESS_MAX as u32;
    // SAFETY: the kernel writes at most `len` bytes into the buffer, which has as many.
    check(unsafe { call(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), &raw mut len) })?;
    buffer.truncate(len as usize);
    Ok(buffer)
}

/// Its own address. A Unix socket without a name gives just the two bytes of the family.
///
/// # Errors
/// ENOTSOCK, EBADF.
pub fn local(socket: impl AsFd) -> io::Result<Vec<u8>> {
    name_of(socket.as_fd(), libc::getsockname)
}

/// Its peer's address.
///
/// # Errors
/// ENOTCONN.
pub fn remote(socket: impl AsFd) -> io::Result<Vec<u8>> {
    name_of(socket.as_fd(), libc::getpeername)
}

/// Binds it.
///
/// # Errors
/// EADDRINUSE, EADDRNOTAVAIL, EACCES ..
pub fn bind(socket: impl AsFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as the slice has.
    check(unsafe { libc::bind(socket.as_fd().as_raw_fd(), address.as_ptr().cast(), address.len() as u32) })?;
    Ok(())
}

/// Connects it.
///
/// # Errors
/// ECONNREFUSED, EINPROGRESS, ENETUNREACH ..
pub fn connect(socket: impl AsFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as the slice has.
    check(unsafe {
        libc::connect(socket.as_fd().as_raw_fd(), address.as_ptr().cast(), address.len() as u32)
    })?;
    Ok(())
}

/// Takes it out of an association (`connect` to `AF_UNSPEC`).
///
/// # Errors
/// As [`connect`].
pub fn disconnect(socket: impl AsFd) -> io::Result<()> {
    connect(socket, &[0; 16])
}

/// Sends one message; `to` where it is not connected. Never waits, never raises SIGPIPE.
///
/// # Errors
/// EAGAIN when the queue is full, EMSGSIZE, EPIPE ..
pub fn send(socket: impl AsFd, bytes: &[u8], to: Option<&[u8]>) -> io::Result<usize> {
    let (address, len) = to.map_or((std::ptr::null(), 0), |to| (to.as_ptr(), to.len() as u32));
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads both slices, with their lengths.
    let done = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
            address.cast(),
            len,
        )
    };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// A message that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peeked {
    /// Its bytes. `buffer` of [`peek`] bounds them.
    pub bytes: Vec<u8>,
    /// Who sent it.
    pub from: Option<Vec<u8>>,
    /// It did not fit.
    pub truncated: bool,
    /// How many descriptors travel with it.
    pub descriptors: usize,
    /// The address that it was sent to, where the socket has `IP_PKTINFO` or `IPV6_RECVPKTINFO` (4 or 16 bytes).
    pub to: Option<Vec<u8>>,
}

/// Looks at what waits in a receive queue without taking it, from where `SO_PEEK_OFF` points. `None`: nothing there.
/// Descriptors that travel with it are counted and given back at once.
///
/// # Errors
/// What `recvmsg` says, but for EAGAIN.
pub fn peek(socket: impl AsFd, size: usize) -> io::Result<Option<Peeked>> {
    let mut found = Peeked { bytes: vec![0; size], ..Peeked::default() };
    let mut address = vec![0_u8; ADDRESS_MAX];
    let mut control = [0_u64; 600];
    let mut part = libc::iovec { iov_base: found.bytes.as_mut_ptr().cast(), iov_len: size };
    // SAFETY: all zero is a valid msghdr; it is filled below.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen = ADDRESS_MAX as u32;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // Not MSG_TRUNC: on TCP that means to copy nothing.
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: every pointer in the header points to a live buffer of the length beside it.
    let done = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    let Ok(len) = usize::try_from(done) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    };
    found.truncated = message.msg_flags & libc::MSG_TRUNC != 0;
    found.bytes.truncate(len.min(size));
    if message.msg_namelen > 0 {
        address.truncate(message.msg_namelen as usize);
        found.from = Some(address);
    }
    // SAFETY: the kernel wrote whole control messages into the buffer and its length into the header; the macros stay
    // within it. Descriptors in it are ours and are closed here.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(&raw const message);
        while !at.is_null() {
            let data = libc::CMSG_DATA(at);
            let len = (*at).cmsg_len - (data as usize - at as usize);
            match ((*at).cmsg_level, (*at).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for number in 0..len / size_of::<RawFd>() {
                        let fd = data.cast::<RawFd>().add(number).read_unaligned();
                        drop(OwnedFd::from_raw_fd(fd));
                        found.descriptors += 1;
                    }
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if len >= 12 => {
                    found.to = Some(std::slice::from_raw_parts(data.add(8), 4).to_vec());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if len >= 16 => {
                    found.to = Some(std::slice::from_raw_parts(data, 16).to_vec());
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(&raw const message, at);
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peeks_without_taking() {
        let (a, b) = pair(libc::SOCK_DGRAM).unwrap();
        send(&a, b"one", None).unwrap();
        assert_eq!(peek(&b, 100).unwrap().unwrap().bytes, b"one");
        assert_eq!(peek(&b, 100).unwrap().unwrap().bytes, b"one");
        assert!(peek(&a, 100).unwrap().is_none());
        assert!(peek(&b, 2).unwrap().unwrap().truncated);
        assert_eq!(local(&a).unwrap(), (libc::AF_UNIX as u16).to_ne_bytes());
    }
}
