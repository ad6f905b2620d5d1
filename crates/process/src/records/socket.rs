//! Sockets: what they are bound to, in which state they are, and what waits in their queues.

use minicbor::{Decode, Encode};

/// One socket.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Socket {
    /// `AF_*`.
    #[n(0)]
    pub domain: i32,
    /// `SOCK_*`.
    #[n(1)]
    pub sort: i32,
    /// `IPPROTO_*` or a netlink family.
    #[n(2)]
    pub protocol: i32,
    /// Options, as `setsockopt` takes them.
    #[n(3)]
    pub options: Vec<SocketOption>,
    /// What depends on the family.
    #[n(4)]
    pub detail: Detail,
}

/// A socket option.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SocketOption {
    /// `SOL_*`.
    #[n(0)]
    pub level: i32,
    /// `SO_*`, `TCP_*`, `IP_*` ..
    #[n(1)]
    pub name: i32,
    /// Its value.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

/// What depends on the family and type.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub enum Detail {
    /// Nothing more.
    #[default]
    #[n(0)]
    None,
    /// A Unix socket.
    #[n(1)]
    Unix(#[n(0)] UnixSocket),
    /// TCP.
    #[n(2)]
    Tcp(#[n(0)] Box<TcpSocket>),
    /// UDP.
    #[n(3)]
    Udp(#[n(0)] UdpSocket),
    /// Netlink.
    #[n(4)]
    Netlink(#[n(0)] NetlinkSocket),
}

/// A Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct UnixSocket {
    /// Bound to this, as in `sun_path`: a path, or a name that begins with a zero byte; `None`: not bound.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub name: Option<Vec<u8>>,
    /// The path leads to this socket (otherwise it was unlinked or another stands there).
    #[n(1)]
    pub reachable: bool,
    /// Permission bits, owner and group of the node at the path.
    #[n(2)]
    pub node: [u32; 3],
    /// Backlog, where it listens.
    #[n(3)]
    pub backlog: Option<u32>,
    /// Inode of the peer, 0 where there is none.
    #[n(4)]
    pub peer: u64,
    /// It had a peer that is gone: connected state with nobody behind it.
    #[n(5)]
    pub orphan: bool,
    /// The name of a gone peer.
    #[n(6)]
    #[cbor(with = "minicbor::bytes")]
    pub peer_name: Option<Vec<u8>>,
    /// `RCV_SHUTDOWN` 1, `SEND_SHUTDOWN` 2.
    #[n(7)]
    pub shutdown: u32,
    /// What waits to be read: one run of bytes for a stream, one each for datagrams and packets.
    #[n(8)]
    pub queue: Vec<Message>,
    /// Directory to which a relative path name relates.
    #[n(9)]
    #[cbor(with = "minicbor::bytes")]
    pub directory: Option<Vec<u8>>,
}

/// Something that waits in a receive queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Message {
    /// The bytes.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
    /// The sender's address as the kernel gives it (`sockaddr`), where it has one.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub from: Option<Vec<u8>>,
    /// The address that it was sent to (UDP: 4 or 16 bytes).
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub to: Option<Vec<u8>>,
    /// Inode of a Unix socket of this workload that sent it, 0 where not known.
    #[n(3)]
    pub sender: u64,
}

/// A TCP socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TcpSocket {
    /// `TCP_ESTABLISHED` 1 and so on, as in `tcp_info`.
    #[n(0)]
    pub state: u8,
    /// Own address (`sockaddr`), where bound.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub local: Option<Vec<u8>>,
    /// The peer's address (`sockaddr`), where connected.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub remote: Option<Vec<u8>>,
    /// Backlog, where it listens.
    #[n(3)]
    pub backlog: u32,
    /// The connection, where there is one.
    #[n(4)]
    pub connection: Option<Connection>,
    /// `RCV_SHUTDOWN` 1, `SEND_SHUTDOWN` 2, for a socket in state `TCP_CLOSE`.
    #[n(5)]
    pub shutdown: u32,
    /// A connection that is over: what it received and nobody has read.
    #[n(6)]
    #[cbor(with = "minicbor::bytes", default)]
    pub unread: Vec<u8>,
    /// A connection that is over: the error (`errno`) that it will tell the program once, 0 for none.
    #[n(7)]
    #[cbor(default)]
    pub error: i32,
}

/// A TCP connection, as `TCP_REPAIR` gives and takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Connection {
    /// Sequence number after the last byte of the receive queue (`rcv_nxt`).
    #[n(0)]
    pub receive_sequence: u32,
    /// Received and not read.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub receive_queue: Vec<u8>,
    /// Sequence number after the last byte of the send queue (`write_seq`).
    #[n(2)]
    pub send_sequence: u32,
    /// Written and not acknowledged.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub send_queue: Vec<u8>,
    /// How many bytes at the end of `send_queue` were never sent.
    #[n(4)]
    pub unsent: u32,
    /// Maximum segment size that was agreed, bytes.
    #[n(5)]
    pub mss: u32,
    /// Window scales: send, receive; `None`: not agreed.
    #[n(6)]
    pub window_scale: Option<[u8; 2]>,
    /// Selective acknowledgements agreed.
    #[n(7)]
    pub sack: bool,
    /// Time stamps agreed.
    #[n(8)]
    pub timestamps: bool,
    /// `TCP_TIMESTAMP`.
    #[n(9)]
    pub timestamp: u32,
    /// `snd_wl1`, `snd_wnd`, `max_window`, `rcv_wnd`, `rcv_wup`.
    #[n(10)]
    pub window: [u32; 5],
}

/// A multicast group that a socket has joined on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Membership {
    /// The device's name inside of the capsule.
    #[n(0)]
    pub device: String,
    /// The group (`sockaddr`).
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub group: Vec<u8>,
    /// `MCAST_EXCLUDE` 0: from all but the sources; `MCAST_INCLUDE` 1: from them only.
    #[n(2)]
    pub mode: u32,
    /// Sources (`sockaddr`).
    #[n(3)]
    pub sources: Vec<minicbor::bytes::ByteVec>,
}

/// A UDP socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct UdpSocket {
    /// Own address (`sockaddr`), where bound.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub local: Option<Vec<u8>>,
    /// The peer's address (`sockaddr`), where connected.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub remote: Option<Vec<u8>>,
    /// What waits to be read.
    #[n(2)]
    pub queue: Vec<Message>,
    /// `RCV_SHUTDOWN` 1, `SEND_SHUTDOWN` 2.
    #[n(3)]
    pub shutdown: u32,
    /// Multicast groups that it has joined.
    #[n(4)]
    #[cbor(default)]
    pub memberships: Vec<Membership>,
    /// The device by which it sends to IPv6 multicast groups, where it chose one.
    #[n(5)]
    pub multicast_device: Option<String>,
}

/// A netlink socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct NetlinkSocket {
    /// Own port, 0 where not bound.
    #[n(0)]
    pub port: u32,
    /// Multicast groups 1 to 32.
    #[n(1)]
    pub groups: u32,
    /// Peer's port.
    #[n(2)]
    pub peer: u32,
}
