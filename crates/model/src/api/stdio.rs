//! The stream of `attach` and `exec` after the HTTP upgrade: frames of one kind byte, a length of four bytes (little
//! endian) and that many bytes. The kinds are numbered here by hand and never renumbered; who does not know one skips it.

/// Name of the protocol in the `Upgrade` header.
pub const PROTOCOL: &str = "ferry-stdio/1";

/// Largest payload of one frame, bytes. A longer one ends the stream.
pub const PAYLOAD_MAX: usize = 256 * 1024;

/// Bytes before the payload.
pub const HEAD: usize = 5;

/// One frame, either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// To the program: bytes for its standard input or terminal.
    Input(Vec<u8>),
    /// To the program: its standard input ends.
    InputEnd,
    /// To the program: its terminal has this many rows and columns now.
    Resize(u16, u16),
    /// From the program: standard output or terminal.
    Output(Vec<u8>),
    /// From the program: standard error.
    ErrorOutput(Vec<u8>),
    /// From the program: it ended with this code (128 and the signal, if a signal ended it).
    Exit(u8),
    /// From the program's side: it cannot go on, and why.
    Failure(String),
}

impl Frame {
    /// The frame as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Input(bytes) => (0, bytes),
            Self::InputEnd => (1, &[]),
            Self::Resize(rows, columns) => {
                let size = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
                return frame(2, &size);
            }
            Self::Output(bytes) => (3, bytes),
            Self::ErrorOutput(bytes) => (4, bytes),
            Self::Exit(code) => return frame(5, &[*code]),
            Self::Failure(text) => (6, text.as_bytes()),
        };
        frame(kind, payload)
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(PAYLOAD_MAX)];
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.push(kind);
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

/// A frame longer than [`PAYLOAD_MAX`], or a payload that does not fit its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The peer sent a malformed frame on the stream of a terminal")]
pub struct BadFrame;

impl Decoder {
    /// Takes bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one. Unknown kinds are skipped.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadFrame> {
        loop {
            let Some(head) = self.buffer.get(..HEAD) else { return Ok(None) };
            let kind = head[0];
            let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if len > PAYLOAD_MAX {
                return Err(BadFrame);
            }
            if self.buffer.len() < HEAD + len {
                return Ok(None);
            }
            let payload: Vec<u8> = self.buffer.drain(..HEAD + len).skip(HEAD).collect();
            let frame = match (kind, payload.as_slice()) {
                (0, _) => Frame::Input(payload),
                (1, []) => Frame::InputEnd,
                (2, &[a, b, c, d]) => Frame::Resize(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])),
                (3, _) => Frame::Output(payload),
                (4, _) => Frame::ErrorOutput(payload),
                (5, &[code]) => Frame::Exit(code),
                (6, _) => Frame::Failure(String::from_utf8_lossy(&payload).into_owned()),
                (1 | 2 | 5, _) => return Err(BadFrame),
                _ => continue,
            };
            return Ok(Some(frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let frames = [
            Frame::Input(b"ls\n".to_vec()),
            Frame::InputEnd,
            Frame::Resize(24, 80),
            Frame::Output(vec![0; 70_000]),
            Frame::Exit(143),
            Frame::Failure("no".to_owned()),
        ];
        let mut bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        bytes.splice(0..0, [99, 1, 0, 0, 0, 7]); // a kind from the future
        for cut in [1, 3, 7, 4096] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames);
        }
    }

    #[test]
    fn a_frame_too_long_is_refused_before_it_is_stored() {
        let mut decoder = Decoder::default();
        decoder.push(&[3, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(decoder.next_frame(), Err(BadFrame));
    }
}
