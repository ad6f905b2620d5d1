//! The TCP endpoints of a tree, by their addresses: what a lock of its network has to hold back. Nothing is stopped or changed.

use super::class::Class;
use super::survey::Survey;
use super::{Error, FilesContext, TaskRef, tcp_state as state};
use ferry_sys::{sockaddr, tcp_repair};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's; none: it listens.
    pub remote: Option<SocketAddr>,
}

/// Every listener and every connection, in whatever state, that `tasks` hold.
///
/// # Errors
/// When their descriptors cannot be read.
pub fn endpoints(tasks: &[TaskRef]) -> Result<Vec<Endpoint>, Error> {
    let ctx = FilesContext::default();
    let survey = Survey::make(tasks, &ctx)?;
    let mut found = Vec::new();
    for look in survey.looks.iter().filter(|look| look.class == Class::Tcp) {
        let fd = survey.take(look)?;
        let listens = tcp_repair::info(&fd).is_ok_and(|info| info.state == state::LISTEN);
        let local = sockaddr::local(&fd).ok().and_then(|address| parse(&address));
        let remote = sockaddr::remote(&fd).ok().and_then(|address| parse(&address));
        match (local, remote) {
            (Some(local), None) if listens => found.push(Endpoint { local, remote: None }),
            (Some(local), Some(remote)) => found.push(Endpoint { local, remote: Some(remote) }),
            _ => {}
        }
    }
    Ok(found)
}

/// A `sockaddr_in` or `sockaddr_in6`.
#[must_use]
pub fn parse(address: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*address.first_chunk()?);
    let port = u16::from_be_bytes(address.get(2..4)?.try_into().ok()?);
    let ip: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(address.get(4..8)?).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(address.get(8..24)?).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
