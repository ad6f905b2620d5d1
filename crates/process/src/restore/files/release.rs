//! What connections are still to be given when their network is right, and giving it to them.
//!
//! Until then it is in nobody's socket: what was never sent must not leave before the workload is this host's. So that it does not
//! go with the process that restores, it can be written down ([`super::Recreated::unreleased`]), and whoever comes after that process
//! gives it ([`release_left`]). A release may be cut short at any point and be done again: how far a connection's send queue has
//! come is seen by its sequence number, and nobody else writes to it while the workload is frozen.

use super::socket::{set_buffers, set_reuse};
use super::tcp::{CLOSE, fill, show};
use super::{Error, inject, other_namespace};
use crate::capture::TaskRef;
use crate::capture::files::FilesContext;
use crate::capture::files::class::Class;
use crate::capture::files::survey::Survey;
use crate::records::socket::Socket;
use ferry_sys::enter::{Place, within};
use ferry_sys::ioctl::{self, Int};
use ferry_sys::sockaddr;
use ferry_sys::tcp_repair::{self, Queue};
use minicbor::{Decode, Encode};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::Shutdown;

/// What is left to do for one connection.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(crate) struct Pending {
    /// Description.
    #[n(0)]
    pub(super) number: u32,
    /// Inode of the socket on this host; 0 until it is written down.
    #[n(1)]
    pub(super) inode: u64,
    /// Number of the first byte that goes into the send queue.
    #[n(2)]
    pub(super) first: u32,
    /// Sent before the move: more than a new connection may have under way.
    #[n(3)]
    pub(super) sent: Option<Sent>,
    /// Written when the connection is out of repair mode.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub(super) unsent: Vec<u8>,
    /// `RCV_SHUTDOWN` 1, `SEND_SHUTDOWN` 2.
    #[n(5)]
    pub(super) shutdown: u32,
    /// A connection that was being made: its peer.
    #[n(6)]
    #[cbor(with = "minicbor::bytes")]
    pub(super) connect: Option<Vec<u8>>,
    /// Its options.
    #[n(7)]
    pub(super) socket: Socket,
}

/// Data that counts as sent.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub(super) struct Sent {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub(super) bytes: Vec<u8>,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub(super) local: Vec<u8>,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub(super) remote: Vec<u8>,
    /// Number of its first byte.
    #[n(3)]
    pub(super) sequence: u32,
    /// The peer's window, not scaled.
    #[n(4)]
    pub(super) window: u16,
}

/// What is left to do for all.
#[derive(Debug, Default, Encode, Decode)]
struct Left {
    #[n(0)]
    connections: Vec<Pending>,
}

impl Sent {
    /// Bytes that it takes in the send queue: one stands before it.
    fn len(&self) -> usize {
        self.bytes.len() + 1
    }

    /// Puts it into the send queue as sent, but for what is `there`, and plays the acknowledgement of what is before it.
    fn put(&self, fd: &OwnedFd, there: usize) -> std::io::Result<()> {
        tcp_repair::choose(fd, Queue::Receive)?;
        let sequence = tcp_repair::sequence(fd)?;
        tcp_repair::choose(fd, Queue::Send)?;
        if there == 0 {
            // Never sent again: the peer has it.
            fill(fd, &[0])?;
        }
        fill(fd, &self.bytes[there.saturating_sub(1)..])?;
        tcp_repair::choose(fd, Queue::None)?;
        // What was put in by repair mode counts as sent again, so only a time stamp tells how long its way was. In front of the next byte
        // that is expected it is not remembered as the peer's newest, which it could be too new for.
        let room = tcp_repair::window(fd)?[3] > 0;
        let stamped = room && tcp_repair::info(fd)?.agreed.timestamps;
        let stamps = if stamped { Some([1, tcp_repair::timestamp(fd)?]) } else { None };
        inject::segment(&inject::Segment {
            from: &self.remote,
            to: &self.local,
            sequence: sequence.wrapping_add(u32::from(stamped)),
            acknowledged: self.sequence,
            flags: 0,
            window: self.window,
            stamps,
        })?;
        let left = self.bytes.len();
        match inject::wait_for(|| Ok(ioctl::get(fd, Int::Unacknowledged)?.max(0) as usize <= left)) {
            // The peer spoke meanwhile: its own acknowledgement comes, or the slow timer.
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Ok(()),
            done => done,
        }
    }
}

impl Pending {
    /// Nothing to give yet to description `number`.
    pub(super) fn new(number: usize, socket: &Socket) -> Self {
        // What its queues held is in the other fields, or in the socket.
        let socket = Socket { detail: Default::default(), ..socket.clone() };
        Self {
            number: number as u32,
            inode: 0,
            first: 0,
            sent: None,
            unsent: Vec::new(),
            shutdown: 0,
            connect: None,
            socket,
        }
    }

    /// Lets the connection go on. May be done again after it was cut short anywhere.
    fn release(&self, fd: &OwnedFd) -> Result<(), Error> {
        if let Some(remote) = &self.connect {
            return call_again(fd, remote);
        }
        match self.give(fd) {
            // The peer has reset it: nobody waits for any of it.
            Err(_) if is_over(fd) => {}
            given => given?,
        }
        set_buffers(fd, &self.socket)?;
        set_reuse(fd, &self.socket)
    }

    fn give(&self, fd: &OwnedFd) -> Result<(), Error> {
        // Only now may a reset reach it.
        let _ = ferry_sys::socket_filter::detach(fd);
        if is_over(fd) {
            return Ok(());
        }
        let fill_queue = || Error::kernel("fill a connection's send queue");
        let mut there = self.progress(fd).map_err(fill_queue())?;
        if let Some(sent) = &self.sent {
            // It is out of repair mode only after all of this.
            if there < sent.len() {
                sent.put(fd, there).map_err(fill_queue())?;
            }
            there = there.saturating_sub(sent.len());
        }
        let unsent = self.unsent.get(there..).unwrap_or_default();
        // With something to send nothing else is needed; without, a probe makes the peer say what it has.
        let end = if unsent.is_empty() { tcp_repair::end(fd) } else { tcp_repair::end_silently(fd) };
        end.map_err(Error::kernel("end the repair of a connection"))?;
        fill(fd, unsent).map_err(Error::kernel("send again what waited in a connection"))?;
        let how = match self.shutdown & 3 {
            0 => return Ok(()),
            1 => Shutdown::Read,
            2 => Shutdown::Write,
            _ => Shutdown::Both,
        };
        // The peer may have reset it meanwhile.
        let _ = rustix::net::shutdown(fd, how);
        Ok(())
    }

    /// How many bytes have been put into its send queue since it was made; one more if its end was. It is in repair mode afterwards.
    fn progress(&self, fd: &OwnedFd) -> std::io::Result<usize> {
        tcp_repair::begin(fd)?;
        tcp_repair::choose(fd, Queue::Send)?;
        let now = tcp_repair::sequence(fd)?;
        tcp_repair::choose(fd, Queue::None)?;
        Ok(now.wrapping_sub(self.first) as usize)
    }
}

fn is_over(fd: &OwnedFd) -> bool {
    tcp_repair::info(fd).is_ok_and(|info| info.state == CLOSE)
}

/// Calls a peer that had not answered yet.
fn call_again(fd: &OwnedFd, remote: &[u8]) -> Result<(), Error> {
    let what = || format!("call {} again", show(remote));
    let before = rustix::fs::fcntl_getfl(fd).map_err(Error::kernel(what()))?;
    let waiting = before | rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(fd, waiting).map_err(Error::kernel(what()))?;
    let done = sockaddr::connect(fd, remote);
    rustix::fs::fcntl_setfl(fd, before).map_err(Error::kernel(what()))?;
    match done {
        // Called already, by one who was cut short afterwards.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EALREADY | libc::EISCONN)) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        done => done.map_err(Error::kernel(what())),
    }
}

/// Writes down what is left to do. None: nothing is.
pub(super) fn write_down(
    connections: &[Pending],
    descriptions: &[OwnedFd],
) -> Result<Option<Vec<u8>>, Error> {
    let mut left = Left::default();
    for pending in connections {
        let Some(fd) = descriptions.get(pending.number as usize) else { continue };
        let stat = rustix::fs::fstat(fd).map_err(Error::kernel("look at a connection"))?;
        left.connections.push(Pending { inode: stat.st_ino, ..pending.clone() });
    }
    if left.connections.is_empty() {
        return Ok(None);
    }
    let bytes = minicbor::to_vec(&left).map_err(|e| Error::broken(format!("Connections: {e}")))?;
    Ok(Some(bytes))
}

/// Releases those whose descriptors `find` gives. Those that failed stay in `connections`, to be tried again.
pub(super) fn release_all(
    connections: &mut Vec<Pending>,
    net: Option<&OwnedFd>,
    find: impl Fn(&Pending) -> Result<Option<OwnedFd>, Error>,
) -> Result<(), Error> {
    if connections.is_empty() {
        return Ok(());
    }
    let found: Result<Vec<_>, Error> = connections.iter().map(find).collect();
    let found: Vec<_> = found?.into_iter().zip(std::mem::take(connections)).collect();
    // Acknowledgements are played to some.
    let place = Place { mount: None, net: net.map(AsFd::as_fd) };
    let released = within(place, || {
        let (mut first, mut failed) = (Ok(()), Vec::new());
        for (fd, pending) in found {
            // Closed meanwhile: there is no connection any more.
            let Some(fd) = fd else { continue };
            if let Err(error) = pending.release(&fd) {
                failed.push(pending);
                first = first.and(Err(error));
            }
        }
        (first, failed)
    });
    let (first, failed) = released.map_err(Error::kernel("enter the workload's network namespace"))?;
    *connections = failed;
    first
}

/// Lets the connections of the frozen `tasks` go on in the place of a process that made them and is gone. `written` is from
/// [`super::Recreated::unreleased`]; `init` is in the workload's network namespace, as this host sees it (none: the caller's). Every
/// byte gets into its connection once, whatever that process had done already. May be repeated.
///
/// # Errors
/// When `written` is damaged, the descriptors cannot be read, or a connection refuses; the others are released all the same.
pub fn release_left(written: &[u8], tasks: &[TaskRef], init: Option<i32>) -> Result<(), Error> {
    let left: Left =
        minicbor::decode(written).map_err(|e| Error::broken(format!("Connections that were left: {e}")))?;
    let net = other_namespace(init, "net")?;
    let ctx = FilesContext::default();
    let unread = |e| Error::kernel("read the tasks' descriptors")(std::io::Error::other(e));
    let survey = Survey::make(tasks, &ctx).map_err(unread)?;
    let mut connections = left.connections;
    release_all(&mut connections, net.as_ref(), |pending| {
        let mut sockets = survey.looks.iter().filter(|look| look.class == Class::Tcp);
        let look = sockets.find(|look| look.stat.st_ino == pending.inode);
        look.map(|look| survey.take(look).map_err(unread)).transpose()
    })
}
