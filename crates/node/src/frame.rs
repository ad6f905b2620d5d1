//! Messages between nodes: CBOR with hand-numbered fields, behind a length of four bytes (little endian) that is
//! checked before anything is read.

use ferry_model::error::{Error, Kind, Result};
use minicbor::{Decode, Encode};
use std::io::{Read, Write};

/// Longest message, bytes. Large things (memory, files) never travel in a message.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Sends a message.
pub fn send(to: &mut impl Write, message: &impl Encode<()>) -> Result<()> {
    let bytes = encode(message)?;
    to.write_all(&bytes).and_then(|()| to.flush()).map_err(|cause| broken(&cause))
}

/// Receives a message.
pub fn receive<T: for<'b> Decode<'b, ()>>(from: &mut impl Read) -> Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(|cause| broken(&cause))?;
    let length = check(length)?;
    // Memory follows what arrives, not what was announced.
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes).map_err(|cause| broken(&cause))?;
    if bytes.len() < length {
        return Err(broken(&std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
    }
    decode(&bytes)
}

fn encode(message: &impl Encode<()>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    minicbor::encode(message, &mut bytes).map_err(|cause| Error::new(Kind::Bug, cause.to_string()))?;
    let length = bytes.len() - 4;
    if length > MESSAGE_BYTES_MAX {
        return Err(Error::new(Kind::Unable, format!("A message of {length} bytes is too long for a peer")));
    }
    bytes[..4].copy_from_slice(&u32::try_from(length).unwrap_or(0).to_le_bytes());
    Ok(bytes)
}

fn decode<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<T> {
    minicbor::decode(bytes).map_err(|cause| {
        Error::from_source(Kind::Unable, &cause).context("The peer sent something that is not understood")
    })
}

fn check(length: [u8; 4]) -> Result<usize> {
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(Error::new(Kind::Refused, format!("The peer announced a message of {length} bytes")));
    }
    Ok(length)
}

fn broken(cause: &std::io::Error) -> Error {
    Error::from_source(Kind::Unable, cause).context("The connection to the peer broke")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back_and_long_ones_are_refused_unread() {
        let mut bytes = Vec::new();
        send(&mut bytes, &"hello".to_owned()).unwrap();
        assert_eq!(receive::<String>(&mut bytes.as_slice()).unwrap(), "hello");
        assert!(receive::<String>(&mut &bytes[..6]).is_err());
        let refused = receive::<String>(&mut [0xff, 0xff, 0xff, 0xff].as_slice()).unwrap_err();
        assert_eq!(refused.kind, Kind::Refused);
    }
}
