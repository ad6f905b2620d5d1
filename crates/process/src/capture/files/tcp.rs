//! TCP sockets, by `TCP_REPAIR`.
//!
//! From the capture of a connection on it is in repair mode and a filter drops what comes in: nothing that the workload or the
//! peer does changes it, and if it is closed, no packet leaves. A connection that is over has bytes that nobody has read, and perhaps an error to tell.
//! [`Held`] has what is needed to go back.

use super::class::{Class, refuse};
use super::survey::{Look, Survey};
use super::{Capture, Error, FilesContext, TaskRef, udp};
use crate::records::socket::{Connection, TcpSocket};
use crate::restore::files::over::Over;
use ferry_sys::enter::{Place, within};
use ferry_sys::ioctl::{self, Int};
use ferry_sys::sockaddr::{self, peek};
use ferry_sys::tcp_repair::{self, Queue};
use ferry_sys::{socket_filter, sockopt};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};

/// States of `tcp_info` by name.
pub(crate) mod state {
    pub(crate) const SYN_SENT: u8 = 2;
    pub(crate) const SYN_RECV: u8 = 3;
    pub(crate) const FIN_WAIT1: u8 = 4;
    pub(crate) const FIN_WAIT2: u8 = 5;
    pub(crate) const CLOSE: u8 = 7;
    pub(crate) const CLOSE_WAIT: u8 = 8;
    pub(crate) const LAST_ACK: u8 = 9;
    pub(crate) const LISTEN: u8 = 10;
    pub(crate) const CLOSING: u8 = 11;

    /// Our FIN was sent and not acknowledged: it is counted in the send queue.
    pub(crate) fn fin_unacknowledged(state: u8) -> bool {
        matches!(state, FIN_WAIT1 | LAST_ACK | CLOSING)
    }

    /// The peer's FIN came: it is counted in the receive sequence.
    pub(crate) fn fin_received(state: u8) -> bool {
        matches!(state, CLOSE_WAIT | LAST_ACK | CLOSING)
    }
}

/// A connection in repair mode that nothing reaches.
#[derive(Debug)]
struct Still {
    socket: OwnedFd,
    inode: u64,
    /// Its SO_REUSEADDR, which repair mode changes.
    reuse: i32,
}

impl Still {
    fn hold(socket: OwnedFd, inode: u64) -> std::io::Result<Self> {
        let reuse = sockopt::get_int(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR).unwrap_or(0);
        tcp_repair::begin(&socket)?;
        let still = Self { socket, inode, reuse };
        if let Err(error) = socket_filter::drop_all(&still.socket) {
            still.go_on();
            return Err(error);
        }
        Ok(still)
    }

    /// A socket that is no longer in repair mode needs nothing.
    fn go_on(&self) {
        let _ = socket_filter::detach(&self.socket);
        let _ = tcp_repair::end(&self.socket);
        let _ = sockopt::set_int(&self.socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, self.reuse);
    }
}

/// Holds every connection before any is read: what two ends within the workload say to each other while one is read and the
/// other is not would be lost, or be there twice.
pub(super) fn hold(capture: &mut Capture<'_>) -> Result<(), Error> {
    for look in capture.survey.looks.iter().filter(|look| look.class == Class::Tcp) {
        let fd = capture.take(look)?;
        let info = tcp_repair::info(&fd).map_err(Error::kernel(format!("look at {}", look.place())))?;
        if !matches!(info.state, state::LISTEN | state::CLOSE | state::SYN_SENT) {
            hold_one(capture, look, fd)?;
        }
    }
    Ok(())
}

fn hold_one(capture: &mut Capture<'_>, look: &Look, fd: OwnedFd) -> Result<(), Error> {
    let still = Still::hold(fd, look.stat.st_ino)
        .map_err(Error::kernel(format!("repair the connection of {}", look.place())))?;
    capture.held.sockets.push(still);
    Ok(())
}

/// Connections in repair mode at the source, and those whose end was looked at so that they do not tell it again.
#[derive(Debug, Default)]
pub struct Held {
    sockets: Vec<Still>,
    ended: Vec<Ended>,
}

/// A connection that is over, whose error was read and with that taken away.
#[derive(Debug)]
struct Ended {
    socket: OwnedFd,
    record: TcpSocket,
    domain: i32,
    /// The workload's network namespace.
    net: OwnedFd,
}

impl Ended {
    /// Puts the error back: the socket is made new, and its end played.
    fn put_back(self) -> Result<(), Error> {
        let Self { socket, record, domain, net } = self;
        let setting = |name| sockopt::get_int(&socket, libc::SOL_SOCKET, name).unwrap_or(0);
        let reuse = setting(libc::SO_REUSEADDR);
        let place = Place { mount: None, net: Some(net.as_fd()) };
        let played = within(place, || {
            sockaddr::disconnect(&socket).map_err(Error::kernel("forget a connection"))?;
            let over = Over { local: record.local.as_deref(), unread: &record.unread, error: record.error };
            over.play(&socket, domain)
                .map_err(|e| Error::kernel("play the end of a connection")(std::io::Error::other(e)))
        });
        let played = played.map_err(Error::kernel("enter the workload's network namespace"));
        let _ = sockopt::set_int(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, i32::from(reuse == 1));
        played.and_then(|played| played)
    }
}

impl Held {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// SO_REUSEADDR of a connection before it was held.
    pub(super) fn reuse_of(&self, look: &Look) -> Option<i32> {
        self.sockets.iter().find(|still| still.inode == look.stat.st_ino).map(|still| still.reuse)
    }

    /// The connections do not move, and their owner is about to end: when the last descriptor goes, each peer gets a reset.
    pub fn end_with_reset(&self) {
        let linger = [1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat();
        for still in &self.sockets {
            let _ = socket_filter::detach(&still.socket);
            let _ = tcp_repair::end_silently(&still.socket);
            let _ = sockopt::set(&still.socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
        }
    }

    /// The move is off: takes all of them out of repair mode, so that they go on. May be called when the network is locked
    /// or not.
    pub fn resume(&mut self) {
        for still in self.sockets.drain(..) {
            still.go_on();
        }
        for ended in self.ended.drain(..) {
            // It stays over in any case; at worst a program reads the end instead of the error.
            let _ = ended.put_back();
        }
    }
}

/// Takes every connection of `tasks` that is in repair mode out of it: for when whoever held them is gone. Returns how many
/// there were.
///
/// # Errors
/// When the tasks' descriptors cannot be read.
pub fn end_repair(tasks: &[TaskRef]) -> Result<usize, Error> {
    let ctx = FilesContext::default();
    let survey = Survey::make(tasks, &ctx)?;
    let mut ended = 0;
    for look in survey.looks.iter().filter(|look| look.class == Class::Tcp) {
        let fd = survey.take(look)?;
        if tcp_repair::active(&fd).unwrap_or(false) {
            let _ = socket_filter::detach(&fd);
            tcp_repair::end(&fd).map_err(Error::kernel(format!("end repair mode of {}", look.place())))?;
            // What it was before is not known any more; a connection does not use it, a second bind to its port does.
            let _ = sockopt::set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
            ended += 1;
        }
    }
    Ok(ended)
}

/// Refuses what repair mode does not cover.
pub(super) fn classify(look: &Look, fd: &OwnedFd) -> Result<Class, Error> {
    let info = tcp_repair::info(fd).map_err(Error::kernel(format!("look at {}", look.place())))?;
    let protocol = sockopt::get(fd, libc::IPPROTO_TCP, libc::TCP_ULP).unwrap_or_default();
    if !protocol.is_empty() {
        let name = String::from_utf8_lossy(&protocol).trim_matches('\0').to_owned();
        return Ok(refuse(
            look,
            &format!("a TCP connection with the kernel's {name} on top"),
            "Let the program do it itself (for TLS: without kTLS)",
        ));
    }
    if info.state == state::SYN_RECV {
        return Ok(refuse(look, "a TCP Fast Open connection that is not complete", "Try again in a moment"));
    }
    Ok(Class::Tcp)
}

/// Captures the socket behind `look`.
pub(super) fn capture(capture: &mut Capture<'_>, look: &Look, fd: OwnedFd) -> Result<TcpSocket, Error> {
    let what = || format!("read the TCP socket of {}", look.place());
    let info = tcp_repair::info(&fd).map_err(Error::kernel(what()))?;
    let local = sockaddr::local(&fd).map_err(Error::kernel(what()))?;
    let mut socket = TcpSocket {
        state: info.state,
        local: (udp::port(&local) != 0).then_some(local),
        remote: sockaddr::remote(&fd).ok(),
        ..TcpSocket::default()
    };
    match info.state {
        state::LISTEN => {
            if info.waiting > 0 {
                return Err(Error::busy(format!(
                    "{}: {} TCP connections wait to be accepted",
                    look.place(),
                    info.waiting
                )));
            }
            socket.backlog = info.backlog;
        }
        state::CLOSE => {
            socket.shutdown = udp::shutdown(&fd).map_err(Error::kernel(what()))? & 1;
            if socket.shutdown != 0 {
                socket.shutdown = 3;
                over(capture, look, fd, &mut socket)?;
            }
        }
        state::SYN_SENT => socket.remote = connecting_to(look),
        _ => {
            // Connected only since `hold` looked.
            if !capture.held.sockets.iter().any(|still| still.inode == look.stat.st_ino) {
                hold_one(capture, look, capture.take(look)?)?;
            }
            let connection = read(&fd, &info).map_err(Error::kernel(what()))?;
            capture.carry(look, (connection.receive_queue.len() + connection.send_queue.len()) as u64)?;
            socket.connection = Some(connection);
        }
    }
    Ok(socket)
}

/// What is left of a connection that is over. Its error can be read once only, so it is put back when the move is off.
fn over(capture: &mut Capture<'_>, look: &Look, fd: OwnedFd, socket: &mut TcpSocket) -> Result<(), Error> {
    let what = || format!("read the rest of the connection of {}", look.place());
    let waiting = ioctl::get(&fd, Int::Readable).map_err(Error::kernel(what()))?.max(0) as usize;
    if waiting > 0 {
        let offset = sockopt::get_int(&fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF).unwrap_or(-1);
        let look_from = |offset| sockopt::set_int(&fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset);
        if offset >= 0 {
            look_from(-1).map_err(Error::kernel(what()))?;
        }
        let found = peek(&fd, waiting).map_err(Error::kernel(what()))?;
        if offset >= 0 {
            look_from(offset).map_err(Error::kernel(what()))?;
        }
        socket.unread = found.unwrap_or_default().bytes;
        capture.carry(look, socket.unread.len() as u64)?;
    }
    let mut state = [PollFd::new(&fd, PollFlags::empty())];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut state, Some(&now)).map_err(Error::kernel(what()))?;
    if state[0].revents().contains(PollFlags::ERR) {
        let net = capture.survey.namespace("net")?;
        let option = |name| sockopt::get_int(&fd, libc::SOL_SOCKET, name).map_err(Error::kernel(what()));
        let domain = option(libc::SO_DOMAIN)?;
        socket.error = option(libc::SO_ERROR)?;
        if socket.error != 0 {
            capture.held.ended.push(Ended { socket: fd, record: socket.clone(), domain, net });
        }
    }
    Ok(())
}

fn read(fd: &OwnedFd, info: &tcp_repair::Info) -> std::io::Result<Connection> {
    let (state, agreed) = (info.state, &info.agreed);
    let number = |request| Ok::<u32, std::io::Error>(ioctl::get(fd, request)?.max(0) as u32);
    let (received, unacknowledged, unsent) =
        (number(Int::Readable)?, number(Int::Unacknowledged)?, number(Int::Unsent)?);
    let fin = u32::from(state::fin_unacknowledged(state));
    let queue = |queue, len: u32| {
        tcp_repair::choose(fd, queue)?;
        let sequence = tcp_repair::sequence(fd)?;
        let bytes = if len == 0 { Vec::new() } else { peek(fd, len as usize)?.unwrap_or_default().bytes };
        if bytes.len() == len as usize {
            Ok((sequence, bytes))
        } else {
            Err(std::io::Error::other(format!("a queue has {} bytes instead of {len}", bytes.len())))
        }
    };
    let (receive_sequence, receive_queue) = queue(Queue::Receive, received)?;
    let (send_sequence, send_queue) = queue(Queue::Send, unacknowledged.saturating_sub(fin))?;
    tcp_repair::choose(fd, Queue::None)?;
    // In repair mode this is the size that was agreed upon, not the one in use.
    let mss = sockopt::get_int(fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG)?.max(0) as u32;
    Ok(Connection {
        receive_sequence,
        receive_queue,
        send_sequence,
        unsent: unsent.min(send_queue.len() as u32),
        send_queue,
        mss,
        window_scale: agreed.window_scale,
        sack: agreed.sack,
        timestamps: agreed.timestamps,
        timestamp: tcp_repair::timestamp(fd)?,
        window: tcp_repair::window(fd)?,
    })
}

/// Whom a socket in `SYN_SENT` calls: only `/proc/PID/net/tcp` tells.
fn connecting_to(look: &Look) -> Option<Vec<u8>> {
    for (file, family) in [("tcp", libc::AF_INET), ("tcp6", libc::AF_INET6)] {
        let text = std::fs::read_to_string(format!("/proc/{}/net/{file}", look.task.host_pid)).ok()?;
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.get(9).and_then(|inode| inode.parse().ok()) == Some(look.stat.st_ino) {
                return address(words.get(2)?, family);
            }
        }
    }
    None
}

/// `0100007F:1F90`: words of the address in the host's byte order, then the port.
fn address(text: &str, family: i32) -> Option<Vec<u8>> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?.to_be_bytes();
    let mut words = Vec::new();
    for at in (0..host.len()).step_by(8) {
        words.extend(u32::from_str_radix(host.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let mut address = (family as u16).to_ne_bytes().to_vec();
    address.extend(port);
    if family == libc::AF_INET6 {
        address.extend([0; 4]);
        address.extend(words);
        address.extend([0; 4]);
    } else {
        address.extend(words);
        address.extend([0; 8]);
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_addresses() {
        let found = super::address("0100007F:1F90", libc::AF_INET).unwrap();
        assert_eq!(found, [2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(super::address("01:zz", libc::AF_INET).is_none());
    }
}
