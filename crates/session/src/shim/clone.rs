//! What makes a remote clone a workload of its own on the network: connections of its original are reset, its listeners stay, and
//! what was bound to the original's address is bound to its own.

use ferry_process::records::State;
use ferry_process::records::file::Kind;
use ferry_process::records::socket::{Detail, TcpSocket};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `TCP_SYN_SENT`, `TCP_CLOSE` and `TCP_LISTEN`, as in `tcp_info`.
const SYN_SENT: u8 = 2;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// `IPPROTO_IP` and `IP_MULTICAST_IF`: a device named by its address.
const MULTICAST_IF: (i32, i32) = (0, 32);
/// The error by which a reset connection reads.
const ECONNRESET: i32 = 104;

/// Resets established connections: two programs must not speak on one connection, so what waits in them is dropped too. Those
/// within the workload (over its loopback or its own address, both ends its own) are copied with it. `own`: the original's
/// addresses; `given`: the clone's. Without a network of its own there are none, and the loopback is shared with others.
pub(crate) fn part(state: &mut State, own: &[IpAddr], given: &[IpAddr]) {
    let ends = connected(state);
    for description in &mut state.files.descriptions {
        let Kind::Socket(socket) = &mut description.kind else { continue };
        let device = socket.options.iter_mut().filter(|option| (option.level, option.name) == MULTICAST_IF);
        device.for_each(|option| rebind(&mut option.value, own, given));
        match &mut socket.detail {
            Detail::Tcp(tcp) => {
                let within = tcp.remote.as_deref().and_then(ip_of).is_some_and(|ip| is_own(ip, own))
                    && both(tcp).is_some_and(|(local, remote)| ends.contains(&(remote, local)));
                if !matches!(tcp.state, SYN_SENT | CLOSE | LISTEN) && !within {
                    reset(tcp);
                }
                for address in [&mut tcp.local, &mut tcp.remote].into_iter().flatten() {
                    rebind(address, own, given);
                }
            }
            Detail::Udp(udp) => {
                let waiting = udp.queue.iter_mut().flat_map(|message| [&mut message.from, &mut message.to]);
                for address in [&mut udp.local, &mut udp.remote].into_iter().chain(waiting).flatten() {
                    rebind(address, own, given);
                }
            }
            _ => {}
        }
    }
}

/// An address and its port.
type End = (IpAddr, [u8; 2]);

/// Both ends of a connection. The port stands at the same place in every `sockaddr`.
fn both(tcp: &TcpSocket) -> Option<(End, End)> {
    let end = |address: &[u8]| Some((ip_of(address)?, address.get(2..4)?.try_into().ok()?));
    Some((end(tcp.local.as_deref()?)?, end(tcp.remote.as_deref()?)?))
}

/// Every connection of which the workload has an end, seen from that end.
fn connected(state: &State) -> HashSet<(End, End)> {
    let sockets = state.files.descriptions.iter().filter_map(|description| match &description.kind {
        Kind::Socket(socket) => Some(socket),
        _ => None,
    });
    let ends = sockets.filter_map(|socket| match &socket.detail {
        Detail::Tcp(tcp) => both(tcp),
        _ => None,
    });
    ends.collect()
}

/// Makes of a connection one whose peer has reset it.
fn reset(tcp: &mut TcpSocket) {
    let local = tcp.local.take();
    *tcp = TcpSocket { state: CLOSE, shutdown: 3, error: ECONNRESET, local, ..TcpSocket::default() };
}

/// Resets connections of which the workload does not have both ends: those that a move ends, since they are of the host's own address.
pub(super) fn part_from_others(state: &mut State) {
    let ends = connected(state);
    for description in &mut state.files.descriptions {
        if let Kind::Socket(socket) = &mut description.kind
            && let Detail::Tcp(tcp) = &mut socket.detail
            && !matches!(tcp.state, SYN_SENT | CLOSE | LISTEN)
            && !both(tcp).is_some_and(|(local, remote)| ends.contains(&(remote, local)))
        {
            reset(tcp);
            // The address stays with its host.
            tcp.local = None;
        }
    }
}

fn is_own(ip: IpAddr, own: &[IpAddr]) -> bool {
    ip.is_loopback() || own.contains(&ip)
}

/// Where the address of a `sockaddr`, or of a bare address of 4 or 16 bytes, stands.
fn place_of(address: &[u8]) -> Option<std::ops::Range<usize>> {
    let family = address.first_chunk::<2>().map(|family| u16::from_ne_bytes(*family));
    match (address.len(), family) {
        (4, _) => Some(0..4),
        (16.., Some(2)) => Some(4..8),
        (24.., Some(10)) => Some(8..24),
        (16, _) => Some(0..16),
        _ => None,
    }
}

/// The address in it; an IPv4 address in IPv6's clothes is undressed.
fn ip_of(address: &[u8]) -> Option<IpAddr> {
    let bytes = address.get(place_of(address)?)?;
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical())
}

/// Puts the clone's address of the same family in the place of one of the original's.
fn rebind(address: &mut [u8], own: &[IpAddr], given: &[IpAddr]) {
    let Some(old) = ip_of(address).filter(|ip| own.contains(ip)) else { return };
    let Some(new) = given.iter().find(|new| new.is_ipv4() == old.is_ipv4()) else { return };
    let Some(place) = place_of(address).and_then(|place| address.get_mut(place)) else { return };
    match new {
        // Of an IPv4 address in IPv6's clothes the last four bytes change.
        IpAddr::V4(new) => {
            let before = place.len().saturating_sub(4);
            place[before..].copy_from_slice(&new.octets());
        }
        IpAddr::V6(new) => place.copy_from_slice(&new.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_process::records::file::Description;
    use ferry_process::records::socket::{Message, Socket, UdpSocket};

    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));
    const GIVEN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 6));

    fn four(ip: [u8; 4]) -> Vec<u8> {
        [&2u16.to_ne_bytes()[..], &[0, 80], &ip, &[0; 8]].concat()
    }

    fn six(ip: Ipv6Addr) -> Vec<u8> {
        [&10u16.to_ne_bytes()[..], &[0, 80, 0, 0, 0, 0], &ip.octets(), &[0; 4]].concat()
    }

    fn described(detail: Detail) -> Description {
        Description {
            kind: Kind::Socket(Box::new(Socket { detail, ..Socket::default() })),
            ..Description::default()
        }
    }

    fn tcp(state: u8, local: Option<Vec<u8>>, remote: Option<Vec<u8>>) -> Description {
        described(Detail::Tcp(Box::new(TcpSocket { state, local, remote, ..TcpSocket::default() })))
    }

    fn parted(descriptions: Vec<Description>) -> Vec<Detail> {
        let mut state = State::default();
        state.files.descriptions = descriptions;
        part(&mut state, &[OWN], &[GIVEN]);
        let details = state.files.descriptions.into_iter().map(|each| match each.kind {
            Kind::Socket(socket) => socket.detail,
            other => panic!("{other:?}"),
        });
        details.collect()
    }

    fn parted_tcp(descriptions: Vec<Description>) -> Vec<TcpSocket> {
        let details = parted(descriptions).into_iter().map(|detail| match detail {
            Detail::Tcp(tcp) => *tcp,
            other => panic!("{other:?}"),
        });
        details.collect()
    }

    #[test]
    fn a_connection_with_both_ends_here_stays_in_a_move_that_ends_the_others() {
        let at = |ip: [u8; 4], port: u16| {
            Some([&2u16.to_ne_bytes()[..], &port.to_be_bytes(), &ip, &[0; 8]].concat())
        };
        let mut state = State::default();
        state.files.descriptions = vec![
            tcp(1, at([127, 0, 0, 1], 80), at([127, 0, 0, 1], 9)),
            tcp(1, at([127, 0, 0, 1], 9), at([127, 0, 0, 1], 80)),
            tcp(1, at([127, 0, 0, 1], 81), at([127, 0, 0, 1], 10)),
            tcp(1, at([10, 0, 0, 1], 80), at([10, 0, 0, 2], 9)),
        ];
        part_from_others(&mut state);
        let stays = |each: &Description| match &each.kind {
            Kind::Socket(socket) => matches!(&socket.detail, Detail::Tcp(tcp) if tcp.state == 1),
            _ => false,
        };
        let stayed: Vec<bool> = state.files.descriptions.iter().map(stays).collect();
        assert_eq!(stayed, [true, true, false, false]);
    }

    #[test]
    fn only_connections_to_others_are_reset() {
        let own = || Some(four([10, 0, 0, 5]));
        let all = parted_tcp(vec![
            tcp(1, own(), Some(four([10, 0, 0, 9]))),
            tcp(1, Some(four([127, 0, 0, 1])), Some(four([127, 0, 0, 1]))),
            tcp(LISTEN, own(), None),
            tcp(8, own(), Some(four([8; 4]))),
            tcp(1, own(), own()),
            tcp(SYN_SENT, own(), Some(four([8; 4]))),
        ]);
        let states: Vec<(u8, i32)> = all.iter().map(|tcp| (tcp.state, tcp.error)).collect();
        let reset = (CLOSE, ECONNRESET);
        assert_eq!(states, vec![reset, (1, 0), (LISTEN, 0), reset, (1, 0), (SYN_SENT, 0)]);
        assert_eq!(all[0].remote, None);
        assert_eq!(all[5].remote, Some(four([8; 4])));
    }

    #[test]
    fn what_was_bound_to_the_originals_address_is_bound_to_the_clones() {
        let mapped = |last| Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped();
        let all = parted_tcp(vec![
            tcp(LISTEN, Some(four([10, 0, 0, 5])), None),
            tcp(LISTEN, Some(six(mapped(5))), None),
            tcp(LISTEN, Some(four([0; 4])), None),
            tcp(LISTEN, Some(six(Ipv6Addr::LOCALHOST)), None),
            tcp(1, Some(four([10, 0, 0, 5])), Some(four([10, 0, 0, 5]))),
        ]);
        let locals: Vec<Vec<u8>> = all.iter().map(|tcp| tcp.local.clone().unwrap()).collect();
        let own = four([10, 0, 0, 6]);
        let wanted = vec![own.clone(), six(mapped(6)), four([0; 4]), six(Ipv6Addr::LOCALHOST), own.clone()];
        assert_eq!(locals, wanted);
        assert_eq!(all[4].remote, Some(own));
    }

    #[test]
    fn datagrams_that_wait_were_sent_to_the_clone() {
        let message =
            Message { from: Some(four([10, 0, 0, 9])), to: Some(vec![10, 0, 0, 5]), ..Message::default() };
        let udp = UdpSocket { queue: vec![message], ..UdpSocket::default() };
        let Detail::Udp(udp) = parted(vec![described(Detail::Udp(udp))]).remove(0) else { panic!("not UDP") };
        assert_eq!(udp.queue[0].to, Some(vec![10, 0, 0, 6]));
        assert_eq!(udp.queue[0].from, Some(four([10, 0, 0, 9])));
    }
}
