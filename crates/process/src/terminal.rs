//! What waits in a pseudo-terminal, taken out and put in.
//!
//! The line discipline has no way to look at its buffers, so bytes are taken by reading and put back by writing from the
//! other side, with every translation, echo and signal switched off meanwhile. Used by the capture (take and put back at once)
//! and by the restore. Only while no task of the workload runs.

use ferry_sys::ioctl::{self, Int, TERMINAL_SETTINGS_LEN};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::time::Timespec;
use std::io;
use std::time::{Duration, Instant};

/// What waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// For the reader of the slave. In canonical mode whole lines come first.
    pub(crate) input: Vec<u8>,
    /// For the reader of the master.
    pub(crate) output: Vec<u8>,
}

/// Bytes that are taken from one side at most: the kernel's own buffers are smaller.
const SIDE_MAX: usize = 1 << 20;

const ICANON: u32 = libc::ICANON;

/// A terminal under our hands: settings and packet mode are put back at the end.
pub(crate) struct Quiet<'a> {
    master: &'a OwnedFd,
    slave: &'a OwnedFd,
    settings: [u8; TERMINAL_SETTINGS_LEN],
    packet_mode: i32,
}

impl<'a> Quiet<'a> {
    /// Takes hold of it.
    pub(crate) fn new(master: &'a OwnedFd, slave: &'a OwnedFd) -> io::Result<Self> {
        let settings = ioctl::terminal_settings(slave)?;
        let packet_mode = ioctl::get(master, Int::PacketMode)?;
        if packet_mode != 0 {
            ioctl::set(master, Int::SetPacketMode, 0)?;
        }
        Ok(Self { master, slave, settings, packet_mode })
    }

    /// Takes all that waits.
    pub(crate) fn take(&self) -> io::Result<Waiting> {
        let mut waiting = Waiting { output: drain(self.master)?, input: Vec::new() };
        // Lines first, each as its reader would have got it; then the line that is still being typed.
        if self.flag(3) & ICANON != 0 {
            waiting.input = drain(self.slave)?;
        }
        let mut raw = self.settings;
        set_flag(&mut raw, 3, self.flag(3) & !ICANON);
        // VTIME and VMIN: reads return at once.
        raw[17 + libc::VTIME] = 0;
        raw[17 + libc::VMIN] = 0;
        ioctl::set_terminal_settings(self.slave, &raw)?;
        let rest = drain(self.slave);
        ioctl::set_terminal_settings(self.slave, &self.settings)?;
        waiting.input.extend(rest?);
        Ok(waiting)
    }

    /// Puts `waiting` where [`Quiet::take`] found it.
    pub(crate) fn fill(&self, waiting: &Waiting) -> io::Result<()> {
        if waiting.input.is_empty() && waiting.output.is_empty() {
            return Ok(());
        }
        let mut quiet = self.settings;
        set_flag(&mut quiet, 0, 0);
        set_flag(&mut quiet, 1, 0);
        set_flag(&mut quiet, 3, self.flag(3) & ICANON);
        // Every special character off; VMIN 1.
        quiet[17..17 + 19].fill(0);
        quiet[17 + libc::VMIN] = 1;
        ioctl::set_terminal_settings(self.slave, &quiet)?;
        let done = self.write_both(waiting);
        ioctl::set_terminal_settings(self.slave, &self.settings)?;
        done
    }

    fn write_both(&self, waiting: &Waiting) -> io::Result<()> {
        write_all(self.slave, &waiting.output)?;
        let lines = if self.flag(3) & ICANON == 0 {
            waiting.input.len()
        } else {
            waiting.input.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1)
        };
        write_all(self.master, &waiting.input[..lines])?;
        // The kernel moves it on from a work queue.
        let start = Instant::now();
        while (ioctl::get(self.slave, Int::Readable)? as usize) < lines {
            if start.elapsed() > Duration::from_millis(500) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        if lines < waiting.input.len() {
            write_all(self.master, &waiting.input[lines..])?;
            // An unfinished line shows nowhere; it is on its way for microseconds.
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn flag(&self, number: usize) -> u32 {
        let at = number * 4;
        u32::from_ne_bytes([
            self.settings[at],
            self.settings[at + 1],
            self.settings[at + 2],
            self.settings[at + 3],
        ])
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = ioctl::set_terminal_settings(self.slave, &self.settings);
        if self.packet_mode != 0 {
            let _ = ioctl::set(self.master, Int::SetPacketMode, self.packet_mode);
        }
    }
}

/// Flag words: 0 input, 1 output, 2 control, 3 local.
fn set_flag(settings: &mut [u8; TERMINAL_SETTINGS_LEN], number: usize, value: u32) {
    settings[number * 4..number * 4 + 4].copy_from_slice(&value.to_ne_bytes());
}

fn ready(fd: &OwnedFd, what: PollFlags) -> io::Result<bool> {
    let mut state = [PollFd::new(fd, what)];
    poll(&mut state, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(state[0].revents().contains(what))
}

/// Reads until nothing is there.
fn drain(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while bytes.len() < SIDE_MAX && ready(fd, PollFlags::IN)? {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => break,
            Ok(len) => bytes.extend(&buffer[..len]),
            Err(rustix::io::Errno::INTR) => {}
            // The other side is closed, or nothing is there after all.
            Err(rustix::io::Errno::IO | rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    let start = Instant::now();
    while !bytes.is_empty() {
        if ready(fd, PollFlags::OUT)? {
            // Small pieces: a write that does not fit would wait in a descriptor that is not non-blocking.
            let piece = &bytes[..bytes.len().min(256)];
            match rustix::io::write(fd, piece) {
                Ok(len) => bytes = &bytes[len..],
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        } else if start.elapsed() > Duration::from_millis(500) {
            return Err(io::ErrorKind::TimedOut.into());
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    Ok(())
}
