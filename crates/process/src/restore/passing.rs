//! Descriptors into a task: over a Unix socket pair that the task itself makes, of which we take one end.

use super::Error;
use ferry_sys::remote::{Machine, Reach, Site, Tracee};
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

/// Passes descriptors to a stopped task by calls made alone; answers with their numbers there. `scratch` is a page of the task that
/// `reach` writes.
pub(super) fn pass(
    machine: &mut Machine,
    (tracee, site): (Tracee, &Site),
    reach: &Reach<'_>,
    scratch: u64,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Vec<i32>, Error> {
    if descriptors.is_empty() {
        return Ok(Vec::new());
    }
    let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u64;
    let args = [libc::AF_UNIX as u64, kind, 0, scratch];
    machine.must(tracee, site, "make a socket pair", libc::SYS_socketpair, &args)?;
    let (read, write) = (Error::host("read a puppet's memory"), "write a puppet's memory");
    let mut pair = [0u8; 8];
    reach.read(scratch, &mut pair).map_err(read)?;
    let end = |at: usize| i32::from_ne_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
    let socket = take(tracee.tid, end(4))?;
    let mut passed = Vec::new();
    for part in descriptors.chunks(PER_MESSAGE) {
        send(&socket, part)?;
        // The byte at +32, iovec at +64, header at +128, control at +256.
        let control = scratch + 256;
        let vector = [(scratch + 32).to_ne_bytes(), 1u64.to_ne_bytes()].concat();
        let header = [0, 0, scratch + 64, 1, control, CONTROL_BYTES as u64, 0];
        let header: Vec<u8> = header.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
        reach.write(scratch + 64, &vector).map_err(Error::host(write))?;
        reach.write(scratch + 128, &header).map_err(Error::host(write))?;
        let args = [end(0) as u64, scratch + 128, 0];
        machine.must(tracee, site, "receive descriptors", libc::SYS_recvmsg, &args)?;
        let mut answer = vec![0u8; CONTROL_BYTES];
        reach.read(control, &mut answer).map_err(Error::host("read a puppet's memory"))?;
        for number in answer[16..].chunks_exact(4).take(part.len()) {
            passed.push(i32::from_ne_bytes([number[0], number[1], number[2], number[3]]));
        }
    }
    for at in [0, 4] {
        machine.must(tracee, site, "close a socket", libc::SYS_close, &[end(at) as u64])?;
    }
    Ok(passed)
}
