//! Unix sockets, made again.
//!
//! A name is more than a path: `accept`ed sockets show their listener's name, whatever stands at that path now. So names that
//! lead nowhere are given in a *jail*: a thread whose root is an empty directory binds there, the string is the same, and
//! nothing of the workload's tree is touched. The order: bind, connect, fill, connect datagram sockets, listen, shut down.

use super::socket::{new, set_buffers, set_options, widen};
use super::{Error, Restore};
use crate::records::file::Kind;
use crate::records::socket::{Detail, Message, Socket, UnixSocket};
use ferry_sys::enter::{Place, chroot_here, within};
use ferry_sys::sockaddr;
use rustix::fd::OwnedFd;
use rustix::fs::{Gid, Mode, Uid};
use rustix::net::Shutdown;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

struct One<'a> {
    number: usize,
    inode: u64,
    socket: &'a Socket,
    record: &'a UnixSocket,
}

/// Makes every Unix socket.
pub(super) fn create(restore: &mut Restore<'_>) -> Result<(), Error> {
    let files = restore.files;
    let all: Vec<One<'_>> = files
        .descriptions
        .iter()
        .enumerate()
        .filter_map(|(number, description)| match &description.kind {
            Kind::Socket(socket) => match &socket.detail {
                Detail::Unix(record) => Some(One { number, inode: description.inode, socket, record }),
                _ => None,
            },
            _ => None,
        })
        .collect();
    if all.is_empty() {
        return Ok(());
    }
    let jail = Jail::new()?;
    let by_inode: HashMap<u64, usize> = all.iter().enumerate().map(|(at, one)| (one.inode, at)).collect();
    let mut made: Vec<Option<OwnedFd>> = all.iter().map(|_| None).collect();
    for at in 0..all.len() {
        if made[at].is_some() {
            continue;
        }
        let one = &all[at];
        let stream = one.socket.sort != libc::SOCK_DGRAM;
        // Datagram sockets that point at each other and have no name are a pair.
        let mutual =
            by_inode.get(&one.record.peer).copied().filter(|&other| all[other].record.peer == one.inode);
        let pair = mutual.filter(|&other| {
            other != at && (stream || (one.record.name.is_none() && all[other].record.name.is_none()))
        });
        if let Some(other) = pair {
            let (a, b) = join(&jail, one.socket.sort, one.record, all[other].record)?;
            (made[at], made[other]) = (Some(a), Some(b));
        } else if born_orphan(one.socket, one.record) {
            let gone = UnixSocket { name: one.record.peer_name.clone(), ..UnixSocket::default() };
            let (a, b) = join(&jail, one.socket.sort, one.record, &gone)?;
            widen(&a, 0)?;
            widen(&b, length(one.record))?;
            fill(&b, &one.record.queue)?;
            drop(b);
            made[at] = Some(a);
        } else {
            let fd = new(one.socket)?;
            bind(&jail, &fd, one.record)?;
            made[at] = Some(fd);
        }
    }
    let made: Vec<OwnedFd> = made.into_iter().flatten().collect();
    for (at, one) in all.iter().enumerate() {
        let fd = &made[at];
        deliver(&jail, one, fd, &by_inode, &all, &made)?;
    }
    for (at, one) in all.iter().enumerate() {
        connect_datagrams(&jail, one, &made[at], &by_inode, &all, &made)?;
    }
    for (one, fd) in all.iter().zip(made) {
        set_options(&fd, one.socket)?;
        set_buffers(&fd, one.socket)?;
        if let Some(backlog) = one.record.backlog {
            rustix::net::listen(&fd, backlog.min(i32::MAX as u32) as i32)
                .map_err(Error::kernel("listen on a Unix socket"))?;
        }
        let how = match one.record.shutdown {
            1 => Some(Shutdown::Read),
            2 => Some(Shutdown::Write),
            3 => Some(Shutdown::Both),
            _ => None,
        };
        if let Some(how) = how {
            let _ = rustix::net::shutdown(&fd, how);
        }
        restore.put(one.number, fd);
    }
    Ok(())
}

/// A socket whose peer is gone and that is made together with one, which is closed then.
fn born_orphan(socket: &Socket, record: &UnixSocket) -> bool {
    let nameless = record.name.is_none() && record.peer_name.is_none();
    record.orphan && (socket.sort != libc::SOCK_DGRAM || nameless)
}

fn length(record: &UnixSocket) -> usize {
    record.queue.iter().map(|message| message.bytes.len() + 1024).sum()
}

fn fill(writer: &OwnedFd, queue: &[Message]) -> Result<(), Error> {
    for message in queue {
        send_all(writer, message, None)?;
    }
    Ok(())
}

fn send_all(writer: &OwnedFd, message: &Message, to: Option<&[u8]>) -> Result<(), Error> {
    let mut rest = &message.bytes[..];
    loop {
        let done = sockaddr::send(writer, rest, to).map_err(Error::kernel("fill a Unix socket's queue"))?;
        rest = &rest[done..];
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// `sockaddr_un` for a name as the records have it.
fn address(name: &[u8]) -> Vec<u8> {
    let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    bytes.extend(name);
    if name.first() != Some(&0) {
        bytes.push(0);
    }
    bytes
}

/// Two connected sockets with the names that they had.
fn join(jail: &Jail, sort: i32, one: &UnixSocket, other: &UnixSocket) -> Result<(OwnedFd, OwnedFd), Error> {
    let what = "connect two Unix sockets again";
    if one.name.is_none() && other.name.is_none() {
        return sockaddr::pair(sort).map_err(Error::kernel(what));
    }
    // The side with a name was accepted by a listener of that name; if both have one, the other side bound its own.
    let turned = other.name.is_some();
    let (accepted, calling) = if turned { (other, one) } else { (one, other) };
    let caller = sockaddr::socket(libc::AF_UNIX, sort, 0).map_err(Error::kernel(what))?;
    bind(jail, &caller, calling)?;
    let name = accepted.name.clone().unwrap_or_default();
    let accepted = jail.with(&name, || {
        let listener = sockaddr::socket(libc::AF_UNIX, sort, 0)?;
        vacate(&name);
        sockaddr::bind(&listener, &address(&name))?;
        rustix::net::listen(&listener, 1)?;
        sockaddr::connect(&caller, &address(&name))?;
        Ok(rustix::net::accept_with(&listener, rustix::net::SocketFlags::CLOEXEC)?)
    });
    let accepted = accepted.map_err(Error::kernel(format!("{what} ({})", show(&name))))?;
    Ok(if turned { (caller, accepted) } else { (accepted, caller) })
}

fn show(name: &[u8]) -> String {
    String::from_utf8_lossy(name).replace('\0', "@")
}

/// Gives a socket its name: at its place, if it was reachable there, else in the jail.
fn bind(jail: &Jail, fd: &OwnedFd, record: &UnixSocket) -> Result<(), Error> {
    let Some(name) = &record.name else { return Ok(()) };
    let what = || format!("bind a Unix socket to {}", show(name));
    if name.first() == Some(&0) {
        return sockaddr::bind(fd, &address(name)).map_err(Error::kernel(what()));
    }
    if !record.reachable {
        let bound = jail.with(name, || {
            vacate(name);
            sockaddr::bind(fd, &address(name))
        });
        return bound.map_err(Error::kernel(what()));
    }
    let directory = record.directory.as_deref().unwrap_or(b"/");
    let path = Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name));
    // The node came with the file system, without the socket behind it.
    if rustix::fs::lstat(&path)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket())
    {
        rustix::fs::unlink(&path).map_err(Error::kernel(what()))?;
    }
    // The working directory is this thread's own.
    rustix::process::chdir(OsStr::from_bytes(directory)).map_err(Error::kernel(what()))?;
    let done = sockaddr::bind(fd, &address(name));
    rustix::process::chdir("/").map_err(Error::kernel(what()))?;
    done.map_err(Error::kernel(what()))?;
    let [mode, uid, gid] = record.node;
    rustix::fs::chown(&path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(Error::kernel(what()))?;
    rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).map_err(Error::kernel(what()))
}

/// Removes what an earlier socket of that name left in the jail.
fn vacate(name: &[u8]) {
    if name.first() != Some(&0) {
        let _ = rustix::fs::unlink(OsStr::from_bytes(name));
    }
}

/// Puts what waited into a socket's queue.
fn deliver(
    jail: &Jail,
    one: &One<'_>,
    fd: &OwnedFd,
    by_inode: &HashMap<u64, usize>,
    all: &[One<'_>],
    made: &[OwnedFd],
) -> Result<(), Error> {
    let queue = &one.record.queue;
    if queue.is_empty() || born_orphan(one.socket, one.record) {
        return Ok(());
    }
    let peer = by_inode.get(&one.record.peer).copied();
    let joined = peer.filter(|&other| {
        let other = &all[other];
        other.record.peer == one.inode
            && (one.socket.sort != libc::SOCK_DGRAM
                || (one.record.name.is_none() && other.record.name.is_none()))
    });
    if let Some(other) = joined {
        widen(&made[other], length(one.record))?;
        return fill(&made[other], queue);
    }
    let Some(name) = &one.record.name else {
        // It has no name and nobody is connected to it: its sender is gone, and so is the way to it.
        return Err(Error::broken("Datagrams wait in a Unix socket to which no way leads"));
    };
    for message in queue {
        let temporary;
        let known = by_inode.get(&message.sender).copied().filter(|_| message.sender != 0);
        let sender = if let Some(other) = known {
            &made[other]
        } else {
            let socket = sockaddr::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)
                .map_err(Error::kernel("make a sender of datagrams"))?;
            if let Some(from) =
                message.from.as_deref().and_then(|from| from.get(2..)).filter(|from| !from.is_empty())
            {
                let from = from.strip_suffix(&[0]).filter(|_| from[0] != 0).unwrap_or(from);
                let gone = UnixSocket { name: Some(from.to_vec()), ..UnixSocket::default() };
                bind(jail, &socket, &gone)?;
            }
            temporary = socket;
            &temporary
        };
        widen(sender, length(one.record))?;
        at(jail, one.record, name, || send_all(sender, message, Some(&address(name))))?;
    }
    let _ = fd;
    Ok(())
}

/// Runs `work` where `name` leads to the socket of `record`.
fn at<T: Send>(
    jail: &Jail,
    record: &UnixSocket,
    name: &[u8],
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let reach = || format!("reach the Unix socket {}", show(name));
    if name.first() == Some(&0) {
        return work();
    }
    if !record.reachable {
        let mut done = None;
        let place = jail.with(name, || {
            done = Some(work());
            Ok(())
        });
        place.map_err(Error::kernel(reach()))?;
        return done.unwrap_or_else(|| Err(Error::broken(reach())));
    }
    let directory = record.directory.as_deref().unwrap_or(b"/");
    rustix::process::chdir(OsStr::from_bytes(directory)).map_err(Error::kernel(reach()))?;
    let done = work();
    rustix::process::chdir("/").map_err(Error::kernel(reach()))?;
    done
}

/// Connects datagram sockets to theirs: last, as a connected one takes datagrams from its peer only.
fn connect_datagrams(
    jail: &Jail,
    one: &One<'_>,
    fd: &OwnedFd,
    by_inode: &HashMap<u64, usize>,
    all: &[One<'_>],
    made: &[OwnedFd],
) -> Result<(), Error> {
    if one.socket.sort != libc::SOCK_DGRAM || born_orphan(one.socket, one.record) {
        return Ok(());
    }
    let what = "connect a Unix datagram socket";
    if one.record.orphan {
        // To somebody who is gone: a pair of which the other half is closed cannot be had for a socket that exists.
        let name = one.record.peer_name.clone().unwrap_or_else(|| b"\0ferry-gone".to_vec());
        let gone = UnixSocket { name: Some(name.clone()), ..UnixSocket::default() };
        return jail
            .with(&name, || {
                let other = sockaddr::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
                sockaddr::bind(&other, &address(gone.name.as_deref().unwrap_or_default()))?;
                sockaddr::connect(fd, &address(&name))
            })
            .map_err(Error::kernel(what));
    }
    let Some(&other) = by_inode.get(&one.record.peer).filter(|_| one.record.peer != 0) else { return Ok(()) };
    let target = &all[other];
    let Some(name) = &target.record.name else {
        let mutual = target.record.peer == one.inode && one.record.name.is_none();
        // A pair is connected from its birth.
        return if mutual {
            Ok(())
        } else {
            Err(Error::broken("A datagram socket is connected to one without a name"))
        };
    };
    let _ = made;
    at(jail, target.record, name, || sockaddr::connect(fd, &address(name)).map_err(Error::kernel(what)))
}

/// An empty directory that is some thread's root for a moment.
struct Jail {
    root: PathBuf,
}

impl Jail {
    fn new() -> Result<Self, Error> {
        for directory in ["/dev/shm", "/tmp", "/run", "/var/tmp"] {
            for number in 0..1000 {
                let root = Path::new(directory).join(format!(".ferry-jail-{}-{number}", std::process::id()));
                match std::fs::create_dir(&root) {
                    Ok(()) => return Ok(Self { root }),
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    Err(_) => break,
                }
            }
        }
        Err(Error::broken("No directory can be made in /dev/shm, /tmp, /run or /var/tmp"))
    }

    /// Runs `work` where a socket can be bound to `name`, whatever stands there in the workload's tree. Abstract names have no
    /// tree: they are bound where the caller is.
    fn with<T: Send>(
        &self,
        name: &[u8],
        work: impl FnOnce() -> std::io::Result<T> + Send,
    ) -> std::io::Result<T> {
        if name.first().is_none_or(|&first| first == 0) {
            return work();
        }
        let inside = Path::new(OsStr::from_bytes(name));
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        if let Some(parent) = relative.parent() {
            std::fs::create_dir_all(self.root.join(parent))?;
        }
        within(Place::default(), || {
            chroot_here(&self.root)?;
            work()
        })
        .and_then(|done| done)
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}
