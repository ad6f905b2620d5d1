//! `TCP_REPAIR`: a connection's queues, sequence numbers, windows and options read out of one socket and put into another,
//! without a packet being sent.
//!
//! A socket in repair mode closes silently. Taking it out of repair mode also clears its "reuse address" flag, so that is
//! kept by the caller and set again.

use crate::sockopt::{get_int, get_into, set, set_int};
use rustix::fd::AsFd;
use std::io;

const TCP: i32 = libc::IPPROTO_TCP;
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;

/// Which queue a following call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// None.
    None = 0,
    /// Received data.
    Receive = 1,
    /// Data to send.
    Send = 2,
}

/// Puts it into repair mode.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN in the socket's network namespace, or for a listening socket.
pub fn begin(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, TCP, TCP_REPAIR, 1)
}

/// Takes it out of repair mode; a window probe is sent, so that the peer says what it has.
///
/// # Errors
/// As [`begin`].
pub fn end(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, TCP, TCP_REPAIR, 0)
}

/// Takes it out of repair mode without sending anything.
///
/// # Errors
/// As [`begin`].
pub fn end_silently(socket: impl AsFd) -> io::Result<()> {
    set_int(socket, TCP, TCP_REPAIR, -1)
}

/// Whether it is in repair mode.
///
/// # Errors
/// ENOPROTOOPT for what is not TCP.
pub fn active(socket: impl AsFd) -> io::Result<bool> {
    Ok(get_int(socket, TCP, TCP_REPAIR)? == 1)
}

/// Chooses the queue that [`sequence`], [`set_sequence`], `recv(MSG_PEEK)` and `send` mean.
///
/// # Errors
/// EPERM outside of repair mode.
pub fn choose(socket: impl AsFd, queue: Queue) -> io::Result<()> {
    set_int(socket, TCP, TCP_REPAIR_QUEUE, queue as i32)
}

/// The sequence number after the chosen queue's last byte.
///
/// # Errors
/// EINVAL without a chosen queue.
pub fn sequence(socket: impl AsFd) -> io::Result<u32> {
    Ok(get_int(socket, TCP, TCP_QUEUE_SEQ)? as u32)
}

/// Sets the sequence number of the chosen queue; only before `connect`.
///
/// # Errors
/// EPERM in any state but `TCP_CLOSE`.
pub fn set_sequence(socket: impl AsFd, number: u32) -> io::Result<()> {
    set_int(socket, TCP, TCP_QUEUE_SEQ, number as i32)
}

/// `snd_wl1`, `snd_wnd`, `max_window`, `rcv_wnd`, `rcv_wup`.
///
/// # Errors
/// EPERM outside of repair mode, ENOPROTOOPT before Linux 4.8.
pub fn window(socket: impl AsFd) -> io::Result<[u32; 5]> {
    let mut bytes = [0; 20];
    if get_into(socket, TCP, TCP_REPAIR_WINDOW, &mut bytes)? != bytes.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (words, _) = bytes.as_chunks::<4>();
    Ok(std::array::from_fn(|at| u32::from_ne_bytes(words[at])))
}

/// Sets what [`window`] gave.
///
/// # Errors
/// EINVAL when it does not fit to the sequence numbers.
pub fn set_window(socket: impl AsFd, window: &[u32; 5]) -> io::Result<()> {
    let bytes: Vec<u8> = window.iter().flat_map(|word| word.to_ne_bytes()).collect();
    set(socket, TCP, TCP_REPAIR_WINDOW, &bytes)
}

/// What both ends agreed upon when the connection was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Maximum segment size, bytes.
    pub mss: u32,
    /// Window scales: send, receive.
    pub window_scale: Option<[u8; 2]>,
    /// Selective acknowledgements.
    pub sack: bool,
    /// Time stamps.
    pub timestamps: bool,
}

/// Sets what was agreed upon; only in a connected socket in repair mode.
///
/// # Errors
/// EINVAL, EPERM.
pub fn set_agreed(socket: impl AsFd, agreed: &Agreed) -> io::Result<()> {
    const OPTION_MSS: u32 = 2;
    const OPTION_WINDOW: u32 = 3;
    const OPTION_SACK: u32 = 4;
    const OPTION_TIMESTAMPS: u32 = 8;
    let mut words = vec![OPTION_MSS, agreed.mss];
    if let Some([send, receive]) = agreed.window_scale {
        words.extend([OPTION_WINDOW, u32::from(send) | u32::from(receive) << 16]);
    }
    if agreed.sack {
        words.extend([OPTION_SACK, 0]);
    }
    if agreed.timestamps {
        words.extend([OPTION_TIMESTAMPS, 0]);
    }
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    set(socket, TCP, TCP_REPAIR_OPTIONS, &bytes)
}

/// Makes an agreed segment size count: [`set_agreed`] alone leaves the one that was guessed at `connect` (524 bytes over IPv4),
/// for as long as the path's MTU does not change. To set its IP options, even to none, makes the kernel compute it.
///
/// # Errors
/// EINVAL.
pub fn apply_segment_size(socket: impl AsFd, six: bool) -> io::Result<()> {
    if six {
        // Too short for an option, so it has none; with no bytes at all nothing would be computed.
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_2292PKTOPTIONS, &[0; 4])?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_2292PKTOPTIONS, &[])
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &[])
    }
}

/// The clock of its time stamps.
///
/// # Errors
/// ENOPROTOOPT.
pub fn timestamp(socket: impl AsFd) -> io::Result<u32> {
    Ok(get_int(socket, TCP, TCP_TIMESTAMP)? as u32)
}

/// Sets the clock of its time stamps.
///
/// # Errors
/// EPERM outside of repair mode.
pub fn set_timestamp(socket: impl AsFd, value: u32) -> io::Result<()> {
    set_int(socket, TCP, TCP_TIMESTAMP, value as i32)
}

/// The parts of `struct tcp_info` that are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// `TCP_ESTABLISHED` 1, `TCP_LISTEN` 10 ..
    pub state: u8,
    /// What was agreed upon; the segment size is the one in use.
    pub agreed: Agreed,
    /// A listening socket: connections that wait to be accepted.
    pub waiting: u32,
    /// A listening socket: its backlog.
    pub backlog: u32,
}

/// Reads `TCP_INFO`.
///
/// # Errors
/// ENOPROTOOPT for what is not TCP.
pub fn info(socket: impl AsFd) -> io::Result<Info> {
    let mut bytes = [0; 104];
    let len = get_into(&socket, TCP, libc::TCP_INFO, &mut bytes)?;
    if len < 32 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let options = bytes[5];
    let scales = bytes[6];
    Ok(Info {
        state: bytes[0],
        agreed: Agreed {
            mss: word(16),
            window_scale: (options & 4 != 0).then_some([scales & 15, scales >> 4]),
            sack: options & 2 != 0,
            timestamps: options & 1 != 0,
        },
        waiting: word(24),
        backlog: word(28),
    })
}
