//! A message on a shim's socket: its length (`u32`, little-endian), then one CBOR value.

use super::MESSAGE_BYTES_MAX;
use minicbor::{Decode, Encode};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

/// Writes one message with its length in front.
pub fn send<T: Encode<()>>(to: &mut impl Write, message: &T) -> io::Result<()> {
    to.write_all(&framed(message)?)
}

/// As [`send`], with descriptors that arrive before the message is whole.
pub fn send_with<T: Encode<()>>(
    to: &mut UnixStream,
    message: &T,
    passed: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = framed(message)?;
    let (head, rest) = bytes.split_at(4);
    ferry_sys::scm::send(&*to, head, passed)?;
    to.write_all(rest)
}

fn framed<T: Encode<()>>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    minicbor::encode(message, &mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    let len = bytes.len() - 4;
    if len > MESSAGE_BYTES_MAX {
        return Err(too_long(len));
    }
    bytes[..4].copy_from_slice(&u32::try_from(len).map_err(|_| too_long(len))?.to_le_bytes());
    Ok(bytes)
}

/// Reads one message. `UnexpectedEof` when the other side is gone.
pub fn receive<T: for<'b> Decode<'b, ()>>(from: &mut impl Read) -> io::Result<T> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = length(len)?;
    let mut bytes = Vec::new();
    from.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    decode(&bytes)
}

/// The length that stands in front of a message, checked.
pub fn length(bytes: [u8; 4]) -> io::Result<usize> {
    let len = u32::from_le_bytes(bytes) as usize;
    if len > MESSAGE_BYTES_MAX { Err(too_long(len)) } else { Ok(len) }
}

/// Decodes the body of a message.
pub fn decode<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> io::Result<T> {
    minicbor::decode(bytes)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("Not a message of a shim: {e}")))
}

fn too_long(len: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("A message of {len} bytes is longer than allowed"))
}
