//! Descriptors into a task: over a Unix socket pair that the task itself makes, of which we take one end.

use super::Error;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;

/// Most descriptors in one message: the kernel's SCM_MAX_FD.
pub(super) const PER_MESSAGE: usize = 253;

/// Takes a copy of descriptor `fd` of process `pid`.
pub(super) fn take(pid: i32, fd: i32) -> Result<OwnedFd, Error> {
    let failed = |error: rustix::io::Errno| {
        Error::host(format!("take descriptor {fd} of task {pid}"))(io::Error::from(error))
    };
    let pid = Pid::from_raw(pid).ok_or_else(|| failed(rustix::io::Errno::SRCH))?;
    // A thread that is not its process' first is only taken with PIDFD_THREAD (Linux 6.9).
    let thread = PidfdFlags::from_bits_retain(rustix::fs::OFlags::EXCL.bits());
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).or_else(|_| pidfd_open(pid, thread)).map_err(failed)?;
    pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty()).map_err(failed)
}

/// Sends all descriptors, as many messages of one byte as it takes.
pub(super) fn send(socket: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> Result<usize, Error> {
    let mut messages = 0;
    for part in descriptors.chunks(PER_MESSAGE) {
        let mut space = vec![MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(PER_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(part));
        sendmsg(&socket, &[IoSlice::new(b"f")], &mut control, SendFlags::NOSIGNAL)
            .map_err(|error| Error::host("pass descriptors to a puppet")(io::Error::from(error)))?;
        messages += 1;
    }
    Ok(messages)
}

/// Bytes of the control buffer of one message.
pub(super) const CONTROL_BYTES: usize = 16 + PER_MESSAGE * 4 + 4;

/// Adds the `recvmsg` of one message from `socket` to a program; returns its index and the address of the control buffer.
pub(super) fn receive(program: &mut ferry_sys::remote::Program, socket: u64) -> (usize, u64) {
    let byte = program.room(8);
    let vector = program.data(&[byte.to_ne_bytes(), 1u64.to_ne_bytes()].concat());
    let control = program.room(CONTROL_BYTES);
    // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags.
    let header = [0, 0, vector, 1, control, CONTROL_BYTES as u64, 0];
    let header = program.data(&header.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
    let index = program.call("receive descriptors", libc::SYS_recvmsg, &[socket, header, 0]);
    (index, control)
}
