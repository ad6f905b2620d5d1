//! Netlink messages: building, sending, acknowledgement, dumps. Enough for rtnetlink and `sock_diag`.
//!
//! A socket belongs to the network namespace in which it was opened, for ever: [`in_namespace`] opens one (or does
//! anything else) in another namespace and comes back.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
const ACK: u16 = 4;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// Most messages of one dump.
const MESSAGES_MAX: usize = 1_000_000;

/// A message to send: type, flags, fixed part, attributes.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Begins a message with its fixed part.
    #[must_use]
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds a text with its closing zero.
    #[must_use]
    pub fn with_text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.with(kind, &value)
    }

    /// Adds a number of 32 bits.
    #[must_use]
    pub fn with_number(self, kind: u16, number: u32) -> Self {
        self.with(kind, &number.to_ne_bytes())
    }

    /// Adds an attribute that holds `fixed` and then those that `fill` adds.
    #[must_use]
    pub fn with_nested(mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        self.pad();
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled.bytes[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        filled
    }
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its type.
    pub kind: u16,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Received {
    /// The fixed part, if there is as much.
    #[must_use]
    pub fn fixed<const N: usize>(&self) -> Option<&[u8; N]> {
        self.body.first_chunk()
    }

    /// The attributes after a fixed part of `fixed` bytes.
    pub fn attributes(&self, fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.body.get(fixed.next_multiple_of(4)..).unwrap_or_default())
    }

    /// The first attribute of this type.
    #[must_use]
    pub fn attribute(&self, fixed: usize, kind: u16) -> Option<&[u8]> {
        self.attributes(fixed).find(|(found, _)| *found == kind).map(|(_, value)| value)
    }
}

/// Splits a run of attributes; ends at the first that does not fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

/// A netlink socket for rtnetlink, or for `sock_diag`.
#[derive(Debug)]
pub struct Route {
    socket: OwnedFd,
    sequence: u32,
}

impl Route {
    /// Opens one (protocol 0 is rtnetlink) in the network namespace of the calling thread.
    ///
    /// # Errors
    /// EMFILE and the like.
    pub fn open() -> io::Result<Self> {
        Self::of(None)
    }

    /// The same for `sock_diag(7)`.
    ///
    /// # Errors
    /// As [`Self::open`]; EPROTONOSUPPORT where the kernel has none.
    pub fn open_diag() -> io::Result<Self> {
        Self::of(Some(netlink::SOCK_DIAG))
    }

    fn of(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn send(&mut self, mut message: Message, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(message.bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        message.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([message.bytes[6], message.bytes[7]]) | flags;
        message.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        message.bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        sendto(&self.socket, &message.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Sends a request and waits until the kernel has done it.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn ask(&mut self, message: Message) -> io::Result<()> {
        self.send(message, ACK)?;
        self.replies().map(drop)
    }

    /// Sends a request and gives the messages that answer it.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn get(&mut self, message: Message) -> io::Result<Vec<Received>> {
        self.send(message, ACK)?;
        self.replies()
    }

    /// Asks for all objects of a kind.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn dump(&mut self, message: Message) -> io::Result<Vec<Received>> {
        self.send(message, DUMP)?;
        self.replies()
    }

    fn replies(&mut self) -> io::Result<Vec<Received>> {
        let mut found = Vec::new();
        let mut buffer = vec![0u8; 1 << 16];
        loop {
            let (_, length) = recv(&self.socket, &mut buffer[..], RecvFlags::TRUNC)?;
            if length > buffer.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "A netlink message is too long"));
            }
            let mut rest = &buffer[..length];
            while let Some((kind, sequence, body, after)) = split(rest) {
                rest = after;
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    DONE => return Ok(found),
                    ERROR => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(found) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => found.push(Received { kind, body: body.to_vec() }),
                }
                if found.len() > MESSAGES_MAX {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "A netlink dump does not end"));
                }
            }
        }
    }
}

/// The first message of `bytes`: type, sequence, body, and what follows.
fn split(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let header = bytes.get(..HEADER)?;
    let body = bytes.get(HEADER..length)?;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    Some((kind, sequence, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Runs `work` with the calling thread in the network namespace `namespace`, and comes back.
///
/// # Errors
/// When the thread may not enter. A thread that cannot come back does not go on: that is a panic.
pub fn in_namespace<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::openat(CWD, "/proc/thread-self/ns/net", flags, Mode::empty())?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
    let result = work();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("back in the own network namespace");
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_listed() {
        let mut route = Route::open().unwrap();
        // RTM_GETLINK with an ifinfomsg; attribute 3 is the name.
        let links = route.dump(Message::new(18, 0, &[0; 16])).unwrap();
        assert!(links.iter().any(|link| link.attribute(16, 3) == Some(b"lo\0")));
        let missing = Message::new(18, 0, &[0; 16]).with_text(3, "no-such-device");
        assert_eq!(route.get(missing).unwrap_err().raw_os_error(), Some(19));
    }

    #[test]
    fn cut_attributes_end_the_list() {
        let message = Message::new(1, 0, &[1, 2])
            .with_nested(5, &[], |inner| inner.with_text(6, "x"))
            .with_number(7, 9);
        let received = Received { kind: 1, body: message.bytes[HEADER..].to_vec() };
        let kinds: Vec<u16> = received.attributes(2).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [5, 7]);
        for cut in 0..received.body.len() {
            assert!(attributes(&received.body[..cut]).count() <= 2);
        }
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0, "a length of zero");
    }
}
