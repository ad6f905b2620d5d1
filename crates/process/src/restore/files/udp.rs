//! UDP sockets, made again; datagrams that waited are played to them.

use super::Error;
use super::inject;
use super::socket::{new, set_buffers, set_options, widen};
use super::tcp::show;
use crate::records::socket::{Membership, Socket, UdpSocket};
use ferry_sys::{ioctl, sockaddr, sockopt};
use rustix::fd::OwnedFd;
use rustix::net::Shutdown;

/// Makes the socket.
pub(super) fn create(socket: &Socket, record: &UdpSocket) -> Result<OwnedFd, Error> {
    let fd = new(socket)?;
    if let Some(local) = &record.local {
        sockaddr::bind(&fd, local).map_err(Error::kernel(format!("bind {}", show(local))))?;
    }
    if let Some(remote) = &record.remote {
        sockaddr::connect(&fd, remote).map_err(Error::kernel(format!("connect to {}", show(remote))))?;
    }
    set_options(&fd, socket)?;
    for membership in &record.memberships {
        let what = format!("join the multicast group {} on {}", show(&membership.group), membership.device);
        join(&fd, membership).map_err(Error::kernel(what))?;
    }
    if let Some(device) = &record.multicast_device {
        ferry_sys::netdevice::index_of(device)
            .and_then(|index| {
                sockopt::set_int(&fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, index.cast_signed())
            })
            .map_err(Error::kernel(format!("send to multicast groups by {device}")))?;
    }
    if let Some(local) = &record.local
        && !record.queue.is_empty()
    {
        let bytes: usize = record.queue.iter().map(|message| message.bytes.len() + 1024).sum();
        widen(&fd, bytes)?;
        for message in &record.queue {
            let Some(from) = &message.from else { continue };
            let to = destination(local, message.to.as_deref());
            inject::datagram(from, &to, &message.bytes)
                .map_err(Error::kernel(format!("deliver a datagram to {} again", show(local))))?;
        }
        let wanted = record.queue.iter().any(|message| !message.bytes.is_empty());
        inject::wait_for(|| Ok(!wanted || ioctl::get(&fd, ioctl::Int::Readable)? > 0))
            .map_err(Error::kernel(format!("see the datagrams for {}", show(local))))?;
    }
    set_buffers(&fd, socket)?;
    if record.shutdown & 1 != 0 {
        let _ = rustix::net::shutdown(
            &fd,
            if record.shutdown & 2 != 0 { Shutdown::Both } else { Shutdown::Read },
        );
    }
    Ok(fd)
}

/// Joins a group, with its filter of sources (`struct group_filter`).
fn join(fd: &OwnedFd, membership: &Membership) -> std::io::Result<()> {
    const JOIN_GROUP: i32 = 42;
    const FILTER: i32 = 48;
    const ADDRESS_BYTES: usize = 128;
    const EXCLUDE: u32 = 0;
    let family = membership.group.first_chunk::<2>().map(|family| i32::from(u16::from_ne_bytes(*family)));
    let level = if family == Some(libc::AF_INET6) { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IP };
    let padded = |address: &[u8]| {
        let mut address = address.to_vec();
        address.resize(ADDRESS_BYTES, 0);
        address
    };
    let index = ferry_sys::netdevice::index_of(&membership.device)?;
    let mut request = u64::from(index).to_ne_bytes().to_vec();
    request.extend(padded(&membership.group));
    sockopt::set(fd, level, JOIN_GROUP, &request)?;
    if membership.mode == EXCLUDE && membership.sources.is_empty() {
        return Ok(());
    }
    request.extend(membership.mode.to_ne_bytes());
    request.extend((membership.sources.len() as u32).to_ne_bytes());
    request.extend(membership.sources.iter().flat_map(|source| padded(source)));
    sockopt::set(fd, level, FILTER, &request)
}

/// The address that a datagram was sent to: the socket's own, or the one of the datagram where the socket takes any.
fn destination(local: &[u8], to: Option<&[u8]>) -> Vec<u8> {
    let mut address = local.to_vec();
    let Some(to) = to else { return address };
    let at = match (to.len(), local.len()) {
        (4, 16) => 4,
        (16, 28..) => 8,
        _ => return address,
    };
    if address[at..at + to.len()].iter().all(|&byte| byte == 0) {
        address[at..at + to.len()].copy_from_slice(to);
    }
    address
}
