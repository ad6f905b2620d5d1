//! One client of a shim: bytes that came and are not yet a message, bytes that wait to be sent, and what the connection is.

use super::protocol::{self, Answer, Request};
use super::stream::Frame;
use ferry_sys::scm;
use rustix::net::RecvFlags;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a client may take to read an answer before it is given up.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Frames that wait for a slow client, bytes. An attached terminal that reads no faster loses its connection, not the workload.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Requests and answers.
    Requests,
    /// Wants to know when the first program ends.
    Waiting,
    /// Attached to the workload's terminal or log.
    Attached,
    /// The standard streams of the program with this number.
    Exec(u64),
}

/// A client.
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) mode: Mode,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Descriptors that came with requests and were not taken yet.
    passed: Vec<OwnedFd>,
    /// Close when everything is sent.
    pub(super) ending: bool,
    /// Asked for the tracking of the workload: it ends with this connection.
    pub(super) tracks: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            mode: Mode::Requests,
            input: Vec::new(),
            output: Vec::new(),
            passed: Vec::new(),
            ending: false,
            tracks: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Bytes that wait to be sent: a program's output is not read while its client is behind.
    pub(super) fn backlog(&self) -> usize {
        self.output.len()
    }

    /// Takes what has come; false: the client is gone.
    pub(super) fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 64 << 10];
        loop {
            match scm::receive(&self.stream, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(false),
                Ok((count, passed)) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    self.passed.extend(passed);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e),
            }
            if self.passed.len() > scm::DESCRIPTORS_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.input.len() > protocol::MESSAGE_BYTES_MAX + 4 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }

    /// The next whole request that has come.
    pub(super) fn request(&mut self) -> io::Result<Option<Request>> {
        let Some(head) = self.input.first_chunk::<4>() else { return Ok(None) };
        let len = protocol::length(*head)?;
        if self.input.len() < 4 + len {
            return Ok(None);
        }
        let request = protocol::decode(&self.input[4..4 + len])?;
        self.input.drain(..4 + len);
        Ok(Some(request))
    }

    /// What came along with the request: so many descriptors, no more and no fewer.
    pub(super) fn take_passed(&mut self, count: u32) -> io::Result<Vec<OwnedFd>> {
        let passed = std::mem::take(&mut self.passed);
        if passed.len() == count as usize { Ok(passed) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// The next whole frame that has come.
    pub(super) fn frame(&mut self) -> io::Result<Option<Frame>> {
        let Some((frame, len)) = Frame::decode(&self.input)? else { return Ok(None) };
        self.input.drain(..len);
        Ok(Some(frame))
    }

    /// Sends an answer whole: it may be long, and its reader waits for it.
    pub(super) fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
        let sent = protocol::send(&mut self.stream, answer);
        self.stream.set_nonblocking(true)?;
        sent
    }

    /// Passes descriptors behind an answer.
    pub(super) fn pass(&mut self, descriptors: &[OwnedFd]) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        let mut chunks = descriptors.chunks(scm::DESCRIPTORS_MAX);
        let passed = chunks.try_for_each(|chunk| {
            let chunk: Vec<BorrowedFd<'_>> = chunk.iter().map(AsFd::as_fd).collect();
            scm::send(&self.stream, &[0], &chunk)
        });
        self.stream.set_nonblocking(true)?;
        passed
    }

    /// Puts a frame behind those that wait.
    pub(super) fn push(&mut self, frame: &Frame) -> io::Result<()> {
        if self.output.len() > WAITING_BYTES_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.output.extend_from_slice(&frame.encode());
        self.flush()
    }

    /// Sends what waits, as far as the client takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => {
                    self.output.drain(..count);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_descriptors_than_one_message_holds_are_passed_in_their_order() {
        let (here, there) = UnixStream::pair().unwrap();
        let files: Vec<OwnedFd> = (0..300)
            .map(|number| {
                let file = tempfile::tempfile().unwrap();
                file.set_len(number).unwrap();
                file.into()
            })
            .collect();
        Connection::new(here).unwrap().pass(&files).unwrap();
        let mut received: Vec<OwnedFd> = Vec::new();
        while received.len() < files.len() {
            let (bytes, passed) = scm::receive(&there, &mut [0; 8], RecvFlags::empty()).unwrap();
            assert!(bytes == 1 && !passed.is_empty());
            received.extend(passed);
        }
        let sizes = received.into_iter().map(|fd| std::fs::File::from(fd).metadata().unwrap().len());
        assert!(sizes.eq(0..300));
    }
}
