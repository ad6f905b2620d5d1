//! Packets that seem to come from a peer, played to a socket of this network namespace by a raw socket: a FIN that was
//! received before the move, a reset, a datagram that waited. They never leave the namespace: their destination is local.

use ferry_sys::sockaddr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Flags of a segment.
pub const FIN: u8 = 0x01;
/// The connection is reset.
pub const RST: u8 = 0x04;

/// A segment without data, which acknowledges something.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The peer (`sockaddr`).
    pub from: &'a [u8],
    /// The socket's own address (`sockaddr`).
    pub to: &'a [u8],
    /// The peer's sequence number.
    pub sequence: u32,
    /// What the peer has of ours.
    pub acknowledged: u32,
    /// [`FIN`], [`RST`] or 0, beside the acknowledgement.
    pub flags: u8,
    /// The peer's window, as it stands in the header: before it is scaled.
    pub window: u16,
    /// Its time stamp, and the one of ours that it echoes.
    pub stamps: Option<[u32; 2]>,
}

/// Plays a segment.
///
/// # Errors
/// EPERM without CAP_NET_RAW, ENETUNREACH when the loopback device is down.
pub fn segment(played: &Segment<'_>) -> io::Result<()> {
    const ACK: u8 = 0x10;
    let ((from, from_port), (to, to_port)) = ends(played.from, played.to)?;
    let mut segment = Vec::with_capacity(20);
    segment.extend(from_port.to_be_bytes());
    segment.extend(to_port.to_be_bytes());
    segment.extend(played.sequence.to_be_bytes());
    segment.extend(played.acknowledged.to_be_bytes());
    // Five words of header, three of options; no urgent data.
    let words = if played.stamps.is_some() { 8 } else { 5 };
    segment.extend([words << 4, ACK | played.flags]);
    segment.extend(played.window.to_be_bytes());
    segment.extend([0; 4]);
    if let Some(stamps) = played.stamps {
        segment.extend([1, 1, 8, 10]);
        segment.extend(stamps.iter().flat_map(|stamp| stamp.to_be_bytes()));
    }
    send(from, to, libc::IPPROTO_TCP as u8, segment, 16)
}

/// Plays a datagram.
///
/// # Errors
/// As [`segment`].
pub fn datagram(from: &[u8], to: &[u8], bytes: &[u8]) -> io::Result<()> {
    let ((from, from_port), (to, to_port)) = ends(from, to)?;
    let len = u16::try_from(bytes.len() + 8).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut packet = Vec::with_capacity(bytes.len() + 8);
    packet.extend(from_port.to_be_bytes());
    packet.extend(to_port.to_be_bytes());
    packet.extend(len.to_be_bytes());
    packet.extend([0; 2]);
    packet.extend(bytes);
    send(from, to, libc::IPPROTO_UDP as u8, packet, 6)
}

/// Plays a segment until `done` sees its effect: again and again, for 5 s at most, should it get lost on a busy host.
///
/// # Errors
/// As [`segment`], `TimedOut`, or what `done` says.
pub fn segment_until(played: &Segment<'_>, mut done: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let start = Instant::now();
    loop {
        segment(played)?;
        match wait(Duration::from_millis(200), &mut done) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && start.elapsed().as_secs() < 5 => {}
            seen => return seen,
        }
    }
}

/// Waits until `done`, 2 s at most: packets within a namespace take microseconds, on a busy host more.
///
/// # Errors
/// `TimedOut`, or what `done` says.
pub fn wait_for(mut done: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    wait(Duration::from_secs(2), &mut done)
}

fn wait(at_most: Duration, done: &mut impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > at_most {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    Ok(())
}

type End = (IpAddr, u16);

fn ends(from: &[u8], to: &[u8]) -> io::Result<(End, End)> {
    match (end(from), end(to)) {
        (Some(from), Some(to)) if from.0.is_ipv4() == to.0.is_ipv4() => Ok((from, to)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Address and port of a `sockaddr`; IPv4 addresses in IPv6's clothes are undressed.
pub(super) fn end(address: &[u8]) -> Option<End> {
    let family = i32::from(u16::from_ne_bytes(address.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(address.get(2..4)?.try_into().ok()?);
    let ip = if family == libc::AF_INET6 {
        let bytes: [u8; 16] = address.get(8..24)?.try_into().ok()?;
        IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
    } else {
        let bytes: [u8; 4] = address.get(4..8)?.try_into().ok()?;
        IpAddr::V4(Ipv4Addr::from(bytes))
    };
    Some((ip, port))
}

/// Puts the headers in front, the checksum in its place (`at` within `payload`), and sends it.
fn send(from: IpAddr, to: IpAddr, protocol: u8, mut payload: Vec<u8>, at: usize) -> io::Result<()> {
    let mut pseudo = Vec::new();
    let (packet_head, domain, destination) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            pseudo.extend(from.octets());
            pseudo.extend(to.octets());
            pseudo.extend([0, protocol]);
            pseudo.extend((payload.len() as u16).to_be_bytes());
            let total = (payload.len() + 20) as u16;
            let mut head = vec![0x45, 0];
            // The kernel fills in the identification and the header's checksum.
            head.extend(total.to_be_bytes());
            head.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            head.extend(from.octets());
            head.extend(to.octets());
            let mut address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
            address.extend([0; 2]);
            address.extend(to.octets());
            address.extend([0; 8]);
            (head, libc::AF_INET, address)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            pseudo.extend(from.octets());
            pseudo.extend(to.octets());
            pseudo.extend((payload.len() as u32).to_be_bytes());
            pseudo.extend([0, 0, 0, protocol]);
            let mut head = vec![0x60, 0, 0, 0];
            head.extend((payload.len() as u16).to_be_bytes());
            head.extend([protocol, 64]);
            head.extend(from.octets());
            head.extend(to.octets());
            let mut address = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
            address.extend([0; 6]);
            address.extend(to.octets());
            address.extend([0; 4]);
            (head, libc::AF_INET6, address)
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let sum = match checksum(&[&pseudo, &payload]) {
        0 => 0xffff,
        sum => sum,
    };
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let packet = [packet_head, payload].concat();
    let raw = sockaddr::socket(domain, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    sockaddr::send(&raw, &packet, Some(&destination))?;
    Ok(())
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u32 =
        bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sums_as_rfc_1071_does() {
        assert_eq!(super::checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }
}
