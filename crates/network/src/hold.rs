//! Packets for a workload that stands still: kept instead of dropped, and delivered when it runs again, here or elsewhere.
//!
//! Its lock drops what its peers send, and each of them notices by a time-out only (TCP: 200 ms and more), however short the pause
//! was. So while the port is locked a packet socket listens on the bridge itself, which sees all that passes, and keeps what is for the
//! workload's MAC address and who asks for its addresses. The frames wait in the kernel, in the socket's bounded buffer; what does not
//! fit is lost, as all of it would be without. Nothing has to be made on the bridge, and with the process that holds it it is gone.

use crate::error::{Doing, Result};
use crate::identity::Identity;
use ferry_sys::packet::{PROLOGUE_BYTES, PacketSocket};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most bytes that are kept, with the kernel's overhead.
const BYTES_MAX: usize = 4 << 20;
/// Most frames that are kept.
pub const FRAMES_MAX: usize = 8192;
/// Longest frame with what stands in front: a whole batch of segments that was not cut yet.
pub const FRAME_BYTES_MAX: usize = PROLOGUE_BYTES + (1 << 16) + 64;
/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// A frame as it was kept: [`PROLOGUE_BYTES`], then its Ethernet header.
pub type Frame = Vec<u8>;

/// Keeps frames. Dropping it drops them.
#[derive(Debug)]
pub struct Holder {
    socket: PacketSocket,
    identity: Identity,
    /// Kept while the port was being locked.
    early: Vec<Frame>,
}

impl Holder {
    /// For the workload with this identity, on its bridge. Keeps nothing before [`Self::begin`].
    ///
    /// # Errors
    /// When the bridge is not there.
    pub fn open(bridge: &str, identity: Identity) -> Result<Self> {
        let socket = PacketSocket::open_to_hold(bridge, BYTES_MAX);
        let socket = socket.doing(|| format!("listen on the bridge {bridge}"))?;
        Ok(Self { socket, identity, early: Vec::new() })
    }

    /// From now on frames are kept: to be called just before the port is locked, so that none is lost in between.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn begin(&self) -> Result<()> {
        self.socket.receive_for(self.identity.mac).doing(|| "keep the workload's packets".into())
    }

    /// The port is locked. What came while it was being locked may have been delivered, too: only what may come twice stays.
    pub fn locked(&mut self) {
        self.early = self.take();
        self.early.retain(|frame| may_come_twice(frame.get(PROLOGUE_BYTES..).unwrap_or_default()));
    }

    /// From now on nothing is kept any more: to be called as soon as the port is open again.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn end(&self) -> Result<()> {
        self.socket.receive_nothing().doing(|| "keep no more packets".into())
    }

    /// What was kept since it was last asked.
    #[must_use]
    pub fn take(&mut self) -> Vec<Frame> {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut kept = std::mem::take(&mut self.early);
        for _ in 0..FRAMES_MAX {
            match self.socket.receive(&mut buffer) {
                Ok(length) => {
                    let frame = &buffer[..length.min(buffer.len())];
                    if concerns(frame.get(PROLOGUE_BYTES..).unwrap_or_default(), &self.identity) {
                        kept.push(frame.to_vec());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // One that cannot be told in this form; the next may be.
                Err(_) => {}
            }
        }
        kept
    }
}

/// Whether a frame that is delivered twice does no harm: TCP drops what it has, and a question is answered again.
fn may_come_twice(frame: &[u8]) -> bool {
    const TCP: u8 = 6;
    const ICMP6: u8 = 58;
    match frame.get(12..14) {
        Some([8, 0]) => frame.get(ETHERNET + 9) == Some(&TCP),
        Some([8, 6]) => true,
        Some([0x86, 0xdd]) => matches!(frame.get(ETHERNET + 6), Some(&(TCP | ICMP6))),
        _ => false,
    }
}

/// Whether a frame that the filter has let through is for the workload.
fn concerns(frame: &[u8], identity: &Identity) -> bool {
    let (Some(to), Some(from)) = (frame.get(..6), frame.get(6..12)) else { return false };
    // Its own announcements, from where it runs by now.
    if from == identity.mac {
        return false;
    }
    if to == identity.mac {
        return true;
    }
    let own = |ip: IpAddr| identity.addresses.iter().any(|address| address.ip == ip);
    match frame.get(12..14) {
        // The address that is asked for stands at the end of an ARP packet, and first in a neighbour solicitation.
        Some([8, 6]) => frame
            .get(ETHERNET + 24..)
            .and_then(|at| at.first_chunk::<4>())
            .is_some_and(|ip| own(Ipv4Addr::from(*ip).into())),
        Some([0x86, 0xdd]) => {
            const SOLICITATION: u8 = 135;
            let asked = frame.get(ETHERNET + 48..).and_then(|at| at.first_chunk::<16>());
            frame.get(ETHERNET + 40) == Some(&SOLICITATION)
                && asked.is_some_and(|ip| own(Ipv6Addr::from(*ip).into()))
        }
        _ => false,
    }
}

/// Lets frames arrive at the workload behind the port `host_end`, which must be open. Returns how many did: one that the kernel does
/// not take is dropped.
///
/// # Errors
/// When the device is gone.
pub fn deliver(host_end: &str, frames: &[Frame]) -> Result<usize> {
    if frames.is_empty() {
        return Ok(0);
    }
    let socket = PacketSocket::open_to_send(host_end);
    let socket = socket.doing(|| format!("send to the workload's device {host_end}"))?;
    let fits = |frame: &&Frame| (PROLOGUE_BYTES + ETHERNET..=FRAME_BYTES_MAX).contains(&frame.len());
    Ok(frames.iter().take(FRAMES_MAX).filter(fits).filter(|frame| socket.send(frame).is_ok()).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let addresses = ["10.1.0.7/24", "fd00::7/64"].map(|text| text.parse().unwrap()).into();
        Identity { mac: [2, 0, 0, 0, 0, 7], addresses, ..Identity::default() }
    }

    fn arp(asked: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 9, 8, 6]);
        frame.extend([0; 24]);
        frame.extend(asked);
        frame
    }

    #[test]
    fn only_what_may_come_twice_is_kept_while_the_port_is_being_locked() {
        let frame = |kind: [u8; 2], at: usize, protocol: u8| {
            let mut frame = vec![0; 60];
            frame[12..14].copy_from_slice(&kind);
            frame[ETHERNET + at] = protocol;
            frame
        };
        let (tcp, udp) = (6, 17);
        assert!(may_come_twice(&frame([8, 0], 9, tcp)) && !may_come_twice(&frame([8, 0], 9, udp)));
        assert!(
            may_come_twice(&frame([0x86, 0xdd], 6, tcp)) && !may_come_twice(&frame([0x86, 0xdd], 6, udp))
        );
        assert!(may_come_twice(&arp([10, 1, 0, 7])));
        assert!(!may_come_twice(&[]));
    }

    #[test]
    fn frames_to_the_workload_and_questions_for_its_addresses_concern_it() {
        let mut unicast = vec![2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 9, 8, 0];
        assert!(concerns(&unicast, &identity()));
        unicast[5] = 8;
        assert!(!concerns(&unicast, &identity()));
        assert!(concerns(&arp([10, 1, 0, 7]), &identity()));
        assert!(!concerns(&arp([10, 1, 0, 8]), &identity()));
        let mut own = arp([10, 1, 0, 7]);
        own[6..12].copy_from_slice(&identity().mac);
        assert!(!concerns(&own, &identity()), "its own announcement");
        for length in 0..14 {
            assert!(!concerns(&unicast[..length], &identity()));
        }
    }
}
