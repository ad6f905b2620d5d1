//! What a server speaks: the demo's own protocol, or that of redis (RESP 2).

use super::protocol::{Operation, Reply, Request};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// How long a reply may take before the connection counts as broken. Longer than any move.
const REPLY_MAX: Duration = Duration::from_secs(60);
/// Longest bulk string accepted of redis, bytes.
const BULK_BYTES_MAX: usize = 1 << 20;

/// A reply, as far as the dialect tells.
pub struct Answer {
    /// Of which request.
    pub id: Option<u64>,
    /// Requests answered on this connection.
    pub count: Option<u64>,
    /// The value, or the old one (or its beginning).
    pub value: Option<Vec<u8>>,
}

/// A way to ask.
pub trait Dialect {
    /// Sends a request.
    fn send(&mut self, request: &Request) -> io::Result<()>;
    /// Waits for the next reply. `None`: closed.
    fn receive(&mut self) -> io::Result<Option<Answer>>;
    /// Waits for replies that nobody looks at.
    fn discard(&mut self, replies: usize) -> io::Result<()> {
        for _ in 0..replies {
            self.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        Ok(())
    }
}

/// The demo's own protocol.
pub struct Own(TcpStream, BufReader<TcpStream>);
/// Redis.
pub struct Redis(TcpStream, BufReader<TcpStream>);

fn halves(stream: TcpStream) -> io::Result<(TcpStream, BufReader<TcpStream>)> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REPLY_MAX))?;
    stream.set_write_timeout(Some(REPLY_MAX))?;
    Ok((stream.try_clone()?, BufReader::new(stream)))
}

impl Own {
    /// Over an open connection.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        halves(stream).map(|(write, read)| Self(write, read))
    }
}

impl Dialect for Own {
    fn send(&mut self, request: &Request) -> io::Result<()> {
        request.write(&mut self.0)
    }

    fn receive(&mut self) -> io::Result<Option<Answer>> {
        let reply = Reply::read(&mut self.1)?;
        Ok(reply.map(|reply| Answer { id: Some(reply.id), count: Some(reply.count), value: reply.value }))
    }
}

impl Redis {
    /// Over an open connection.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        halves(stream).map(|(write, read)| Self(write, read))
    }
}

impl Dialect for Redis {
    fn send(&mut self, request: &Request) -> io::Result<()> {
        let key = format!("key:{:010}", request.key).into_bytes();
        let words: Vec<&[u8]> = match request.operation {
            Operation::Get => vec![b"GET", &key],
            // SET .. GET answers with the old value (since redis 6.2).
            Operation::Put => vec![b"SET", &key, &request.value, b"GET"],
        };
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).into_bytes());
            bytes.extend(word);
            bytes.extend(b"\r\n");
        }
        self.0.write_all(&bytes)
    }

    fn receive(&mut self) -> io::Result<Option<Answer>> {
        let mut line = String::new();
        if self.1.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let strange = || io::Error::new(io::ErrorKind::InvalidData, format!("redis said {line:?}"));
        let value = match line.trim_end().split_at_checked(1).ok_or_else(strange)? {
            ("$", "-1") => None,
            ("$", length) => {
                let length = length.parse::<usize>().ok().filter(|length| *length <= BULK_BYTES_MAX);
                let mut value = vec![0; length.ok_or_else(strange)? + 2];
                self.1.read_exact(&mut value)?;
                value.truncate(value.len() - 2);
                Some(value)
            }
            _ => return Err(strange()),
        };
        Ok(Some(Answer { id: None, count: None, value }))
    }
}
