//! Unix sockets: names, peers and queues. Who a peer is, only `sock_diag` tells.

use super::class::{Class, refuse};
use super::survey::{Look, Survey};
use super::{Capture, Error, find};
use crate::records::socket::{Message, UnixSocket};
use ferry_sys::sockaddr::{self, peek};
use ferry_sys::sockopt;
use ferry_sys::unix_diag::UnixInfo;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Stat};

/// Longest message that is read, bytes.
const MESSAGE_MAX: usize = 4 << 20;
const CONNECTED: u8 = 1;
const LISTENS: u8 = 10;

/// Refuses what is bound up with somebody outside of the tree.
pub(super) fn classify(survey: &Survey<'_>, look: &Look, sort: i32) -> Result<Class, Error> {
    let Some(info) = survey.unix()?.get(&(look.stat.st_ino as u32)) else {
        return Ok(refuse(
            look,
            "a Unix socket of another network namespace",
            "Close it before the move: the workload moves with one network namespace",
        ));
    };
    if look.info.travelling > 0 {
        return Ok(refuse(
            look,
            &format!("a Unix socket in which {} descriptors travel (SCM_RIGHTS)", look.info.travelling),
            "Let the program receive them first",
        ));
    }
    match peer(survey, info, sort) {
        Peer::Outside(inode) => Ok(refuse(
            look,
            &format!("a Unix socket whose peer (socket:[{inode}]) is outside of the workload"),
            "Run both ends in one workload, or close the connection",
        )),
        _ => Ok(Class::Unix),
    }
}

enum Peer {
    None,
    Inside(u64),
    Gone,
    NotAccepted,
    Outside(u64),
}

fn peer(survey: &Survey<'_>, info: &UnixInfo, sort: i32) -> Peer {
    let stream = sort != libc::SOCK_DGRAM;
    let Some(inode) = info.peer else {
        return if stream && info.state == CONNECTED { Peer::Gone } else { Peer::None };
    };
    if inode != 0
        && survey.looks.iter().any(|other| other.stat.st_ino == u64::from(inode) && is_socket(other))
    {
        return Peer::Inside(u64::from(inode));
    }
    let alive = inode != 0 && survey.unix().is_ok_and(|all| all.contains_key(&inode));
    if alive {
        return Peer::Outside(u64::from(inode));
    }
    // A peer that closed shuts both directions of a stream; one that was never accepted has not.
    if stream && info.shutdown != 3 { Peer::NotAccepted } else { Peer::Gone }
}

fn is_socket(look: &Look) -> bool {
    look.link.starts_with(b"socket:")
}

/// Captures the socket behind `look`.
pub(super) fn capture(
    capture: &mut Capture<'_>,
    look: &Look,
    fd: &OwnedFd,
    sort: i32,
) -> Result<UnixSocket, Error> {
    let survey = capture.survey;
    let Some(info) = survey.unix()?.get(&(look.stat.st_ino as u32)) else {
        return Err(Error::busy(format!("{}: the socket changed", look.place())));
    };
    let mut socket =
        UnixSocket { name: info.name.clone(), shutdown: u32::from(info.shutdown), ..Default::default() };
    if let Some(name) = &info.name
        && name.first() != Some(&0)
        && let Some((directory, stat)) = node(survey, look, name, info)
    {
        socket.reachable = true;
        socket.directory = directory;
        socket.node = [stat.st_mode & 0o7777, stat.st_uid, stat.st_gid];
    }
    if info.state == LISTENS {
        if info.receive_queue > 0 {
            return Err(Error::busy(format!(
                "{}: {} connections wait to be accepted on a Unix socket",
                look.place(),
                info.receive_queue
            )));
        }
        socket.backlog = Some(info.send_queue);
        return Ok(socket);
    }
    match peer(survey, info, sort) {
        Peer::None | Peer::Outside(_) => {}
        Peer::Inside(inode) => socket.peer = inode,
        Peer::Gone => {
            socket.orphan = true;
            socket.peer_name = sockaddr::remote(fd).ok().and_then(|address| path_of(&address));
        }
        Peer::NotAccepted => {
            let what = format!("{}: a connection by Unix socket waits to be accepted", look.place());
            return Err(Error::busy(what));
        }
    }
    if info.receive_queue > 0 || sort == libc::SOCK_DGRAM {
        let what = format!("read what waits in the socket of {}", look.place());
        socket.queue = queue(fd, sort).map_err(Error::kernel(what))?;
    }
    for message in &mut socket.queue {
        message.sender = sender(survey, message.from.as_deref().and_then(path_of));
    }
    capture.carry(look, socket.queue.iter().map(|message| message.bytes.len() as u64).sum())?;
    Ok(socket)
}

/// The node that the socket is bound to, and the directory to which its name relates, if it is still there.
fn node(survey: &Survey<'_>, look: &Look, name: &[u8], info: &UnixInfo) -> Option<(Option<Vec<u8>>, Stat)> {
    let (inode, device) = info.node?;
    let (path, directory) = if name.first() == Some(&b'/') {
        (name.to_vec(), None)
    } else {
        let cwd = format!("/proc/{}/cwd", look.task.host_pid);
        let directory = rustix::fs::readlink(cwd, Vec::new()).ok()?.into_bytes();
        ([&directory[..], b"/", name].concat(), Some(directory))
    };
    let found = find::open_path(survey, &path)?;
    let stat = rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH).ok()?;
    // Overlays show another inode number than that of the layer below; there the type must do.
    let same = stat.st_ino as u32 == inode
        || rustix::fs::major(stat.st_dev) << 20 | rustix::fs::minor(stat.st_dev) != device;
    (same && rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket()).then_some((directory, stat))
}

/// `sun_path` of a `sockaddr_un`, without the final zero byte of a path.
fn path_of(address: &[u8]) -> Option<Vec<u8>> {
    let mut path = address.get(2..)?.to_vec();
    if path.first()? != &0 && path.last() == Some(&0) {
        path.pop();
    }
    Some(path)
}

/// The socket of this workload that has the name, 0 for none.
fn sender(survey: &Survey<'_>, name: Option<Vec<u8>>) -> u64 {
    let (Some(name), Ok(all)) = (name, survey.unix()) else { return 0 };
    survey
        .looks
        .iter()
        .find(|look| {
            let known = all.get(&(look.stat.st_ino as u32));
            is_socket(look)
                && known.is_some_and(|info| info.name.as_ref() == Some(&name) && info.state != LISTENS)
        })
        .map_or(0, |look| look.stat.st_ino)
}

/// What waits to be read, without taking it.
fn queue(fd: &OwnedFd, sort: i32) -> std::io::Result<Vec<Message>> {
    let before = sockopt::get_int(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
    sockopt::set_int(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0)?;
    let queue = read_queue(fd, sort);
    sockopt::set_int(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, before)?;
    queue
}

fn read_queue(fd: &OwnedFd, sort: i32) -> std::io::Result<Vec<Message>> {
    let mut queue: Vec<Message> = Vec::new();
    while let Some(mut found) = peek(fd, MESSAGE_MAX)? {
        if found.descriptors > 0 {
            return Err(std::io::Error::other("descriptors travel in it (SCM_RIGHTS)"));
        }
        if sort != libc::SOCK_STREAM && found.truncated {
            return Err(std::io::Error::other("a message in it is too long"));
        }
        if found.bytes.is_empty() && sort != libc::SOCK_DGRAM {
            break;
        }
        if sort == libc::SOCK_STREAM
            && let Some(first) = queue.first_mut()
        {
            first.bytes.append(&mut found.bytes);
            continue;
        }
        found.bytes.shrink_to_fit();
        let from = found.from.filter(|address| address.len() > 2);
        queue.push(Message { bytes: found.bytes, from, to: None, sender: 0 });
    }
    Ok(queue)
}
