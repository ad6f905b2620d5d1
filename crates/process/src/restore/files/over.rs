//! TCP connections that are over while a descriptor still holds them: both sides have closed, or one was reset, or a call was
//! refused. Nothing of them is left but what a program can still see: bytes that it has not read, the end after them, and an
//! error that is told once.
//!
//! Such a socket is made by playing its end: a connection in repair mode with the socket's own address at both ends, the
//! unread bytes, a FIN, a reset. No packet leaves the network namespace.

use super::inject::{self, FIN, RST, Segment};
use super::socket::widen;
use super::{Error, tcp};
use crate::capture::files::tcp_state as state;
use ferry_sys::sockaddr;
use ferry_sys::sockopt;
use ferry_sys::tcp_repair::{self, Queue};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::net::Shutdown;
use std::io;

/// Any number does: nobody is left who knows the right one.
const SEQUENCE: u32 = 1 << 20;
/// Ports of the peer that are tried.
const PORTS: std::ops::Range<u16> = 1..1000;

/// What is left of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Over<'a> {
    /// Its own address (`sockaddr`), if it still shows one.
    pub(crate) local: Option<&'a [u8]>,
    /// Received and not read.
    pub(crate) unread: &'a [u8],
    /// `errno` that the program is still to be told; 0: none.
    pub(crate) error: i32,
}

impl Over<'_> {
    /// Makes the new TCP socket `fd` of family `domain` such a one. Errors that only a network can give become the nearest that
    /// can be played: a refused call, or a reset.
    pub(crate) fn play(&self, fd: &OwnedFd, domain: i32) -> Result<(), Error> {
        let Some(own) = self.local.map(<[u8]>::to_vec).or_else(|| loopback(domain)) else {
            return Err(Error::broken("A TCP socket of an unknown family"));
        };
        let what = || format!("play the end of a connection of {}", tcp::show(&own));
        // It was never connected: `shutdown` marks it, though it complains.
        if self.unread.is_empty() && self.error == 0 && is_any(&own) {
            let _ = rustix::net::shutdown(fd, Shutdown::Both);
            return Ok(());
        }
        if !matches!(self.error, 0 | libc::ECONNRESET | libc::EPIPE) && self.unread.is_empty() {
            return self.refuse(fd, &own).map_err(Error::kernel(what()));
        }
        match self.connect(fd, &own) {
            Ok(peer) => self.end(fd, &peer).map_err(Error::kernel(what())),
            // Its address is gone. With nothing left to see, `shutdown` does: it marks the socket, though it complains.
            Err(_) if self.unread.is_empty() && self.error == 0 => {
                let _ = tcp_repair::end_silently(fd);
                let _ = rustix::net::shutdown(fd, Shutdown::Both);
                Ok(())
            }
            Err(error) => Err(Error::kernel(what())(error)),
        }
    }

    /// Calls a port of its own host at which nobody ever listens.
    fn refuse(&self, fd: &OwnedFd, own: &[u8]) -> io::Result<()> {
        if self.local.is_some() {
            bind(fd, own)?;
        }
        let flags = rustix::fs::fcntl_getfl(fd)?;
        rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        let called = sockaddr::connect(fd, &with_port(own, 0));
        rustix::fs::fcntl_setfl(fd, flags)?;
        match called {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            // Told at once: then it is not told again.
            done => return done,
        }
        inject::wait_for(|| {
            let mut seen = [PollFd::new(fd, PollFlags::empty())];
            rustix::event::poll(&mut seen, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            Ok(seen[0].revents().contains(PollFlags::ERR))
        })
    }

    /// A connection in repair mode, with all bytes in its receive queue. Gives the address of the peer that it never had.
    fn connect(&self, fd: &OwnedFd, own: &[u8]) -> io::Result<Vec<u8>> {
        tcp_repair::begin(fd)?;
        tcp_repair::choose(fd, Queue::Receive)?;
        tcp_repair::set_sequence(fd, SEQUENCE)?;
        tcp_repair::choose(fd, Queue::Send)?;
        tcp_repair::set_sequence(fd, SEQUENCE)?;
        tcp_repair::choose(fd, Queue::None)?;
        bind(fd, own)?;
        let taken =
            |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE));
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for port in PORTS.filter(|port| own.get(2..4) != Some(&port.to_be_bytes())) {
            let peer = with_port(own, port);
            match sockaddr::connect(fd, &peer) {
                Ok(()) => return Ok(peer),
                Err(error) if taken(&error) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn end(&self, fd: &OwnedFd, peer: &[u8]) -> io::Result<()> {
        widen(fd, self.unread.len()).map_err(io::Error::other)?;
        tcp_repair::choose(fd, Queue::Receive)?;
        tcp::fill(fd, self.unread)?;
        tcp_repair::choose(fd, Queue::None)?;
        let mut sequence = SEQUENCE.wrapping_add(self.unread.len() as u32);
        // Room for what is played.
        tcp_repair::set_window(fd, &[sequence.wrapping_sub(1), 1 << 15, 1 << 15, 1 << 15, sequence])?;
        let own = &sockaddr::local(fd)?;
        let played = |sequence, flags| Segment {
            from: peer,
            to: own,
            sequence,
            acknowledged: SEQUENCE,
            flags,
            window: 1 << 15,
            stamps: None,
        };
        // The acknowledgement of the FIN may reach the peer that is none: then this host's own reset is played too.
        let play = |sequence, flags, states: &[u8]| {
            let played = played(sequence, flags);
            inject::segment_until(&played, || Ok(states.contains(&tcp_repair::info(fd)?.state)))
        };
        if self.error != libc::ECONNRESET {
            play(sequence, FIN, &[state::CLOSE_WAIT, state::CLOSE])?;
            sequence = sequence.wrapping_add(1);
        }
        play(sequence, RST, &[state::CLOSE])?;
        tcp_repair::end_silently(fd)?;
        if self.error == 0 {
            // Reading the error takes it away.
            sockopt::get_int(fd, libc::SOL_SOCKET, libc::SO_ERROR)?;
        }
        Ok(())
    }
}

/// Binds it, unless it is bound.
fn bind(fd: &OwnedFd, own: &[u8]) -> io::Result<()> {
    match sockaddr::bind(fd, own) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        done => done,
    }
}

fn with_port(address: &[u8], port: u16) -> Vec<u8> {
    let mut address = address.to_vec();
    if let Some(place) = address.get_mut(2..4) {
        place.copy_from_slice(&port.to_be_bytes());
    }
    address
}

/// Whether it is bound to no address in particular.
fn is_any(address: &[u8]) -> bool {
    match address.first_chunk::<2>().map(|family| i32::from(u16::from_ne_bytes(*family))) {
        Some(libc::AF_INET6) => address.get(8..24).is_some_and(|ip| ip == [0; 16]),
        _ => address.get(4..8).is_some_and(|ip| ip == [0; 4]),
    }
}

/// An address that every network namespace has, without a port.
fn loopback(domain: i32) -> Option<Vec<u8>> {
    let mut address = (domain as u16).to_ne_bytes().to_vec();
    match domain {
        libc::AF_INET => address.extend([0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        libc::AF_INET6 => {
            address.extend([0; 6 + 15]);
            address.extend([1, 0, 0, 0, 0]);
        }
        _ => return None,
    }
    Some(address)
}
