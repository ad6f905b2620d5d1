//! Everything that a pager has, passed to another shim when its own has died.
//!
//! Messages with descriptors: first the ledger's files with the number of userfaultfds in all, then these with their numbers in the old
//! table, by which the ledger knows them. The last word has the new shim: one byte, when it has all. Only then does the old pager end.

use super::ledger::{FILES, Ledger};
use ferry_sys::scm;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use std::io;
use std::path::Path;

/// Name of the socket in a workload's state directory.
const SOCKET: &str = "pager.sock";

/// The same while it is made.
const NEW: &str = "pager.sock.new";

/// What a door answers behind which nobody lives, or whose pager ends just now.
const GONE: [io::ErrorKind; 3] =
    [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset];

/// Descriptors in one message.
const AT_ONCE: usize = 200;

/// Most address spaces that a pager can have.
const SPACES_MAX: usize = 1 << 20;

/// The other side has gone.
pub(super) struct Deaf;

impl From<io::Error> for Deaf {
    fn from(_: io::Error) -> Self {
        Self
    }
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A socket's own path is limited to 108 bytes; one through an open directory never is.
fn with_address<T>(
    dir: &Path,
    name: &str,
    work: impl FnOnce(&SocketAddrUnix) -> io::Result<T>,
) -> io::Result<T> {
    let opened = std::fs::File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
    work(&SocketAddrUnix::new(path)?)
}

/// Makes the door at which another shim comes. That of a pager which still serves stays where it is until this one can take its place.
pub(super) fn door(dir: &Path) -> io::Result<OwnedFd> {
    let _ = std::fs::remove_file(dir.join(NEW));
    let door = socket()?;
    let before = rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let bound = with_address(dir, NEW, |address| Ok(bind(&door, address)?));
    rustix::process::umask(before);
    bound?;
    listen(&door, 4)?;
    std::fs::rename(dir.join(NEW), dir.join(SOCKET))?;
    Ok(door)
}

/// Removes the door.
pub(super) fn remove_door(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(SOCKET));
}

/// Gives everything to who is at the door.
pub(super) fn give(door: BorrowedFd<'_>, ledger: &Ledger, residents: &[BorrowedFd<'_>]) -> Result<(), Deaf> {
    let guest = accept_with(door, SocketFlags::CLOEXEC).map_err(io::Error::from)?;
    let peer = rustix::net::sockopt::socket_peercred(guest.as_fd()).map_err(io::Error::from)?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        return Err(Deaf);
    }
    rustix::net::sockopt::set_socket_timeout(
        &guest,
        rustix::net::sockopt::Timeout::Recv,
        Some(std::time::Duration::from_secs(10)),
    )
    .map_err(io::Error::from)?;
    scm::send(&guest, &(residents.len() as u64).to_ne_bytes(), &ledger.files())?;
    for part in residents.chunks(AT_ONCE) {
        let numbers: Vec<u8> = part.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes()).collect();
        scm::send(&guest, &numbers, part)?;
    }
    match scm::receive(&guest, &mut [0; 8], RecvFlags::empty())? {
        (1, _) => Ok(()),
        _ => Err(Deaf),
    }
}

/// What a pager has given.
pub(super) struct Given {
    /// Of its ledger.
    pub(super) files: Vec<OwnedFd>,
    /// Userfaultfds with their numbers there.
    pub(super) residents: Vec<(i32, OwnedFd)>,
    /// To whom it says that it has all.
    pub(super) line: Line,
}

/// The connection to the old pager.
pub(super) struct Line(OwnedFd);

impl Line {
    /// Says that all of it is safe here: the old pager ends.
    pub(super) fn confirm(&self) -> io::Result<()> {
        scm::send(&self.0, &[1], &[])
    }
}

/// Takes over what a pager without a shim has. None: no pager lives. Any other trouble is one: who took a pager for dead that lives would
/// make a second one of the same memory.
pub(super) fn take(dir: &Path) -> io::Result<Option<Given>> {
    let line = socket()?;
    let mut buffer = vec![0; AT_ONCE * 4];
    let first = with_address(dir, SOCKET, |address| Ok(connect(&line, address)?))
        .and_then(|()| scm::receive(&line, &mut buffer, RecvFlags::empty()));
    let (len, files) = match first {
        Err(error) if GONE.contains(&error.kind()) => return Ok(None),
        first => first?,
    };
    if len == 0 {
        return Ok(None);
    }
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "The pager has given something else");
    let count = buffer[..len].try_into().map(u64::from_ne_bytes).map_err(|_| damaged())? as usize;
    if files.len() != FILES || count > SPACES_MAX {
        return Err(damaged());
    }
    let mut residents = Vec::new();
    while residents.len() < count {
        let (len, passed) = scm::receive(&line, &mut buffer, RecvFlags::empty())?;
        if len == 0 {
            return Ok(None);
        }
        if len != passed.len() * 4 {
            return Err(damaged());
        }
        let numbers =
            buffer[..len].chunks_exact(4).map(|number| number.try_into().map_or(-1, i32::from_ne_bytes));
        residents.extend(numbers.zip(passed));
    }
    Ok(Some(Given { files, residents, line: Line(line) }))
}
