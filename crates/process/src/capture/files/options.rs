//! Sockets: the part that all families share, and the options.

use super::class::Class;
use super::survey::Look;
use super::{Capture, Error, tcp, udp, unix};
use crate::records::file::Kind;
use crate::records::socket::{Detail, NetlinkSocket, Socket, SocketOption};
use ferry_sys::{sockaddr, sockopt};
use rustix::fd::OwnedFd;

/// Options of every socket. The sizes of the buffers go by `SO_BUF_LOCK`: only what the program fixed is set again.
const ANY: &[i32] = &[
    libc::SO_REUSEADDR,
    libc::SO_REUSEPORT,
    libc::SO_KEEPALIVE,
    libc::SO_BROADCAST,
    libc::SO_OOBINLINE,
    libc::SO_PRIORITY,
    libc::SO_LINGER,
    libc::SO_PASSCRED,
    libc::SO_PASSSEC,
    libc::SO_RCVLOWAT,
    libc::SO_RCVTIMEO,
    libc::SO_SNDTIMEO,
    libc::SO_SNDBUF,
    libc::SO_RCVBUF,
    72, // SO_BUF_LOCK
    libc::SO_MARK,
    libc::SO_BINDTODEVICE,
    libc::SO_DONTROUTE,
    libc::SO_NO_CHECK,
    libc::SO_TIMESTAMP,
    libc::SO_TIMESTAMPNS,
    libc::SO_RXQ_OVFL,
    libc::SO_MAX_PACING_RATE,
    libc::SO_PEEK_OFF,
];

const TCP: &[i32] = &[
    libc::TCP_NODELAY,
    libc::TCP_CORK,
    libc::TCP_KEEPIDLE,
    libc::TCP_KEEPINTVL,
    libc::TCP_KEEPCNT,
    libc::TCP_SYNCNT,
    libc::TCP_LINGER2,
    libc::TCP_DEFER_ACCEPT,
    libc::TCP_WINDOW_CLAMP,
    libc::TCP_CONGESTION,
    libc::TCP_USER_TIMEOUT,
    libc::TCP_FASTOPEN,
    25, // TCP_NOTSENT_LOWAT
    27, // TCP_SAVE_SYN
];

const UDP: &[i32] = &[1 /* UDP_CORK */, 103 /* UDP_SEGMENT */, 104 /* UDP_GRO */];

const IP4: &[i32] = &[
    libc::IP_TOS,
    libc::IP_TTL,
    libc::IP_RECVOPTS,
    libc::IP_PKTINFO,
    libc::IP_MTU_DISCOVER,
    libc::IP_RECVERR,
    libc::IP_RECVTTL,
    libc::IP_RECVTOS,
    libc::IP_FREEBIND,
    libc::IP_TRANSPARENT,
    libc::IP_BIND_ADDRESS_NO_PORT,
];

const IP6: &[i32] = &[
    libc::IPV6_V6ONLY,
    libc::IPV6_UNICAST_HOPS,
    libc::IPV6_MTU_DISCOVER,
    libc::IPV6_RECVERR,
    libc::IPV6_RECVPKTINFO,
    libc::IPV6_RECVHOPLIMIT,
    libc::IPV6_RECVTCLASS,
    libc::IPV6_TCLASS,
    libc::IPV6_DONTFRAG,
    libc::IPV6_FREEBIND,
    libc::IPV6_TRANSPARENT,
];

/// Streams do not take these.
const MULTICAST4: &[i32] =
    &[libc::IP_MULTICAST_TTL, libc::IP_MULTICAST_LOOP, libc::IP_MULTICAST_ALL, libc::IP_MULTICAST_IF];
const MULTICAST6: &[i32] = &[libc::IPV6_MULTICAST_HOPS, libc::IPV6_MULTICAST_LOOP];

/// Captures the socket behind `look`.
pub(super) fn capture(capture: &mut Capture<'_>, look: &Look) -> Result<Kind, Error> {
    let fd = capture.take(look)?;
    let what = || format!("look at the socket of {}", look.place());
    let option = |name| sockopt::get_int(&fd, libc::SOL_SOCKET, name).map_err(Error::kernel(what()));
    let mut socket = Socket {
        domain: option(libc::SO_DOMAIN)?,
        sort: option(libc::SO_TYPE)?,
        protocol: option(libc::SO_PROTOCOL)?,
        options: Vec::new(),
        detail: Detail::None,
    };
    // Before the families touch any (looking into queues changes SO_PEEK_OFF).
    socket.options = read(&fd, &socket);
    if let Some(reuse) = capture.held.reuse_of(look) {
        let changed = (libc::SOL_SOCKET, libc::SO_REUSEADDR);
        for option in socket.options.iter_mut().filter(|option| (option.level, option.name) == changed) {
            option.value = reuse.to_ne_bytes().to_vec();
        }
    }
    socket.detail = match look.class {
        Class::Unix => Detail::Unix(unix::capture(capture, look, &fd, socket.sort)?),
        Class::Tcp => Detail::Tcp(Box::new(tcp::capture(capture, look, fd)?)),
        Class::Udp => Detail::Udp(udp::capture(capture, look, &fd, socket.domain)?),
        _ => Detail::Netlink(netlink(&fd).map_err(Error::kernel(what()))?),
    };
    Ok(Kind::Socket(Box::new(socket)))
}

fn read(fd: &OwnedFd, socket: &Socket) -> Vec<SocketOption> {
    let (tcp, udp) = (socket.protocol == libc::IPPROTO_TCP, socket.protocol == libc::IPPROTO_UDP);
    let internet = matches!(socket.domain, libc::AF_INET | libc::AF_INET6);
    let groups = [
        (true, libc::SOL_SOCKET, ANY),
        (internet && tcp, libc::IPPROTO_TCP, TCP),
        (internet && udp, libc::IPPROTO_UDP, UDP),
        (internet, libc::IPPROTO_IP, IP4),
        (internet && udp, libc::IPPROTO_IP, MULTICAST4),
        (socket.domain == libc::AF_INET6, libc::IPPROTO_IPV6, IP6),
        (socket.domain == libc::AF_INET6 && udp, libc::IPPROTO_IPV6, MULTICAST6),
    ];
    let mut options = Vec::new();
    for (_, level, names) in groups.into_iter().filter(|(wanted, ..)| *wanted) {
        for &name in names {
            let mut buffer = [0; 64];
            // What this kernel or family does not know has its default everywhere.
            if let Ok(len) = sockopt::get_into(fd, level, name, &mut buffer) {
                options.push(SocketOption { level, name, value: buffer[..len.min(64)].to_vec() });
            }
        }
    }
    options
}

fn netlink(fd: &OwnedFd) -> std::io::Result<NetlinkSocket> {
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).map_or(0, |four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
    };
    let local = sockaddr::local(fd)?;
    let remote = sockaddr::remote(fd).unwrap_or_default();
    Ok(NetlinkSocket { port: word(&local, 4), groups: word(&local, 8), peer: word(&remote, 4) })
}
