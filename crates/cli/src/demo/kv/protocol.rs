//! Requests and replies: length-prefixed, little-endian, with an id and a running number, so that a lost, doubled or
//! exchanged reply cannot go unnoticed.

use std::io::{self, Read, Write};

/// Bytes of a value.
pub const VALUE_BYTES: usize = 4096;
/// Longest body accepted, bytes.
const BODY_BYTES_MAX: usize = VALUE_BYTES + 64;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The value of a key.
    Get,
    /// A new value; the answer is the first eight bytes of the old one, which name its key and version.
    Put,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Chosen by the client; comes back with the reply.
    pub id: u64,
    /// What is asked.
    pub operation: Operation,
    /// Which key.
    pub key: u64,
    /// The new value, for [`Operation::Put`].
    pub value: Vec<u8>,
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// How many requests the server has answered on this connection, this one included.
    pub count: u64,
    /// None: there is no such key.
    pub value: Option<Vec<u8>>,
}

impl Request {
    /// Writes it as one piece.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let operation = match self.operation {
            Operation::Get => 1_u8,
            Operation::Put => 2,
        };
        let head = [&self.id.to_le_bytes()[..], &[operation], &self.key.to_le_bytes()].concat();
        write_body(to, &head, &self.value)
    }

    /// Waits for one. `None`: the other side has closed.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let Some(body) = read_body(from)? else { return Ok(None) };
        let (id, rest) = number(&body)?;
        let (operation, rest) = rest.split_first().ok_or_else(malformed)?;
        let (key, value) = number(rest)?;
        let operation = match operation {
            1 => Operation::Get,
            2 => Operation::Put,
            _ => return Err(malformed()),
        };
        Ok(Some(Self { id, operation, key, value: value.to_vec() }))
    }
}

impl Reply {
    /// Writes it as one piece.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let found = u8::from(self.value.is_some());
        let head = [&self.id.to_le_bytes()[..], &self.count.to_le_bytes(), &[found]].concat();
        write_body(to, &head, self.value.as_deref().unwrap_or_default())
    }

    /// Waits for one. `None`: the other side has closed.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let Some(body) = read_body(from)? else { return Ok(None) };
        let (id, rest) = number(&body)?;
        let (count, rest) = number(rest)?;
        let (found, value) = rest.split_first().ok_or_else(malformed)?;
        Ok(Some(Self { id, count, value: (*found == 1).then(|| value.to_vec()) }))
    }
}

/// Fills `into` with the value of `key` at `version`. Its first eight bytes name both.
pub fn fill_value(key: u64, version: u32, into: &mut Vec<u8>) {
    into.clear();
    into.extend(tag(key, version).to_le_bytes());
    let mut state = tag(key, version);
    while into.len() < VALUE_BYTES {
        into.extend(mix(&mut state).to_le_bytes());
    }
}

/// The first eight bytes of a value.
pub fn tag(key: u64, version: u32) -> u64 {
    (key << 32) | u64::from(version)
}

/// SplitMix64 (Steele, Lea, Flood, 2014): the next of a sequence of 64-bit numbers.
pub fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn write_body(to: &mut impl Write, head: &[u8], value: &[u8]) -> io::Result<()> {
    let length = (head.len() + value.len()) as u32;
    to.write_all(&[&length.to_le_bytes()[..], head, value].concat())
}

fn read_body(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > BODY_BYTES_MAX {
        return Err(malformed());
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some(body))
}

fn number(bytes: &[u8]) -> io::Result<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk().ok_or_else(malformed)?;
    Ok((u64::from_le_bytes(*number), rest))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message that makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back_as_written() {
        let mut bytes = Vec::new();
        Request { id: 7, operation: Operation::Put, key: 9, value: vec![1, 2, 3] }.write(&mut bytes).unwrap();
        let request = Request::read(&mut &bytes[..]).unwrap().unwrap();
        assert_eq!((request.id, request.operation, request.key), (7, Operation::Put, 9));
        assert_eq!(request.value, [1, 2, 3]);
        bytes.clear();
        Reply { id: 7, count: 3, value: None }.write(&mut bytes).unwrap();
        let reply = Reply::read(&mut &bytes[..]).unwrap().unwrap();
        assert_eq!((reply.id, reply.count, reply.value), (7, 3, None));
        assert!(Reply::read(&mut &bytes[..0]).unwrap().is_none());
        assert!(Reply::read(&mut &[255, 255, 255, 255, 0][..]).is_err());
    }

    #[test]
    fn values_differ_by_key_and_version() {
        let mut values = [(1, 0), (1, 1), (2, 0)].map(|(key, version)| {
            let mut value = Vec::new();
            fill_value(key, version, &mut value);
            assert_eq!(value.len(), VALUE_BYTES);
            value
        });
        values.sort();
        assert!(values[0] != values[1] && values[1] != values[2]);
    }
}
