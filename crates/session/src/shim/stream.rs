//! The frames of an attached connection: what a terminal or a program's standard streams carry, both ways.
//!
//! A frame is a kind (one byte), a length (`u32`, little-endian) and that many bytes.

use super::protocol::Exit;
use super::spec::Size;
use std::io::{self, Read, Write};

/// Longest frame, bytes.
pub const FRAME_BYTES_MAX: usize = 64 << 10;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// To the client: standard output, or what the terminal shows.
    Output(Vec<u8>),
    /// To the client: standard error.
    ErrorOutput(Vec<u8>),
    /// From the client: standard input. Empty: its end.
    Input(Vec<u8>),
    /// From the client: the terminal has another size.
    Resize(Size),
    /// To the client: the program ended. The last frame.
    Exit(Exit),
}

impl Frame {
    /// Its bytes on the socket.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Output(bytes) => (1, bytes.clone()),
            Self::ErrorOutput(bytes) => (2, bytes.clone()),
            Self::Input(bytes) => (3, bytes.clone()),
            Self::Resize(size) => (4, [size.rows.to_le_bytes(), size.columns.to_le_bytes()].concat()),
            Self::Exit(Exit::Code(code)) => (5, code.to_le_bytes().to_vec()),
            Self::Exit(Exit::Signal(signal)) => (6, signal.to_le_bytes().to_vec()),
        };
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// The first frame in `bytes` and how many bytes it takes; none while it is not complete.
    pub fn decode(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let Some(head) = bytes.first_chunk::<5>() else { return Ok(None) };
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "Not a frame of an attached connection");
        if len > FRAME_BYTES_MAX {
            return Err(bad());
        }
        let Some(body) = bytes.get(5..5 + len) else { return Ok(None) };
        let int = || body.try_into().map(i32::from_le_bytes).map_err(|_| bad());
        let frame = match head[0] {
            1 => Self::Output(body.to_vec()),
            2 => Self::ErrorOutput(body.to_vec()),
            3 => Self::Input(body.to_vec()),
            4 => {
                let size: [u8; 4] = body.try_into().map_err(|_| bad())?;
                Self::Resize(Size {
                    rows: u16::from_le_bytes([size[0], size[1]]),
                    columns: u16::from_le_bytes([size[2], size[3]]),
                })
            }
            5 => Self::Exit(Exit::Code(int()?)),
            6 => Self::Exit(Exit::Signal(int()?)),
            _ => return Err(bad()),
        };
        Ok(Some((frame, 5 + len)))
    }

    /// Writes it.
    pub fn send(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.encode())
    }

    /// Reads one; none at the end of the connection.
    pub fn receive(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; 5];
        match from.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut bytes = head.to_vec();
        bytes.resize(5 + len.min(FRAME_BYTES_MAX + 1), 0);
        from.read_exact(&mut bytes[5..])?;
        Ok(Self::decode(&bytes)?.map(|(frame, _)| frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_and_wait_for_their_end() {
        let frames = [
            Frame::Output(b"out".to_vec()),
            Frame::ErrorOutput(vec![]),
            Frame::Input(vec![9; 100]),
            Frame::Resize(Size { rows: 24, columns: 80 }),
            Frame::Exit(Exit::Code(3)),
            Frame::Exit(Exit::Signal(9)),
        ];
        for frame in frames {
            let bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes[..bytes.len() - 1]).unwrap(), None);
            assert_eq!(Frame::decode(&bytes).unwrap(), Some((frame.clone(), bytes.len())));
            assert_eq!(Frame::receive(&mut bytes.as_slice()).unwrap(), Some(frame));
        }
        assert!(Frame::decode(&[1, 255, 255, 255, 255]).is_err());
        assert!(Frame::decode(&[77, 0, 0, 0, 0]).is_err());
    }
}
