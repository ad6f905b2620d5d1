//! The line between the shim and a capsule's init: a Unix socket of messages.
//!
//! The shim asks for a program to be started: one byte, with descriptors (the description as CBOR in a memory file, a
//! pipe for errors, the cgroup to be born in, then up to three for standard input, output and error). Init tells what
//! became of it, and the end of each of its children. The shim may also give init one descriptor to hold, and ask for it
//! again. Every connection begins with all ends that init knows, so that a
//! shim that was replaced misses none.

use super::error::{Doing, Error, Result};
use super::spec::Command;
use ferry_sys::scm;
use minicbor::{Decode, Encode};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Request: start a program.
pub(super) const START: u8 = 1;
/// Request: hold the descriptor that comes along.
pub(super) const KEEP: u8 = 2;
/// Request: give a copy of the descriptor that is held.
pub(super) const GIVE: u8 = 3;
/// Request: hold these descriptors too, each with a number (4 bytes each behind the request); of one number the last.
pub(super) const HOLD: u8 = 4;
/// Request: give copies of those that are held so; as many answers as it takes, the last one without descriptors.
pub(super) const HELD: u8 = 5;
/// Request: hold none of them any more.
pub(super) const LET_GO: u8 = 6;
/// Descriptors in one such message.
pub(super) const AT_ONCE: usize = 200;
/// Request: say which process id was given last.
pub(super) const LAST: u8 = 7;
/// Largest description of a program: twice the kernel's own default limit for arguments and environment.
pub(super) const DESCRIPTION_BYTES_MAX: u64 = 4 << 20;
const SOCKET: &str = "init.sock";

/// What init says: three numbers of four bytes, with a pidfd for a started program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A program was started; its process id inside.
    Started(i32),
    /// None was: the kernel's error number.
    NotStarted(i32),
    /// A child has ended: process id inside, and raw wait status.
    Ended(i32, i32),
    /// What is held, with its descriptor if it was asked for and there is one.
    Kept,
    /// The process id that was given last, inside.
    Last(i32),
}

impl Event {
    pub(super) const BYTES: usize = 12;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let fields = match self {
            Self::Started(pid) => [1, pid, 0],
            Self::NotStarted(errno) => [2, errno, 0],
            Self::Ended(pid, status) => [3, pid, status],
            Self::Kept => [4, 0, 0],
            Self::Last(pid) => [5, pid, 0],
        };
        let mut bytes = [0; Self::BYTES];
        for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&i32::to_le_bytes(field));
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let field = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        match field(0) {
            1 => Some(Self::Started(field(4))),
            2 => Some(Self::NotStarted(field(4))),
            3 => Some(Self::Ended(field(4), field(8))),
            4 => Some(Self::Kept),
            5 => Some(Self::Last(field(4))),
            _ => None,
        }
    }
}

/// A [`Command`] as it travels to init.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Description {
    #[n(0)]
    pub(super) argv: Vec<minicbor::bytes::ByteVec>,
    #[n(1)]
    pub(super) env: Vec<(minicbor::bytes::ByteVec, minicbor::bytes::ByteVec)>,
    #[n(2)]
    pub(super) cwd: Option<minicbor::bytes::ByteVec>,
    #[n(3)]
    pub(super) user: Option<(u32, u32, Vec<u32>)>,
    #[n(4)]
    pub(super) controlling_tty: bool,
    #[n(5)]
    pub(super) rlimits: Vec<(u32, u64, u64)>,
}

impl From<&Command> for Description {
    fn from(command: &Command) -> Self {
        let bytes = |text: &std::ffi::OsStr| minicbor::bytes::ByteVec::from(text.as_bytes().to_vec());
        Self {
            argv: command.argv.iter().map(|each| bytes(each)).collect(),
            env: command.env.iter().map(|(key, value)| (bytes(key), bytes(value))).collect(),
            cwd: command.cwd.as_ref().map(|cwd| bytes(cwd.as_os_str())),
            user: command.user.as_ref().map(|user| (user.uid, user.gid, user.groups.clone())),
            controlling_tty: command.controlling_tty,
            rlimits: command.rlimits.clone(),
        }
    }
}

impl Description {
    /// Puts it into a memory file.
    pub(super) fn to_file(&self) -> Result<OwnedFd> {
        let bytes = minicbor::to_vec(self).map_err(|error| Error::Invalid(error.to_string()))?;
        if bytes.len() as u64 > DESCRIPTION_BYTES_MAX {
            return Err(Error::Invalid("The arguments and the environment are longer than 4 MiB".into()));
        }
        let memory = rustix::fs::memfd_create("ferry-command", MemfdFlags::CLOEXEC)
            .doing(|| "make a memory file".into())?;
        let mut file = File::from(memory);
        file.write_all(&bytes).doing(|| "write to a memory file".into())?;
        Ok(file.into())
    }

    /// Reads it back, from the file's beginning.
    pub(super) fn from_file(file: OwnedFd) -> io::Result<Self> {
        use std::io::Seek;
        let mut file = File::from(file);
        file.rewind()?;
        let mut bytes = Vec::new();
        file.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut bytes)?;
        minicbor::decode(&bytes).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// The address of the socket in `directory`: by way of /proc/self/fd, for paths longer than 108 bytes.
fn address(directory: BorrowedFd<'_>) -> io::Result<SocketAddrUnix> {
    use rustix::fd::AsRawFd;
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))?)
}

fn open_directory(directory: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Makes the socket that init listens on, in the workload's directory.
pub(super) fn listening(directory: &Path) -> Result<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        let directory = open_directory(directory)?;
        let _ = rustix::fs::unlinkat(&directory, SOCKET, rustix::fs::AtFlags::empty());
        let socket = new_socket()?;
        bind(&socket, &address(directory.as_fd())?)?;
        rustix::fs::chmodat(&directory, SOCKET, Mode::RUSR | Mode::WUSR, rustix::fs::AtFlags::empty())?;
        listen(&socket, 4)?;
        Ok(socket)
    };
    make().doing(|| format!("make the socket of the capsule's init in {}", directory.display()))
}

/// Connects to init.
pub(super) fn connected(directory: &Path) -> Result<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        let directory = open_directory(directory)?;
        let socket = new_socket()?;
        connect(&socket, &address(directory.as_fd())?)?;
        Ok(socket)
    };
    make().doing(|| format!("reach the capsule's init by the socket in {}", directory.display()))
}

/// Receives one event; `None` when none is there and `wait` is false.
pub(super) fn receive(line: BorrowedFd<'_>, wait: bool) -> io::Result<Option<(Event, Option<OwnedFd>)>> {
    let mut buffer = [0; Event::BYTES + 1];
    let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    match scm::receive(line, &mut buffer, flags) {
        Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok((length, mut descriptors)) => {
            let event = Event::from_bytes(&buffer[..length]).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Some((event, descriptors.pop())))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_descriptions_read_back() {
        for event in [Event::Started(2), Event::NotStarted(2), Event::Ended(2, 256), Event::Kept] {
            assert_eq!(Event::from_bytes(&event.to_bytes()), Some(event));
        }
        assert_eq!(Event::from_bytes(&[9; 12]), None);
        assert_eq!(Event::from_bytes(&[1; 11]), None);
        let command = Command {
            argv: vec!["sh".into(), "-c".into()],
            env: vec![("A".into(), "b".into())],
            cwd: Some("/tmp".into()),
            ..Command::default()
        };
        let description = Description::from(&command);
        let file = description.to_file().unwrap();
        assert_eq!(Description::from_file(file).unwrap(), description);
    }
}
