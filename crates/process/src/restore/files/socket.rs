//! Sockets: the order in which they are made again, and their options.

use super::{Error, Restore, tcp, udp, unix};
use crate::records::file::Kind;
use crate::records::socket::{Detail, NetlinkSocket, Socket};
use ferry_sys::{sockaddr, sockopt};
use rustix::fd::OwnedFd;

const BUF_LOCK: i32 = 72;

/// Options that count when an address is bound.
const BEFORE_BIND: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
];

/// Makes every socket. Listeners come before connections of the same port, senders of datagrams before what they sent.
pub(super) fn create(restore: &mut Restore<'_>) -> Result<(), Error> {
    unix::create(restore)?;
    let mut listeners = Vec::new();
    let mut others = Vec::new();
    for number in 0..restore.files.descriptions.len() {
        let Kind::Socket(socket) = &restore.files.descriptions[number].kind else { continue };
        match &socket.detail {
            Detail::Tcp(tcp) if tcp.state == tcp::LISTEN => listeners.push(number),
            Detail::Tcp(_) | Detail::Udp(_) | Detail::Netlink(_) => others.push(number),
            Detail::Unix(_) => {}
            Detail::None => return Err(Error::broken("A socket of an unknown family")),
        }
    }
    for number in listeners.into_iter().chain(others) {
        let Kind::Socket(socket) = &restore.files.descriptions[number].kind else { continue };
        let fd = match &socket.detail {
            Detail::Tcp(tcp) => tcp::create(restore, number, socket, tcp)?,
            Detail::Udp(udp) => udp::create(socket, udp)?,
            Detail::Netlink(netlink) => self::netlink(socket, *netlink)?,
            Detail::Unix(_) | Detail::None => continue,
        };
        restore.put(number, fd);
    }
    // Only now: while addresses are bound, all may be used again.
    for number in 0..restore.files.descriptions.len() {
        let Kind::Socket(socket) = &restore.files.descriptions[number].kind else { continue };
        let Some(fd) = &restore.open[number] else { continue };
        let repaired = matches!(&socket.detail, Detail::Tcp(tcp) if tcp.connection.is_some());
        if matches!(socket.domain, libc::AF_INET | libc::AF_INET6) && !repaired {
            set_reuse(fd, socket)?;
        }
    }
    Ok(())
}

/// The value of an `int` option in the records.
pub(super) fn recorded(socket: &Socket, level: i32, name: i32) -> Option<i32> {
    let found = socket.options.iter().find(|option| (option.level, option.name) == (level, name))?;
    let bytes: [u8; 4] = found.value.as_slice().try_into().ok()?;
    Some(i32::from_ne_bytes(bytes))
}

/// Sets SO_REUSEADDR as it was.
pub(super) fn set_reuse(fd: &OwnedFd, socket: &Socket) -> Result<(), Error> {
    let value = recorded(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR).unwrap_or(0);
    sockopt::set_int(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, i32::from(value == 1))
        .map_err(Error::kernel("set SO_REUSEADDR"))
}

/// A new socket as `socket` says, with what must be set before it is bound.
pub(super) fn new(socket: &Socket) -> Result<OwnedFd, Error> {
    let fd = sockaddr::socket(socket.domain, socket.sort, socket.protocol)
        .map_err(Error::kernel("make a socket"))?;
    for option in &socket.options {
        if BEFORE_BIND.contains(&(option.level, option.name)) {
            set(&fd, option.level, option.name, &option.value)?;
        }
    }
    if matches!(socket.domain, libc::AF_INET | libc::AF_INET6) {
        sockopt::set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
            .map_err(Error::kernel("set SO_REUSEADDR"))?;
        // Its address may come up only later.
        sockopt::set_int(&fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)
            .map_err(Error::kernel("set IP_FREEBIND"))?;
    }
    Ok(fd)
}

/// Makes room for queues that are longer than the buffers of a new socket.
pub(super) fn widen(fd: &OwnedFd, bytes: usize) -> Result<(), Error> {
    // Each small packet is counted with its overhead.
    let size = i32::try_from(bytes.saturating_mul(2).saturating_add(1 << 20)).unwrap_or(i32::MAX / 2);
    for name in [libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE] {
        sockopt::set_int(fd, libc::SOL_SOCKET, name, size)
            .map_err(Error::kernel("make room in a socket's buffers"))?;
    }
    Ok(())
}

/// Sets all options of `socket`, its buffers' sizes last.
pub(super) fn set_options(fd: &OwnedFd, socket: &Socket) -> Result<(), Error> {
    for option in &socket.options {
        let skipped = [
            libc::SO_SNDBUF,
            libc::SO_RCVBUF,
            BUF_LOCK,
            libc::SO_REUSEADDR,
            libc::SO_BINDTODEVICE,
            // Waits for more than a restore may give: it is set when the queues are full.
            libc::SO_PEEK_OFF,
        ];
        // Binding to one address sets it, and then nothing changes it any more.
        let fixed = (option.level, option.name) == (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
        if fixed || option.level == libc::SOL_SOCKET && skipped.contains(&option.name) {
            continue;
        }
        set(fd, option.level, option.name, &option.value)?;
    }
    if let Some(offset) = recorded(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF)
        && offset >= 0
    {
        set(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &offset.to_ne_bytes())?;
    }
    Ok(())
}

/// Gives the buffers the size that they had, and to the kernel the right to change those that the program did not fix.
pub(super) fn set_buffers(fd: &OwnedFd, socket: &Socket) -> Result<(), Error> {
    let lock = recorded(socket, libc::SOL_SOCKET, BUF_LOCK).unwrap_or(3);
    for (name, force) in [(libc::SO_SNDBUF, libc::SO_SNDBUFFORCE), (libc::SO_RCVBUF, libc::SO_RCVBUFFORCE)] {
        // The kernel doubles what it is given and shows the double.
        if let Some(size) = recorded(socket, libc::SOL_SOCKET, name) {
            sockopt::set_int(fd, libc::SOL_SOCKET, force, size / 2)
                .map_err(Error::kernel("set a buffer's size"))?;
        }
    }
    match sockopt::set_int(fd, libc::SOL_SOCKET, BUF_LOCK, lock) {
        // Before Linux 5.14 there is no such option: the sizes stay fixed.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        done => done.map_err(Error::kernel("unlock a buffer's size")),
    }
}

/// Sets an option unless it is so already.
fn set(fd: &OwnedFd, level: i32, name: i32, value: &[u8]) -> Result<(), Error> {
    let mut now = [0; 64];
    let len = sockopt::get_into(fd, level, name, &mut now).unwrap_or(usize::MAX);
    if now.get(..len) == Some(value) || value.is_empty() {
        return Ok(());
    }
    sockopt::set(fd, level, name, value)
        .map_err(Error::kernel(format!("set option {name} of level {level} on a socket")))
}

fn netlink(socket: &Socket, record: NetlinkSocket) -> Result<OwnedFd, Error> {
    let fd = new(socket)?;
    let address = |port: u32, groups: u32| {
        let mut bytes = (libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
        bytes.extend([0; 2]);
        bytes.extend(port.to_ne_bytes());
        bytes.extend(groups.to_ne_bytes());
        bytes
    };
    if record.port != 0 || record.groups != 0 {
        sockaddr::bind(&fd, &address(record.port, record.groups))
            .map_err(Error::kernel("bind a netlink socket"))?;
    }
    if record.peer != 0 {
        sockaddr::connect(&fd, &address(record.peer, 0))
            .map_err(Error::kernel("connect a netlink socket"))?;
    }
    set_options(&fd, socket)?;
    set_buffers(&fd, socket)?;
    Ok(fd)
}
