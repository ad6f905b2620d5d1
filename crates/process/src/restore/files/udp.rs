//! UDP sockets, made again; datagrams that waited are played to them.

use super::Error;
use super::inject;
use super::socket::{new, set_buffers, set_options, widen};
use super::tcp::show;
use crate::records::socket::{Socket, UdpSocket};
use ferry_sys::{ioctl, sockaddr};
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
