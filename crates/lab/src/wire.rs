//! Messages between the lab's owner and its helpers: JSON in one datagram of a sequenced-packet socket, descriptors beside it.

use crate::error::{At, Error, Result};
use crate::spec::HostSpec;
use rustix::io::IoSlice;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest message in bytes: a command line with its environment.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Most descriptors beside one message.
const DESCRIPTORS_MAX: usize = 3;

/// What the owner asks the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToKeeper {
    /// Start a host; its control socket comes along.
    Host(Box<HostSpec>),
    /// Connect or disconnect a host's cable, by its number.
    Link { number: u8, up: bool },
    /// Limit what the switch sends to a host, in bytes a second.
    Rate { number: u8, bytes_per_s: u64 },
}

/// What the keeper answers, one for each question.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromKeeper {
    /// Done. For a host: the pid of its door.
    Done(Option<i32>),
    /// Not done, with the reason.
    Failed(String),
}

/// What the owner asks a host's agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToAgent {
    /// Run this; standard input, output and error come along.
    Spawn(Command),
    /// Send a signal to a process of the host.
    Kill { pid: i32, signal: i32 },
    /// Crash and start again: every process is killed, what was not on a disk is gone, a new boot id.
    Reboot,
}

/// What an agent says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromAgent {
    /// The host is up.
    Ready,
    /// Answer to [`ToAgent::Spawn`].
    Spawned(Result<i32, String>),
    /// Answer to the others.
    Done(Result<(), String>),
    /// One that it spawned ended: its wait status as the kernel encodes it.
    Ended { pid: i32, status: i32 },
}

/// A command as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Command {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
}

/// A connected pair, closed on exec.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .at("Making a control socket")
}

/// Sends one message with its descriptors.
pub(crate) fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let bytes = serde_json::to_vec(message).map_err(|error| Error::Message(error.to_string()))?;
    if bytes.len() > MESSAGE_BYTES_MAX || fds.len() > DESCRIPTORS_MAX {
        return Err(Error::Message("it is too long".into()));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
    })
    .at("Sending a message of the lab")?;
    Ok(())
}

/// Waits for one message. `None`: the other side is gone.
pub(crate) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other.at("Waiting for a message of the lab")?,
        }
    };
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let message =
        serde_json::from_slice(&bytes[..got.bytes]).map_err(|error| Error::Message(error.to_string()))?;
    Ok(Some((message, fds)))
}
