//! UDP sockets: addresses, multicast groups, and the datagrams that wait.

use super::survey::Look;
use super::{Capture, Error, multicast};
use crate::records::socket::{Message, UdpSocket};
use ferry_sys::enter::{Place, within};
use ferry_sys::sockaddr::{self, peek};
use ferry_sys::sockopt;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};

/// Captures the socket behind `look`.
pub(super) fn capture(
    capture: &mut Capture<'_>,
    look: &Look,
    fd: &OwnedFd,
    domain: i32,
) -> Result<UdpSocket, Error> {
    let what = || format!("read the UDP socket of {}", look.place());
    let local = sockaddr::local(fd).map_err(Error::kernel(what()))?;
    let bound = port(&local) != 0;
    let queue = if bound { queue(fd, domain).map_err(Error::kernel(what()))? } else { Vec::new() };
    capture.carry(look, queue.iter().map(|message| message.bytes.len() as u64).sum())?;
    Ok(UdpSocket {
        local: bound.then_some(local),
        remote: sockaddr::remote(fd).ok(),
        queue,
        shutdown: shutdown(fd).map_err(Error::kernel(what()))?,
        memberships: multicast::memberships(look, fd, domain).map_err(Error::kernel(what()))?,
        multicast_device: multicast_device(capture, fd, domain)?,
    })
}

/// The device that it sends to IPv6 groups by: its number may be another at the target.
fn multicast_device(capture: &Capture<'_>, fd: &OwnedFd, domain: i32) -> Result<Option<String>, Error> {
    let what = "name the device of a multicast socket";
    let chosen = match domain {
        libc::AF_INET6 => sockopt::get_int(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF).unwrap_or(0),
        _ => 0,
    };
    let Some(index) = u32::try_from(chosen).ok().filter(|index| *index != 0) else { return Ok(None) };
    let net = capture.survey.namespace("net")?;
    let place = Place { mount: None, net: Some(net.as_fd()) };
    let name = within(place, || ferry_sys::netdevice::name_of(index)).map_err(Error::kernel(what))?;
    name.map(Some).map_err(Error::kernel(what))
}

/// The port of an internet address.
pub(super) fn port(address: &[u8]) -> u16 {
    address.get(2..4).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

/// `RCV_SHUTDOWN` 1 and `SEND_SHUTDOWN` 2, as poll shows them.
pub(super) fn shutdown(fd: &OwnedFd) -> std::io::Result<u32> {
    let mut state = [PollFd::new(fd, PollFlags::IN | PollFlags::RDHUP)];
    rustix::event::poll(&mut state, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let seen = state[0].revents();
    Ok(match (seen.contains(PollFlags::RDHUP), seen.contains(PollFlags::HUP)) {
        (true, true) => 3,
        (true, false) => 1,
        _ => 0,
    })
}

/// The datagrams that wait, without taking them.
fn queue(fd: &OwnedFd, domain: i32) -> std::io::Result<Vec<Message>> {
    if rustix::io::ioctl_fionread(fd)? == 0 && peek(fd, 1)?.is_none() {
        return Ok(Vec::new());
    }
    let (level, name) = match domain {
        libc::AF_INET6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        _ => (libc::IPPROTO_IP, libc::IP_PKTINFO),
    };
    let settings = [(libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0), (level, name, 1)];
    let mut before = Vec::new();
    for (level, name, value) in settings {
        before.push((level, name, sockopt::get_int(fd, level, name)?));
        sockopt::set_int(fd, level, name, value)?;
    }
    let queue = read_queue(fd);
    for (level, name, value) in before {
        sockopt::set_int(fd, level, name, value)?;
    }
    queue
}

fn read_queue(fd: &OwnedFd) -> std::io::Result<Vec<Message>> {
    let mut queue = Vec::new();
    while let Some(found) = peek(fd, 1 << 16)? {
        let mut bytes = found.bytes;
        bytes.shrink_to_fit();
        queue.push(Message { bytes, from: found.from, to: found.to, sender: 0 });
    }
    Ok(queue)
}
