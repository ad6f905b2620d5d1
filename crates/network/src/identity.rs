//! The network identity of a workload: what others know it by, and what it knows of its network.

use crate::error::{Doing, Error, Result};
use crate::link::{self, NAME_MAX, number};
use ferry_sys::netlink::{CREATE, Message, REPLACE, Received, Route as Netlink, in_namespace};
use minicbor::{Decode, Encode};
use rustix::fd::BorrowedFd;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const GETNEIGH: u16 = 30;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection; permanent.
const IFA_F_NODAD: u32 = 2;
const IFA_F_PERMANENT: u32 = 0x80;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const TABLE_MAIN: u32 = 254;
/// Routes that the kernel makes by itself, from addresses.
const PROTOCOL_KERNEL: u8 = 2;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;
const SCOPE_LINK: u8 = 253;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// States of neighbours whose link address is known: reachable, stale, delay, probe, permanent.
const NUD_KNOWN: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;
const NUD_STALE: u16 = 0x04;
const NUD_PERMANENT: u16 = 0x80;
/// Most addresses, routes and neighbours of one workload.
const PARTS_MAX: usize = 4096;

/// What moves with a workload's network device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Identity {
    /// Name of the device, inside.
    #[n(0)]
    pub device: String,
    /// Its MAC address.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub mac: [u8; 6],
    /// Its addresses, without the link-local one that follows from the MAC.
    #[n(2)]
    pub addresses: Vec<Address>,
    /// Its routes, without those that follow from the addresses.
    #[n(3)]
    pub routes: Vec<Route>,
    /// Whom it knows.
    #[n(4)]
    pub neighbours: Vec<Neighbour>,
    /// Largest packet, bytes; 0: as the bridge.
    #[n(5)]
    pub mtu: u32,
}

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the prefix.
    pub prefix: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl FromStr for Address {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::Invalid(format!("{text:?} is not an address with a prefix length, such as 10.1.0.7/24"))
        };
        let (ip, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address = Self { ip: ip.parse().map_err(|_| bad())?, prefix: prefix.parse().map_err(|_| bad())? };
        if address.fits() { Ok(address) } else { Err(bad()) }
    }
}

impl Address {
    fn fits(&self) -> bool {
        self.prefix <= if self.ip.is_ipv4() { 32 } else { 128 }
    }
}

/// On the wire and on disk an address is its text.
impl<C> Encode<C> for Address {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.to_string())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Address {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.str()?.parse().map_err(|error: Error| minicbor::decode::Error::message(error.to_string()))
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Route {
    /// To where; `0.0.0.0/0` or `::/0` is everywhere.
    #[n(0)]
    pub to: Address,
    /// By way of this gateway (with the full prefix); `None`: directly on the link.
    #[n(1)]
    pub via: Option<Address>,
    /// The lower, the better.
    #[n(2)]
    pub metric: u32,
}

impl Route {
    /// The default route by way of `gateway`.
    #[must_use]
    pub fn default_via(gateway: IpAddr) -> Self {
        let (any, full) = match gateway {
            IpAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 32),
            IpAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128),
        };
        let via = Some(Address { ip: gateway, prefix: full });
        Self { to: Address { ip: any, prefix: 0 }, via, metric: 0 }
    }
}

/// A neighbour whose link address is known.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Neighbour {
    /// Its address (with the full prefix).
    #[n(0)]
    pub ip: Address,
    /// Its MAC address.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub mac: [u8; 6],
    /// Set by hand, never forgotten.
    #[n(2)]
    pub permanent: bool,
}

/// A MAC address for a new workload: locally administered, from its id.
#[must_use]
pub fn mac_for(id: [u8; 16]) -> [u8; 6] {
    let mut mac = [0x02, 0, 0, 0, 0, 0];
    for (at, byte) in id.iter().enumerate() {
        mac[1 + at % 5] ^= byte;
    }
    mac
}

impl Identity {
    /// Refuses what could not have been captured.
    pub(crate) fn check(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let name = (1..=NAME_MAX).contains(&self.device.len()) && self.device.chars().all(plain);
        if !name || self.device == "." || self.device == ".." {
            return Err(Error::Invalid(format!("{:?} is not the name of a network device", self.device)));
        }
        if self.mac[0] & 1 != 0 || self.mac == [0; 6] {
            return Err(Error::Invalid("The MAC address is not one of a single device".into()));
        }
        let parts = [self.addresses.len(), self.routes.len(), self.neighbours.len()];
        if parts.iter().any(|count| *count > PARTS_MAX) {
            return Err(Error::Invalid(format!("More than {PARTS_MAX} addresses, routes or neighbours")));
        }
        Ok(())
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn full(ip: IpAddr) -> Address {
    Address { ip, prefix: if ip.is_ipv4() { 32 } else { 128 } }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Devices of a network namespace besides the loopback: name and kind. A workload has exactly one, of kind `veth`.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn devices(namespace: BorrowedFd<'_>) -> Result<Vec<(String, String)>> {
    let mut route = in_namespace(namespace, Netlink::open).doing(|| "enter a network namespace".into())?;
    let links = link::list(&mut route).doing(|| "list network devices".into())?;
    Ok(links.into_iter().filter(|link| link.name != "lo").map(|link| (link.name, link.kind)).collect())
}

/// The identity of the one device in the network namespace `namespace`.
///
/// # Errors
/// [`Error::Refused`] when the workload has made devices of its own, by name.
pub fn capture(namespace: BorrowedFd<'_>) -> Result<Identity> {
    let mut route =
        in_namespace(namespace, Netlink::open).doing(|| "enter the workload's network namespace".into())?;
    let links = link::list(&mut route).doing(|| "list network devices".into())?;
    let mut others = links.into_iter().filter(|link| link.name != "lo");
    let device = others.find(|link| link.kind == "veth");
    let device = device.ok_or_else(|| Error::Refused("The workload has lost its network device".into()))?;
    if let Some(other) = others.next() {
        return Err(Error::Refused(format!(
            "The workload has made a network device of its own, {} ({})",
            other.name, other.kind
        )));
    }
    let read = |route: &mut Netlink| -> io::Result<Identity> {
        let addresses = route.dump(Message::new(GETADDR, 0, &[0; 8]))?;
        let routes = route.dump(Message::new(GETROUTE, 0, &[0; 12]))?;
        let neighbours = route.dump(Message::new(GETNEIGH, 0, &[0; 12]))?;
        let mut routes: Vec<Route> =
            routes.iter().filter_map(|message| parse_route(message, device.index)).collect();
        // Those on the link first: gateways are reached by them.
        routes.sort_by_key(|route| route.via.is_some());
        Ok(Identity {
            device: device.name.clone(),
            mac: device.mac.unwrap_or_default(),
            addresses: addresses.iter().filter_map(|message| parse_address(message, device.index)).collect(),
            routes,
            neighbours: neighbours
                .iter()
                .filter_map(|message| parse_neighbour(message, device.index))
                .collect(),
            mtu: device.mtu,
        })
    };
    read(&mut route).doing(|| "read the workload's addresses and routes".into())
}

fn parse_address(message: &Received, index: u32) -> Option<Address> {
    let head = message.fixed::<8>()?;
    let local = message.attribute(8, IFA_LOCAL).or_else(|| message.attribute(8, IFA_ADDRESS))?;
    let address = Address { ip: ip(local)?, prefix: head[1] };
    (number(&head[4..8])? == index && !is_link_local(address.ip)).then_some(address)
}

fn parse_route(message: &Received, index: u32) -> Option<Route> {
    let head = message.fixed::<12>()?;
    let table = message.attribute(12, RTA_TABLE).and_then(number).unwrap_or(head[4].into());
    let device = message.attribute(12, RTA_OIF).and_then(number);
    if table != TABLE_MAIN || device != Some(index) || head[5] == PROTOCOL_KERNEL || head[7] != TYPE_UNICAST {
        return None;
    }
    let any = match head[0] {
        2 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        10 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let to = message.attribute(12, RTA_DST).map_or(Some(any), ip)?;
    let via = message.attribute(12, RTA_GATEWAY).and_then(ip).map(full);
    let metric = message.attribute(12, RTA_PRIORITY).and_then(number).unwrap_or(0);
    (!is_link_local(to)).then_some(Route { to: Address { ip: to, prefix: head[1] }, via, metric })
}

fn parse_neighbour(message: &Received, index: u32) -> Option<Neighbour> {
    let head = message.fixed::<12>()?;
    let state = u16::from_ne_bytes([head[8], head[9]]);
    let mac = message.attribute(12, NDA_LLADDR)?.try_into().ok()?;
    let ip = full(ip(message.attribute(12, NDA_DST)?)?);
    let known = number(&head[4..8])? == index && state & NUD_KNOWN != 0 && !ip.ip.is_multicast();
    known.then_some(Neighbour { ip, mac, permanent: state & NUD_PERMANENT != 0 })
}

/// Gives the device `identity.device`, which is there with its MAC, everything else of the identity, and brings it and
/// the loopback up. `route` is a socket of the namespace.
///
/// # Errors
/// The kernel's refusal.
pub fn restore(route: &mut Netlink, identity: &Identity) -> Result<()> {
    let name = &identity.device;
    for device in ["lo", name] {
        let found = link::find(route, device).doing(|| format!("look for {device}"))?;
        let found = found.ok_or_else(|| {
            Error::Refused(format!("There is no device {device} in the workload's network"))
        })?;
        link::set_up(route, found.index, true).doing(|| format!("bring {device} up inside"))?;
    }
    let index = link::find(route, name).doing(|| format!("look for {name}"))?.map_or(0, |link| link.index);
    for address in &identity.addresses {
        route.ask(address_message(address, index)).doing(|| format!("set the address {address}"))?;
    }
    for each in &identity.routes {
        route.ask(route_message(each, index)).doing(|| format!("set the route to {}", each.to))?;
    }
    for neighbour in &identity.neighbours {
        route
            .ask(neighbour_message(neighbour, index))
            .doing(|| format!("set the neighbour {}", neighbour.ip.ip))?;
    }
    Ok(())
}

fn address_message(address: &Address, index: u32) -> Message {
    let mut head = [family(address.ip), address.prefix, 0, 0, 0, 0, 0, 0];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(address.ip);
    let message = Message::new(NEWADDR, CREATE | REPLACE, &head)
        .with(IFA_LOCAL, &bytes)
        .with(IFA_ADDRESS, &bytes)
        .with_number(IFA_FLAGS, IFA_F_NODAD | IFA_F_PERMANENT);
    match address.ip {
        IpAddr::V4(ip) if address.prefix < 31 => {
            let broadcast = u32::from(ip) | u32::MAX.checked_shr(address.prefix.into()).unwrap_or(0);
            message.with(IFA_BROADCAST, &broadcast.to_be_bytes())
        }
        _ => message,
    }
}

fn route_message(route: &Route, index: u32) -> Message {
    let scope = if route.via.is_some() || !route.to.ip.is_ipv4() { 0 } else { SCOPE_LINK };
    let (family, prefix) = (family(route.to.ip), route.to.prefix);
    let head = [family, prefix, 0, 0, TABLE_MAIN as u8, PROTOCOL_STATIC, scope, TYPE_UNICAST, 0, 0, 0, 0];
    let mut message = Message::new(NEWROUTE, CREATE | REPLACE, &head).with_number(RTA_OIF, index);
    if prefix > 0 {
        message = message.with(RTA_DST, &octets(route.to.ip));
    }
    if let Some(via) = &route.via {
        message = message.with(RTA_GATEWAY, &octets(via.ip));
    }
    if route.metric > 0 { message.with_number(RTA_PRIORITY, route.metric) } else { message }
}

fn neighbour_message(neighbour: &Neighbour, index: u32) -> Message {
    let mut head = [0; 12];
    head[0] = family(neighbour.ip.ip);
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    // What was only learnt is asked about again when it is used.
    let state = if neighbour.permanent { NUD_PERMANENT } else { NUD_STALE };
    head[8..10].copy_from_slice(&state.to_ne_bytes());
    Message::new(NEWNEIGH, CREATE | REPLACE, &head)
        .with(NDA_DST, &octets(neighbour.ip.ip))
        .with(NDA_LLADDR, &neighbour.mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_bad_ones_refused() {
        for good in ["10.1.0.7/24", "fd00::7/64", "0.0.0.0/0"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in ["10.1.0.7", "10.1.0.7/33", "x/24", "fd00::/129", ""] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn identities_that_could_not_be_are_refused() {
        let good = Identity { device: "eth0".into(), mac: mac_for([1; 16]), ..Identity::default() };
        assert!(good.check().is_ok());
        for device in ["", "a/b", "..", "sixteen-letters-"] {
            assert!(Identity { device: device.into(), ..good.clone() }.check().is_err(), "{device}");
        }
        assert!(Identity { mac: [1, 0, 0, 0, 0, 1], ..good.clone() }.check().is_err(), "a multicast address");
        let bytes = minicbor::to_vec(&good).unwrap();
        assert_eq!(minicbor::decode::<Identity>(&bytes).unwrap(), good);
    }
}
