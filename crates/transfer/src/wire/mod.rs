//! What goes over the link between two nodes, as bytes: greeting, control messages, page frames.
//!
//! Every connection begins with a [`greeting`] that agrees on a version. Then it carries either [`control`] messages (one per
//! move: plan, files, state, handover) or [`frame`]s of memory, [`rounds`] of it, or pages on [`demand`] (any number per move, each presenting the move's secret). Everything
//! here reads from `Read` and writes to `Write`, so that it runs over TLS, a socket pair or a slice; the decoders take a slice, for the
//! fuzzer. The peer is authenticated, and still not trusted: every length is checked against its limit before it is used.

pub mod bulk;
mod cap;
pub mod control;
pub mod demand;
pub mod digest;
pub mod frame;
pub mod greeting;
pub mod pages;
pub mod rounds;

pub use cap::Cap;

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A connection to another node. The node makes it of a TLS session.
pub trait Stream: io::Read + io::Write + Send {
    /// Limits how long one read or write may block; none: for ever.
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Both directions apart, to be used by two threads. A connection for pages need not be able to: it is read only after
    /// everything has been written. The connection ends, both ways, when the sending direction is dropped: a thread that still reads
    /// would otherwise keep it open, and the other side would wait for somebody who has left.
    fn split(self: Box<Self>) -> io::Result<(Reader, Writer)>;

    /// The socket itself, or one that leads to it, to be given to another process or thread. `first`: what goes over it is waited for, and
    /// goes before whatever else this host has to do.
    fn into_socket(self: Box<Self>, _first: bool) -> io::Result<OwnedFd> {
        Err(no_socket())
    }

    /// A copy of the socket beneath it: shut down, it ends the connection for whoever reads or writes it.
    fn beneath(&self) -> io::Result<OwnedFd> {
        Err(no_socket())
    }
}

fn no_socket() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "This connection is no socket")
}

/// The receiving direction of a connection.
pub type Reader = Box<dyn io::Read + Send>;

/// The sending direction of a connection.
pub type Writer = Box<dyn io::Write + Send>;

impl Stream for UnixStream {
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)?;
        self.set_write_timeout(timeout)
    }

    fn split(self: Box<Self>) -> io::Result<(Reader, Writer)> {
        Ok((Box::new(self.try_clone()?), Box::new(Closing(*self))))
    }

    fn into_socket(self: Box<Self>, _first: bool) -> io::Result<OwnedFd> {
        Ok((*self).into())
    }

    fn beneath(&self) -> io::Result<OwnedFd> {
        Ok(self.try_clone()?.into())
    }
}

impl Stream for TcpStream {
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)?;
        self.set_write_timeout(timeout)
    }

    fn split(self: Box<Self>) -> io::Result<(Reader, Writer)> {
        Ok((Box::new(self.try_clone()?), Box::new(Closing(*self))))
    }

    fn into_socket(self: Box<Self>, _first: bool) -> io::Result<OwnedFd> {
        Ok((*self).into())
    }

    fn beneath(&self) -> io::Result<OwnedFd> {
        Ok(self.try_clone()?.into())
    }
}

/// The sending direction of a socket. What was written still arrives.
struct Closing<S: Shutdown>(S);

/// Ends a connection for everybody who holds it.
trait Shutdown {
    fn shut(&self);
}

impl Shutdown for UnixStream {
    fn shut(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

impl Shutdown for TcpStream {
    fn shut(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

impl<S: Shutdown> Drop for Closing<S> {
    fn drop(&mut self) {
        self.0.shut();
    }
}

impl<S: Shutdown + io::Write> io::Write for Closing<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_dropped_writer_ends_the_connection_although_somebody_still_reads() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut reader, mut writer) = (Box::new(ours) as Box<dyn Stream>).split().unwrap();
        let still_reads = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()));
        writer.write_all(b"the end").unwrap();
        drop(writer);
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "the end");
        still_reads.join().unwrap().unwrap();
    }
}
