//! `sock_diag(7)` for TCP: connections of a network namespace, also those that no descriptor leads to any more.
//!
//! One dump looks at the whole table of connections of the machine (some milliseconds where that is large), so it is asked only when
//! [`orphans_anywhere`] says that there is something to find.

use crate::netlink::{Message, Received, Route};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
const FIN_WAIT1: u8 = 4;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
/// Length of `struct inet_diag_msg`.
const ANSWER: usize = 72;

/// A connection that its program has closed and that has not told its peer everything yet: its end, and perhaps data before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub remote: SocketAddr,
    /// What the peer has not acknowledged, bytes; the end counts as one.
    pub unacknowledged: u32,
}

/// How many connections without a descriptor there are on this machine, in all namespaces and all states. Cheap.
///
/// # Errors
/// When `/proc` does not tell.
pub fn orphans_anywhere() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/net/sockstat")?;
    orphans_of(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn orphans_of(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    line.split_whitespace().skip_while(|word| *word != "orphan").nth(1)?.parse().ok()
}

/// All orphans of the network namespace that `diag` ([`Route::open_diag`]) was opened in.
///
/// # Errors
/// ENOENT where the kernel has no diag for TCP.
pub fn orphans(diag: &mut Route) -> io::Result<Vec<Orphan>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
        let states = [FIN_WAIT1, LAST_ACK, CLOSING].iter().fold(0_u32, |all, state| all | 1 << state);
        request.extend(states.to_ne_bytes());
        request.extend([0; 48]);
        found.extend(diag.dump(Message::new(BY_FAMILY, 0, &request))?.iter().filter_map(orphan));
    }
    Ok(found)
}

fn orphan(answer: &Received) -> Option<Orphan> {
    let bytes = answer.fixed::<ANSWER>()?;
    let number = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let end = |port: usize, ip: usize| {
        let port = u16::from_be_bytes(*bytes.get(port..)?.first_chunk()?);
        let ip: &[u8; 16] = bytes.get(ip..)?.first_chunk()?;
        let ip = match i32::from(bytes[0]) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])),
            _ => IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical(),
        };
        Some(SocketAddr::new(ip, port))
    };
    // With a descriptor it has an inode, and is no orphan.
    (number(68)? == 0).then_some(())?;
    Some(Orphan { local: end(4, 8)?, remote: end(6, 24)?, unacknowledged: number(60)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_number_of_orphans_is_read() {
        let text = "sockets: used 9\nTCP: inuse 3 orphan 7 tw 1 alloc 4 mem 0\nUDP: inuse 0 mem 0\n";
        assert_eq!(orphans_of(text), Some(7));
        assert_eq!(orphans_of("TCP: inuse 3"), None);
    }

    #[test]
    fn a_closed_connection_that_nobody_reads_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut own = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (peer, _) = listener.accept().unwrap();
            let mut diag = Route::open_diag().unwrap();
            let of_this = |diag: &mut Route| {
                let remote = peer.local_addr().unwrap();
                orphans(diag).unwrap().into_iter().find(|orphan| orphan.remote == remote)
            };
            crate::socket_filter::drop_all(&peer).unwrap();
            own.write_all(b"unread").unwrap();
            assert_eq!(of_this(&mut diag), None, "it has a descriptor");
            let local = own.local_addr().unwrap();
            drop(own);
            assert!(orphans_anywhere().unwrap() > 0);
            let found = of_this(&mut diag).unwrap();
            assert_eq!((found.local, found.unacknowledged), (local, 7));
        }
    }
}
