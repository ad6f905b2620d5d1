//! TCP sockets, made again by `TCP_REPAIR`.
//!
//! How data that was sent and not acknowledged is restored decides how long the peer waits after a move: what goes into the
//! repaired send queue counts as sent, and is sent again only when a timer runs out that knows nothing of the path (3 s). So
//! as long as it fits into the first window of a connection (10 segments) it is *not* put there but written again at the
//! release: it goes out at once, and what the peer had already it drops. Beyond that the sequence numbers must be those that
//! the peer may acknowledge, so it does go there, at the release, and behind one byte that the peer has acknowledged. That
//! acknowledgement is played to the socket (see `inject`), so that it has measured a way of a few microseconds: its next
//! timer is that of a tail loss probe, some milliseconds away, to which the peer answers with what it lacks.
//!
//! A FIN that was sent is sent again (the peer acknowledges a second one). One that was received cannot come again, so it is
//! played to the socket by a raw packet (see `inject`).

use super::inject;
use super::over::Over;
use super::release::{Pending, Sent};
use super::socket::{new, set_buffers, set_options, widen};
use super::{Error, Restore};
use crate::records::socket::{Connection, Socket, TcpSocket};
use ferry_sys::sockaddr;
use ferry_sys::tcp_repair::{self, Agreed, Queue};
use rustix::fd::OwnedFd;

pub(super) const LISTEN: u8 = 10;
const SYN_SENT: u8 = 2;
pub(super) const CLOSE: u8 = 7;
/// Segments that a new connection may have under way (RFC 6928).
const FIRST_WINDOW: usize = 10;

/// What is put into a connection at the release.
#[derive(Debug)]
struct Queues {
    /// Number of the first byte that is put into it.
    first: u32,
    sent: Option<Sent>,
    unsent: Vec<u8>,
}

/// Makes the socket of description `number`.
pub(super) fn create(
    restore: &mut Restore<'_>,
    number: usize,
    socket: &Socket,
    record: &TcpSocket,
) -> Result<OwnedFd, Error> {
    let mut fd = new(socket)?;
    if let Some(connection) = &record.connection {
        let sent = connection.send_queue.len().saturating_sub(connection.unsent as usize);
        let slow = sent > FIRST_WINDOW * connection.mss.max(1) as usize;
        let Queues { first, sent, unsent } = match connect(&fd, socket, record, connection, slow)? {
            Some(queues) => queues,
            None => {
                fd = new(socket)?;
                connect(&fd, socket, record, connection, true)?
                    .ok_or_else(|| Error::broken("A connection whose segments have no size"))?
            }
        };
        let shutdown = shutdown_of(record);
        restore.connections.push(Pending { first, sent, unsent, shutdown, ..Pending::new(number, socket) });
        return Ok(fd);
    }
    if record.state == CLOSE && record.shutdown != 0 {
        set_options(&fd, socket)?;
        let over = Over { local: record.local.as_deref(), unread: &record.unread, error: record.error };
        over.play(&fd, socket.domain)?;
        set_buffers(&fd, socket)?;
        return Ok(fd);
    }
    if let Some(local) = &record.local {
        sockaddr::bind(&fd, local).map_err(Error::kernel(format!("bind {}", show(local))))?;
    }
    set_options(&fd, socket)?;
    set_buffers(&fd, socket)?;
    match record.state {
        LISTEN => rustix::net::listen(&fd, record.backlog.min(i32::MAX as u32) as i32)
            .map_err(Error::kernel("listen"))?,
        SYN_SENT => restore
            .connections
            .push(Pending { connect: record.remote.clone(), ..Pending::new(number, socket) }),
        _ => {}
    }
    Ok(fd)
}

/// Directions that the program has shut: `RCV_SHUTDOWN` 1, `SEND_SHUTDOWN` 2.
fn shutdown_of(record: &TcpSocket) -> u32 {
    use crate::capture::files::tcp_state as state;
    let sent = matches!(record.state, state::FIN_WAIT1 | state::FIN_WAIT2 | state::LAST_ACK | state::CLOSING);
    record.shutdown & 1 | if sent { 2 } else { 0 }
}

/// Rebuilds a connection and gives what is to be put into it at the release. Only if `slow`, some of it counts as sent. `None`: it
/// must be made again the slow way, since its segments are smaller here than was agreed upon.
fn connect(
    fd: &OwnedFd,
    socket: &Socket,
    record: &TcpSocket,
    connection: &Connection,
    slow: bool,
) -> Result<Option<Queues>, Error> {
    use crate::capture::files::tcp_state as state;
    let (Some(local), Some(remote)) = (&record.local, &record.remote) else {
        return Err(Error::broken("A connection without addresses"));
    };
    let name = format!("{} with {}", show(local), show(remote));
    let what = || format!("rebuild the connection of {name}");
    tcp_repair::begin(fd).map_err(Error::kernel(what()))?;
    ferry_sys::socket_filter::drop_resets(fd).map_err(Error::kernel(what()))?;
    // Sequence numbers as they were before what is in the queues, and before a FIN.
    let fin_received = state::fin_received(record.state);
    let fin_sent =
        matches!(record.state, state::FIN_WAIT1 | state::FIN_WAIT2 | state::LAST_ACK | state::CLOSING);
    let received = connection.receive_sequence.wrapping_sub(u32::from(fin_received));
    let written = connection.send_sequence.wrapping_sub(u32::from(fin_sent));
    let set = |queue, sequence| {
        tcp_repair::choose(fd, queue)?;
        tcp_repair::set_sequence(fd, sequence)
    };
    set(Queue::Receive, received.wrapping_sub(connection.receive_queue.len() as u32))
        .map_err(Error::kernel(what()))?;
    let unacknowledged = written.wrapping_sub(connection.send_queue.len() as u32);
    // See `release` for the byte before.
    let first = unacknowledged.wrapping_sub(u32::from(slow));
    set(Queue::Send, first).map_err(Error::kernel(what()))?;
    sockaddr::bind(fd, local).map_err(Error::kernel(format!("bind {}", show(local))))?;
    sockaddr::connect(fd, remote).map_err(Error::kernel(what()))?;
    let agreed = Agreed {
        mss: connection.mss,
        window_scale: connection.window_scale,
        sack: connection.sack,
        timestamps: connection.timestamps,
    };
    tcp_repair::set_agreed(fd, &agreed).map_err(Error::kernel(what()))?;
    let six = matches!(inject::end(remote), Some((ip, _)) if ip.is_ipv6());
    tcp_repair::apply_segment_size(fd, six).map_err(Error::kernel(what()))?;
    let segment = tcp_repair::info(fd).map_err(Error::kernel(what()))?.agreed.mss;
    let sent = connection.send_queue.len().saturating_sub(connection.unsent as usize);
    if !slow && sent > FIRST_WINDOW * segment.max(1) as usize {
        return Ok(None);
    }
    if connection.timestamps {
        tcp_repair::set_timestamp(fd, connection.timestamp).map_err(Error::kernel(what()))?;
    }
    set_options(fd, socket)?;
    widen(fd, connection.receive_queue.len().max(connection.send_queue.len()))?;
    tcp_repair::choose(fd, Queue::Receive).map_err(Error::kernel(what()))?;
    fill(fd, &connection.receive_queue)
        .map_err(Error::kernel(format!("fill the receive queue of {name}")))?;
    let mut window = connection.window;
    if fin_received {
        // The window as it was before the FIN took its place in it.
        window[3] = window[3].wrapping_add(1);
        window[4] = window[4].wrapping_sub(1);
    }
    tcp_repair::set_window(fd, &window).map_err(Error::kernel(format!("set the windows of {name}")))?;
    tcp_repair::choose(fd, Queue::None).map_err(Error::kernel(what()))?;
    if fin_received {
        let fin = inject::Segment {
            from: remote,
            to: local,
            sequence: received,
            acknowledged: first,
            flags: inject::FIN,
            window: peer_window(connection),
            stamps: None,
        };
        inject::segment_until(&fin, || Ok(tcp_repair::info(fd)?.state == state::CLOSE_WAIT))
            .map_err(Error::kernel(format!("play the end of {name}")))?;
    }
    if !slow {
        return Ok(Some(Queues { first, sent: None, unsent: connection.send_queue.clone() }));
    }
    let (sent, unsent) = connection.send_queue.split_at(sent);
    let sent = Sent {
        bytes: sent.to_vec(),
        local: local.clone(),
        remote: remote.clone(),
        sequence: unacknowledged,
        window: peer_window(connection),
    };
    Ok(Some(Queues { first, sent: Some(sent), unsent: unsent.to_vec() }))
}

/// The peer's window as it says it.
fn peer_window(connection: &Connection) -> u16 {
    let scale = connection.window_scale.map_or(0, |[send, _]| send.min(14));
    u16::try_from(connection.window[1] >> scale).unwrap_or(u16::MAX)
}

pub(super) fn fill(fd: &OwnedFd, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let done = sockaddr::send(fd, &bytes[..bytes.len().min(1 << 16)], None)?;
        bytes = &bytes[done..];
    }
    Ok(())
}

/// An internet address for people.
pub(super) fn show(address: &[u8]) -> String {
    let family = address.first().copied().unwrap_or(0);
    let port = address.get(2..4).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    if i32::from(family) == libc::AF_INET6
        && let Some(Ok(bytes)) = address.get(8..24).map(<[u8; 16]>::try_from)
    {
        return format!("[{}]:{port}", std::net::Ipv6Addr::from(bytes));
    }
    match address.get(4..8).map(<[u8; 4]>::try_from) {
        Some(Ok(bytes)) => format!("{}:{port}", std::net::Ipv4Addr::from(bytes)),
        _ => "an unknown address".to_owned(),
    }
}
