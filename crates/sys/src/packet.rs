//! Raw frames on one network device.
#![allow(unsafe_code)]

use crate::{socket_filter, sockopt};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with};
use std::io;

const PACKET_VNET_HDR: i32 = 15;

/// Length of what stands in front of a frame that is held (`struct virtio_net_hdr`): which checksum is still to be computed, and how
/// the frame is to be cut. Between devices of one machine both are left to the last one.
pub const PROLOGUE_BYTES: usize = 10;

/// A socket for whole frames, bound to one device. It stays in the network namespace in which it was opened.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens one on the device `name`, for sending and receiving all kinds of frames.
    ///
    /// # Errors
    /// ENODEV, or EPERM without CAP_NET_RAW.
    pub fn open(name: &str) -> io::Result<Self> {
        let socket = Self::unbound()?;
        socket.bind(index(name)?, libc::ETH_P_ALL as u16)?;
        Ok(socket)
    }

    /// Opens one on the device `name` that only sends, frames with [`PROLOGUE_BYTES`] in front.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_send(name: &str) -> io::Result<Self> {
        let socket = Self::unbound()?;
        sockopt::set_int(&socket.0, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        socket.bind(index(name)?, 0)?;
        Ok(socket)
    }

    /// Opens one on the device `name` that receives nothing until [`Self::receive_for`] says what, and then also what is meant for others
    /// (a bridge: all that passes it). Up to about `bytes_max` wait in it to be received, each frame with [`PROLOGUE_BYTES`] in front.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_hold(name: &str, bytes_max: usize) -> io::Result<Self> {
        let socket = Self::unbound()?;
        sockopt::set_int(&socket.0, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        let size = i32::try_from(bytes_max).unwrap_or(i32::MAX);
        sockopt::set_int(&socket.0, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size)?;
        socket.receive_nothing()?;
        let index = index(name)?;
        socket.bind(index, libc::ETH_P_ALL as u16)?;
        // struct packet_mreq: device, PACKET_MR_PROMISC, no address.
        let mut all = index.to_ne_bytes().to_vec();
        all.extend((libc::PACKET_MR_PROMISC as u16).to_ne_bytes());
        all.extend([0; 10]);
        sockopt::set(&socket.0, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &all)?;
        Ok(socket)
    }

    /// From now on it receives what is sent to the MAC address `mac`, and what asks everybody for an address (ARP, neighbour
    /// solicitation).
    ///
    /// # Errors
    /// ENOMEM.
    pub fn receive_for(&self, mac: [u8; 6]) -> io::Result<()> {
        socket_filter::frames_for(&self.0, mac)
    }

    /// From now on it receives nothing; what is in it stays.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn receive_nothing(&self) -> io::Result<()> {
        socket_filter::drop_all(&self.0)
    }

    /// One that is bound to no device: no frame gets into it.
    fn unbound() -> io::Result<Self> {
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self(socket))
    }

    fn bind(&self, index: u32, protocol: u16) -> io::Result<()> {
        // SAFETY: sockaddr_ll is plain data, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = index.cast_signed();
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: `address` outlives the call.
        let result = unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends one frame, with its Ethernet header.
    ///
    /// # Errors
    /// ENETDOWN, ENOBUFS.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.0, frame, SendFlags::empty())?;
        Ok(())
    }

    /// Receives one frame, if one is there: its length.
    ///
    /// # Errors
    /// WouldBlock when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.0, buffer, RecvFlags::DONTWAIT)?.0)
    }
}

/// Number of the device `name` in the caller's network namespace.
fn index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `name` is a string with its closing zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index) }
}
