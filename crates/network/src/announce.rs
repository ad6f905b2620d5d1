//! The announcement: gratuitous ARP and unsolicited neighbour advertisement, so that switches learn the new port and
//! neighbours forget nothing.
//!
//! The frames are sent by a raw socket on the workload's own device, in its namespace: they come from its MAC address,
//! which is what switches learn from. The workload may still be frozen.

use crate::error::{Doing, Error, Result};
use crate::identity::Identity;
use ferry_sys::netlink::in_namespace;
use ferry_sys::packet::PacketSocket;
use rustix::fd::BorrowedFd;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Waits between repetitions: the first frames may meet a port that is not yet forwarding.
const REPEATS: [Duration; 3] =
    [Duration::from_millis(0), Duration::from_millis(2), Duration::from_millis(20)];

/// An open way to announce an identity, kept for repetitions.
#[derive(Debug)]
pub struct Announcer {
    socket: PacketSocket,
    frames: Vec<Vec<u8>>,
}

impl Announcer {
    /// Opens the device of `identity` in `namespace`.
    ///
    /// # Errors
    /// When the device is not there.
    pub fn open(namespace: BorrowedFd<'_>, identity: &Identity) -> Result<Self> {
        let socket = in_namespace(namespace, || PacketSocket::open(&identity.device))
            .doing(|| format!("open the workload's device {}", identity.device))?;
        Ok(Self { socket, frames: frames(identity) })
    }

    /// Sends every frame once.
    ///
    /// # Errors
    /// ENETDOWN when the device is down.
    pub fn send(&self) -> Result<()> {
        self.frames
            .iter()
            .try_for_each(|frame| self.socket.send(frame))
            .doing(|| "announce the workload".into())
    }
}

/// Announces an identity three times within 22 ms; to be repeated a second later by who can wait. The host's end must
/// be up.
///
/// # Errors
/// When the device is not there or down.
pub fn announce(namespace: BorrowedFd<'_>, identity: &Identity) -> Result<()> {
    let announcer = Announcer::open(namespace, identity)?;
    if announcer.frames.is_empty() {
        return Err(Error::Refused("The workload has no address to announce".into()));
    }
    for wait in REPEATS {
        std::thread::sleep(wait);
        announcer.send()?;
    }
    Ok(())
}

/// The frames that announce all addresses: for IPv4 an ARP request and a reply (some neighbours heed only one of
/// them), for IPv6 an advertisement, also of the link-local address.
fn frames(identity: &Identity) -> Vec<Vec<u8>> {
    let mac = identity.mac;
    let mut frames = Vec::new();
    let mut six = false;
    for address in &identity.addresses {
        match address.ip {
            IpAddr::V4(ip) => frames.extend([1, 2].map(|operation| arp(mac, ip, operation))),
            IpAddr::V6(ip) => {
                six = true;
                frames.push(advertisement(mac, ip));
            }
        }
    }
    if six {
        frames.push(advertisement(mac, link_local(mac)));
    }
    frames
}

fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// A gratuitous ARP packet (RFC 5227 calls the request form an announcement).
fn arp(mac: [u8; 6], ip: Ipv4Addr, operation: u8) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend(if operation == 1 { [0; 6] } else { mac });
    frame.extend(ip.octets());
    frame.resize(60, 0);
    frame
}

/// An unsolicited neighbour advertisement with the override flag (RFC 4861, 7.2.6).
fn advertisement(mac: [u8; 6], ip: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let sum = checksum(ip, all_nodes, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    // ICMPv6, and the hop limit that proves a sender on the link.
    frame.extend([58, 255]);
    frame.extend(ip.octets());
    frame.extend(all_nodes.octets());
    frame.extend(message);
    frame
}

fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    bytes.extend(message);
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| (*b).into())).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_has_a_right_checksum() {
        let mac = [2, 0, 0, 0, 0, 9];
        let frame = advertisement(mac, link_local(mac));
        let (from, to) = (link_local(mac), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
        // Summed over a message that holds its own checksum, the result is zero.
        assert_eq!(checksum(from, to, &frame[54..]), 0);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(link_local(mac).to_string(), "fe80::ff:fe00:9");
    }
}
