//! The lab's wiring by netlink: a bridge for the switch, a cable (veth pair) for each host, addresses, a bandwidth limit.
//!
//! A netlink socket belongs to the network namespace in which it was opened, also after its process has left it: that is
//! how a cable's end is pushed into a namespace which did not exist when the cable was made.

use crate::error::{Error, Result};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::Ipv4Addr;

/// Name of the bridge, in the switch and in each host.
pub(crate) const BRIDGE: &str = "ferry0";
/// Name of a host's end of its cable.
pub(crate) const HOST_END: &str = "eth0";

/// The switch's end of the cable of host `number`.
pub(crate) fn switch_end(number: u8) -> String {
    format!("port{number}")
}

/// A route socket of the network namespace in which it was opened.
pub(crate) struct Route {
    socket: Socket,
    sequence: u32,
}

impl Route {
    /// Opens one in the calling thread's namespace.
    pub(crate) fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| Error::Net { step: "opening netlink", source })?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a bridge and brings it up.
    pub(crate) fn add_bridge(&mut self, name: &str) -> Result<()> {
        let mut link = named(name);
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.ask("making a bridge", RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)?;
        self.set_up(name, true)
    }

    /// Makes a cable.
    pub(crate) fn add_cable(&mut self, one: &str, other: &str) -> Result<()> {
        let mut link = named(one);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(named(other)))),
        ]));
        self.ask("making a cable", RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Pushes a device into the network namespace of a process.
    pub(crate) fn give(&mut self, name: &str, pid: u32, new_name: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = self.index(name)?;
        link.attributes.push(LinkAttribute::NetNsPid(pid));
        link.attributes.push(LinkAttribute::IfName(new_name.to_owned()));
        self.ask("moving a cable's end", RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Plugs a device into a bridge.
    pub(crate) fn plug(&mut self, name: &str, bridge: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = self.index(name)?;
        link.attributes.push(LinkAttribute::Controller(self.index(bridge)?));
        self.ask("plugging a cable in", RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Brings a device up or down.
    pub(crate) fn set_up(&mut self, name: &str, up: bool) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = self.index(name)?;
        link.header.change_mask = LinkFlags::Up;
        link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        self.ask("bringing a device up or down", RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives a device an address.
    pub(crate) fn add_address(&mut self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = self.index(name)?;
        message.attributes.push(AddressAttribute::Address(address.into()));
        message.attributes.push(AddressAttribute::Local(address.into()));
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.ask("setting an address", RouteNetlinkMessage::NewAddress(message), flags)
    }

    /// Limits what leaves through a device, by a token bucket (`tbf`).
    pub(crate) fn limit(&mut self, name: &str, bytes_per_s: u64) -> Result<()> {
        let index = self.index(name)?;
        self.exchange("limiting bandwidth", &tbf_request(index, bytes_per_s))
    }

    /// Index of a device of this namespace.
    fn index(&mut self, name: &str) -> Result<u32> {
        let mut got = None;
        let message = RouteNetlinkMessage::GetLink(named(name));
        self.exchange_with("finding a device", &encode(message, 0), |link| got = Some(link.header.index))?;
        got.ok_or(Error::Net {
            step: "finding a device",
            source: io::Error::new(io::ErrorKind::NotFound, name.to_owned()),
        })
    }

    fn ask(&mut self, step: &'static str, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.exchange(step, &encode(message, flags | NLM_F_ACK))
    }

    fn exchange(&mut self, step: &'static str, request: &[u8]) -> Result<()> {
        self.exchange_with(step, request, |_| ())
    }

    /// Sends a request, waits for its answer: an acknowledgement, an error, or the one message asked for.
    fn exchange_with(
        &mut self,
        step: &'static str,
        request: &[u8],
        mut found: impl FnMut(&LinkMessage),
    ) -> Result<()> {
        let fail = |source| Error::Net { step, source };
        self.sequence += 1;
        let mut request = request.to_vec();
        request[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.send(&request, 0).map_err(fail)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full().map_err(fail)?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)
                .map_err(|error| fail(io::Error::other(error.to_string())))?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => Err(fail(error.to_io())),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    found(&link);
                    Ok(())
                }
                _ => Ok(()),
            };
        }
    }
}

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link
}

fn encode(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// RTM_NEWQDISC for a token bucket at the root of a device. Written out: the packet crate knows no `tbf`.
fn tbf_request(index: u32, bytes_per_s: u64) -> Vec<u8> {
    const RTM_NEWQDISC: u16 = 36;
    const TCA_KIND: u16 = 1;
    const TCA_OPTIONS: u16 = 2;
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_RATE64: u16 = 4;
    const TCA_TBF_BURST: u16 = 6;
    /// NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE | NLM_F_CREATE
    const FLAGS: u16 = 0x1 | 0x4 | 0x100 | 0x400;
    let rate = u32::try_from(bytes_per_s).unwrap_or(u32::MAX);
    // A burst of 10 ms, at least two full segments with offload; a queue of 50 ms.
    let burst = (bytes_per_s / 100).clamp(128 * 1024, u64::from(u32::MAX)) as u32;
    let queue = (bytes_per_s / 20).clamp(256 * 1024, u64::from(u32::MAX)) as u32;
    // struct tc_tbf_qopt: rate and peakrate (tc_ratespec of 12 bytes each), limit, buffer (in ticks of 64 ns), mtu.
    let mut options = vec![0, 1, 0, 0, 0xff, 0xff, 0, 0];
    options.extend(rate.to_ne_bytes());
    options.extend([0; 12]);
    options.extend((queue + burst).to_ne_bytes());
    let ticks = (u128::from(burst) * 1_000_000_000 / u128::from(bytes_per_s.max(1))) >> 6;
    options.extend(u32::try_from(ticks).unwrap_or(u32::MAX).to_ne_bytes());
    options.extend(0u32.to_ne_bytes());
    let nested = [
        attribute(TCA_TBF_PARMS, &options),
        attribute(TCA_TBF_RATE64, &bytes_per_s.to_ne_bytes()),
        attribute(TCA_TBF_BURST, &burst.to_ne_bytes()),
    ]
    .concat();
    let mut body = vec![0; 20];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
    body.extend(attribute(TCA_KIND, b"tbf\0"));
    body.extend(attribute(TCA_OPTIONS, &nested));
    let mut request = ((body.len() + 16) as u32).to_ne_bytes().to_vec();
    request.extend(RTM_NEWQDISC.to_ne_bytes());
    request.extend(FLAGS.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    request
}

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((payload.len() + 4) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
