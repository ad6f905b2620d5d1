//! What goes over the link between two nodes, as bytes: greeting, control messages, page frames.
//!
//! Every connection begins with a [`greeting`] that agrees on a version. Then it carries either [`control`] messages (one per
//! move: plan, files, state, handover) or [`frame`]s of memory (any number per move, each presenting the move's secret). Everything
//! here reads from `Read` and writes to `Write`, so that it runs over TLS, a socket pair or a slice; the decoders take a slice, for the
//! fuzzer. The peer is authenticated, and still not trusted: every length is checked against its limit before it is used.

pub mod bulk;
pub mod control;
pub mod digest;
pub mod frame;
pub mod greeting;
pub mod pages;

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A connection to another node. The node makes it of a TLS session.
pub trait Stream: io::Read + io::Write + Send {
    /// Limits how long one read or write may block; none: for ever.
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Both directions apart, to be used by two threads. A connection for pages need not be able to: it is read only after
    /// everything has been written.
    fn split(self: Box<Self>) -> io::Result<(Reader, Writer)>;
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
        Ok((Box::new(self.try_clone()?), self))
    }
}

impl Stream for TcpStream {
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)?;
        self.set_write_timeout(timeout)
    }

    fn split(self: Box<Self>) -> io::Result<(Reader, Writer)> {
        Ok((Box::new(self.try_clone()?), self))
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}
