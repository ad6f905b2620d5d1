//! The workload's terminal: a pseudo-terminal of the capsule's own devpts, so that its programs find it by its name there. The
//! shim reads and writes the master; the capsule's init holds a copy of it, so that it outlives the shim.

use super::spec::Size;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;

/// A terminal's master side.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    /// Typed and not yet taken by the terminal, bytes.
    typed: Vec<u8>,
}

/// Most bytes that wait to be typed.
const TYPED_BYTES_MAX: usize = 1 << 20;

impl Terminal {
    /// Makes one in the capsule whose root is `root`; also returns its slave side.
    pub(super) fn open(root: BorrowedFd<'_>, size: Size) -> io::Result<(Self, OwnedFd)> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = openat2(root, "dev/pts/ptmx", flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        unlockpt(&master)?;
        // Not opened with O_CLOEXEC: this ioctl leaves it among the description's own flags for ever (Linux 6.18), so that fdinfo
        // shows it for every copy, and what the workload inherits would be closed by its first exec after a move.
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::io::fcntl_setfd(&slave, rustix::io::FdFlags::CLOEXEC)?;
        let terminal = Self::from_master(master)?;
        terminal.resize(size)?;
        Ok((terminal, slave))
    }

    /// Takes over a master that somebody else made.
    pub(super) fn from_master(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self { master, typed: Vec::new() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// The master side.
    pub(super) fn master(&self) -> &OwnedFd {
        &self.master
    }

    /// What was typed and the terminal has not taken yet: its buffer is small.
    pub(super) fn typed(&self) -> &[u8] {
        &self.typed
    }

    /// Whether something waits to be typed.
    pub(super) fn wants_to_type(&self) -> bool {
        !self.typed.is_empty()
    }

    /// What the terminal shows; `None`: no program has it open just now.
    pub(super) fn read(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 32 << 10];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(count) => {
                buffer.truncate(count);
                Some(buffer)
            }
            Err(Errno::AGAIN | Errno::INTR) => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// Types `bytes`, as far as the terminal takes them; the rest waits.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.typed.len() + bytes.len() <= TYPED_BYTES_MAX {
            self.typed.extend_from_slice(bytes);
        }
        while !self.typed.is_empty() {
            match rustix::io::write(&self.master, &self.typed) {
                Ok(count) => {
                    self.typed.drain(..count);
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// N of its `/dev/pts/N`.
    pub(super) fn number(&self) -> Option<u32> {
        let name = rustix::pty::ptsname(&self.master, Vec::new()).ok()?;
        name.to_str().ok()?.strip_prefix("/dev/pts/")?.parse().ok()
    }

    pub(super) fn resize(&self, size: Size) -> io::Result<()> {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        match tcsetwinsize(&self.master, size) {
            Err(Errno::INTR) => Ok(tcsetwinsize(&self.master, size)?),
            other => Ok(other?),
        }
    }
}
