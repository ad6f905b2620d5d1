//! Links by rtnetlink: names, indices, flags, veth pairs and bridges.

use ferry_sys::netlink::{CREATE, EXCLUSIVE, Message, Received, Route, attributes};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::io;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_DATA: u16 = 5;
const BRPORT_STATE: u16 = 1;
const AF_BRIDGE: u8 = 7;
const SETLINK: u16 = 19;
const VETH_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
/// Length of `struct ifinfomsg`.
const HEAD: usize = 16;
/// Longest name of a device, bytes.
pub(crate) const NAME_MAX: usize = 15;

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) up: bool,
    /// The kernel has noticed that its cable is in: packets go out of it. For a while after both ends are up they are dropped in silence.
    pub(crate) running: bool,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    /// The cable's other end: its index in its own namespace.
    pub(crate) peer: Option<u32>,
    /// A bridge's port: its state.
    pub(crate) port: Option<u8>,
}

/// A port that lets nothing pass.
pub(crate) const DISABLED: u8 = 0;
/// A port that lets everything pass.
pub(crate) const FORWARDING: u8 = 3;

fn head(index: u32, flags: u32, change: u32) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&change.to_ne_bytes());
    head
}

pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

fn parse(message: &Received) -> Option<Link> {
    let head = message.fixed::<HEAD>()?;
    let flags = number(&head[8..12])?;
    let (up, running) = (flags & IFF_UP != 0, flags & IFF_RUNNING != 0);
    let mut link = Link { index: number(&head[4..8])?, up, running, ..Link::default() };
    for (kind, value) in message.attributes(HEAD) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_LINK => link.peer = number(value),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
                let port = attributes(value).find(|(kind, _)| *kind == INFO_SLAVE_DATA);
                let state =
                    port.and_then(|(_, port)| attributes(port).find(|(kind, _)| *kind == BRPORT_STATE));
                link.port = state.and_then(|(_, state)| state.first().copied());
            }
            _ => {}
        }
    }
    Some(link)
}

/// All links of the socket's namespace.
pub(crate) fn list(route: &mut Route) -> io::Result<Vec<Link>> {
    Ok(route.dump(Message::new(GETLINK, 0, &head(0, 0, 0)))?.iter().filter_map(parse).collect())
}

/// The link of this name.
pub(crate) fn find(route: &mut Route, name: &str) -> io::Result<Option<Link>> {
    get(route, Message::new(GETLINK, 0, &head(0, 0, 0)).with_text(IFLA_IFNAME, name))
}

/// The link with this index.
pub(crate) fn at(route: &mut Route, index: u32) -> io::Result<Option<Link>> {
    get(route, Message::new(GETLINK, 0, &head(index, 0, 0)))
}

fn get(route: &mut Route, question: Message) -> io::Result<Option<Link>> {
    match route.get(question) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
        result => Ok(result?.iter().find_map(parse)),
    }
}

/// Brings a link up or down.
pub(crate) fn set_up(route: &mut Route, index: u32, up: bool) -> io::Result<()> {
    route.ask(Message::new(NEWLINK, 0, &head(index, u32::from(up), IFF_UP)))
}

/// Sets the state of a bridge's port: at once, unlike [`set_up`], which waits until nobody is still sending by the device.
pub(crate) fn set_port(route: &mut Route, index: u32, state: u8) -> io::Result<()> {
    let mut head = head(index, 0, 0);
    head[0] = AF_BRIDGE;
    let message = Message::new(SETLINK, 0, &head);
    route.ask(message.with_nested(IFLA_PROTINFO, &[], |port| port.with(BRPORT_STATE, &[state])))
}

/// Removes a link.
pub(crate) fn remove(route: &mut Route, index: u32) -> io::Result<()> {
    route.ask(Message::new(DELLINK, 0, &head(index, 0, 0)))
}

/// Makes a bridge.
pub(crate) fn bridge(route: &mut Route, name: &str) -> io::Result<()> {
    let message = Message::new(NEWLINK, CREATE | EXCLUSIVE, &head(0, 0, 0))
        .with_text(IFLA_IFNAME, name)
        .with_nested(IFLA_LINKINFO, &[], |info| info.with_text(INFO_KIND, "bridge"));
    route.ask(message)
}

/// The address of the host's end of a cable whose other end has `mac`.
///
/// A bridge takes the lowest of its ports' addresses as its own, unless it was given one: this one must never be the lowest, or the host's neighbours
/// would look for it in vain each time that a workload comes or goes. Nor may it be the workload's own, which the bridge would take for the
/// host's then.
fn outer_mac(mac: [u8; 6]) -> [u8; 6] {
    [0xfe, 0xff, mac[2], mac[3], mac[4], mac[5] ^ 1]
}

/// Makes a veth pair: `outer` here, a port of the bridge with index `bridge`, down; `inner` in `namespace`, with its MAC.
pub(crate) fn veth(
    route: &mut Route,
    outer: &str,
    bridge: u32,
    inner: (&str, [u8; 6], u32),
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let (name, mac, mtu) = inner;
    let outer_mac = outer_mac(mac);
    let namespace = namespace.as_raw_fd().cast_unsigned();
    let message = Message::new(NEWLINK, CREATE | EXCLUSIVE, &head(0, 0, 0))
        .with_text(IFLA_IFNAME, outer)
        .with(IFLA_ADDRESS, &outer_mac)
        .with_number(IFLA_MTU, mtu)
        .with_number(IFLA_MASTER, bridge)
        .with_nested(IFLA_LINKINFO, &[], |info| {
            info.with_text(INFO_KIND, "veth").with_nested(INFO_DATA, &[], |data| {
                data.with_nested(VETH_PEER, &head(0, 0, 0), |peer| {
                    peer.with_text(IFLA_IFNAME, name)
                        .with(IFLA_ADDRESS, &mac)
                        .with_number(IFLA_MTU, mtu)
                        .with_number(IFLA_NET_NS_FD, namespace)
                })
            })
        });
    route.ask(message)
}
