//! Messages with descriptors (`SCM_RIGHTS`) over Unix sockets of the message kinds (datagram, seqpacket).
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// Most descriptors in one message (the kernel's limit, SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 253;

/// Sends `bytes` (at least one) with `descriptors` as one message.
///
/// # Errors
/// EPIPE when the other side is gone, ETOOMANYREFS with too many descriptors in flight.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = retry(|| sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one message into `buffer`: its length (0: the other side is gone) and its descriptors, close-on-exec.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when the message or its descriptors did not fit; WouldBlock when `flags` has
/// `DONTWAIT` and there is none.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = retry(|| {
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(buffer)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            descriptors.extend(fds);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "A message or its descriptors did not fit"));
    }
    Ok((message.bytes, descriptors))
}

/// Process id of who connected a Unix socket, in the caller's pid namespace; 0 when it is outside of it.
///
/// # Errors
/// ENOTSOCK and the like.
pub fn peer_pid(socket: impl AsFd) -> io::Result<i32> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of_val(&credentials) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `credentials`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(credentials.pid) } else { Err(io::Error::last_os_error()) }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::io::{Read, Write};

    #[test]
    fn a_pipe_goes_through_a_socket() {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&a, b"take this", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut buffer = [0; 32];
        let (length, mut descriptors) = receive(&b, &mut buffer, RecvFlags::empty()).unwrap();
        assert_eq!(&buffer[..length], b"take this");
        let mut file = std::fs::File::from(descriptors.pop().unwrap());
        file.write_all(b"hello").unwrap();
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(peer_pid(&a).unwrap(), rustix::process::getpid().as_raw_pid());
        send(&a, &[7; 33], &[]).unwrap();
        assert_eq!(
            receive(&b, &mut buffer, RecvFlags::empty()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        drop(a);
        assert_eq!(receive(&b, &mut buffer, RecvFlags::empty()).unwrap().0, 0);
    }
}
