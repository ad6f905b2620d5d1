//! TCP and UDP sockets as resources of a plan.
//!
//! In a network namespace of its own a workload takes its sockets along with its address. One that uses the host's network can take
//! along what names no address of the host: a port on all addresses or on the loopback (the target's port of that number serves
//! as well), and connections of which it has both ends.

use crate::capture::files::class::Class;
use crate::capture::files::endpoints;
use crate::capture::files::survey::{Look, Survey};
use ferry_model::resource::{Attachment, Binding};
use ferry_sys::{sockaddr, tcp_repair};
use rustix::fd::OwnedFd;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Sort, name, how it is bound and attached, bytes that wait.
pub(super) type Found = (&'static str, String, Binding, Attachment, u64);

/// The connections of a survey, each end by its own and its peer's address.
pub(super) struct Internet {
    own_network: bool,
    ends: BTreeSet<(SocketAddr, SocketAddr)>,
}

impl Internet {
    pub(super) fn of(survey: &Survey<'_>) -> Self {
        let end = |look: &Look| {
            let addresses = Addresses::of(&survey.take(look).ok()?);
            Some((addresses.local?, addresses.remote?))
        };
        let sockets = survey.looks.iter().filter(|look| matches!(look.class, Class::Tcp | Class::Udp));
        Self { own_network: has_own_network(survey), ends: sockets.filter_map(end).collect() }
    }

    pub(super) fn tcp(&self, survey: &Survey<'_>, look: &Look) -> Found {
        use ferry_sys::ioctl::{Int, get};
        let Ok(fd) = survey.take(look) else {
            return ("tcp-connection", look.name(), Binding::Identifier, Attachment::Fixed, 0);
        };
        let addresses = Addresses::of(&fd);
        let name = addresses.name().unwrap_or_else(|| look.name());
        let state = tcp_repair::info(&fd).map_or(0, |info| info.state);
        let sort = match state {
            10 => "listener",
            7 => "tcp-socket",
            _ => "tcp-connection",
        };
        let bytes = [Int::Readable, Int::Unacknowledged].iter().filter_map(|&what| get(&fd, what).ok());
        let bytes = if sort == "tcp-connection" {
            bytes.map(|bytes| u64::from(bytes.max(0) as u32)).sum()
        } else {
            0
        };
        let (binding, attachment) = self.place(&addresses);
        (sort, name, binding, attachment, bytes)
    }

    pub(super) fn udp(&self, survey: &Survey<'_>, look: &Look, bytes: u64) -> Found {
        let addresses = survey.take(look).map(|fd| Addresses::of(&fd)).unwrap_or_default();
        let name = addresses.name().unwrap_or_else(|| look.name());
        let (binding, attachment) = self.place(&addresses);
        ("udp-socket", name, binding, attachment, bytes)
    }

    fn place(&self, addresses: &Addresses) -> (Binding, Attachment) {
        if self.own_network {
            return (Binding::Identifier, Attachment::Unattached);
        }
        match (addresses.local, addresses.remote) {
            (Some(local), Some(remote)) if self.ends.contains(&(remote, local)) => {
                (Binding::Identifier, Attachment::Unattached)
            }
            (_, Some(_)) => (Binding::Identifier, Attachment::Fixed),
            // Not bound to anything yet.
            (None, None) => (Binding::Identifier, Attachment::Unattached),
            (Some(local), None) if local.port() == 0 => (Binding::Identifier, Attachment::Unattached),
            (Some(local), None) if local.ip().is_unspecified() || local.ip().is_loopback() => {
                (Binding::Type, Attachment::Fixed)
            }
            (Some(_), None) => (Binding::Identifier, Attachment::Fixed),
        }
    }
}

/// The addresses of one socket, IPv4 ones as such also where the socket is one of IPv6.
#[derive(Default)]
struct Addresses {
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
}

impl Addresses {
    fn of(fd: &OwnedFd) -> Self {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let read = |address: std::io::Result<Vec<u8>>| endpoints::parse(&address.ok()?).map(plain);
        Self { local: read(sockaddr::local(fd)), remote: read(sockaddr::remote(fd)) }
    }

    fn name(&self) -> Option<String> {
        match (self.local, self.remote) {
            (Some(local), Some(remote)) => Some(format!("{local} - {remote}")),
            (local, _) => local.map(|local| local.to_string()),
        }
    }
}

fn has_own_network(survey: &Survey<'_>) -> bool {
    let inode = |path: String| rustix::fs::stat(path).map(|stat| stat.st_ino).ok();
    let Ok(task) = survey.anyone() else { return false };
    let theirs = inode(format!("/proc/{}/ns/net", task.host_pid));
    theirs.is_some() && theirs != inode("/proc/self/ns/net".into())
}
