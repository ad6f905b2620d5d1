//! A TLS connection that whoever uses it encrypts and decrypts itself, on threads of its own: for pages and for what a move says.
//!
//! Joined to the runtime ([`super::bridge`]) every message goes through two more threads, each of which has to be woken and has others'
//! messages to pass on. Here the socket is read in large pieces and written at once. To be given to another process it needs two threads
//! all the same, one for each direction ([`Stream::into_socket`]); they do nothing else.

use super::open::{Ending, Entered, Open};
use ferry_model::ids::HostName;
use ferry_sys::schedule;
use ferry_transfer::wire::{Reader, Stream, Writer};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustls::Connection;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tokio_rustls::TlsStream;

/// Bytes that are read from the socket at once.
const READ_BYTES: usize = 256 << 10;

/// The connection.
pub struct Direct {
    tls: Connection,
    tcp: TcpStream,
    came: Came,
    entered: Entered,
}

impl Direct {
    /// Takes a connection whose handshake is over. It ends when the peer, known as `name` by the certificate numbered `serial`, is put out.
    pub fn enter(
        tls: TlsStream<tokio::net::TcpStream>,
        open: &Arc<Open>,
        name: &HostName,
        serial: &[u8],
    ) -> io::Result<Self> {
        let (tcp, tls) = match tls {
            TlsStream::Client(tls) => {
                let (tcp, session) = tls.into_inner();
                (tcp, Connection::from(session))
            }
            TlsStream::Server(tls) => {
                let (tcp, session) = tls.into_inner();
                (tcp, Connection::from(session))
            }
        };
        let tcp = tcp.into_std()?;
        tcp.set_nonblocking(false)?;
        let entered = open.enter(name, serial, Ending::Socket(tcp.try_clone()?));
        Ok(Self { tls, tcp, came: Came::default(), entered })
    }
}

impl Read for Direct {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if self.came.is_empty() {
                self.came.fill(&mut self.tcp)?;
            }
            let fed = self.came.feed(&mut self.tls);
            // Alerts and answers to the peer's TLS itself.
            self.flush()?;
            fed?;
        }
    }
}

impl Write for Direct {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.tls.writer().write(bytes)?;
        self.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.tcp)?;
        }
        Ok(())
    }
}

impl Stream for Direct {
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.tcp.set_read_timeout(timeout)?;
        self.tcp.set_write_timeout(timeout)
    }

    fn split(self: Box<Self>) -> io::Result<(Reader, Writer)> {
        let Self { tls, tcp, came, entered } = *self;
        let (tls, entered) = (Arc::new(Mutex::new(tls)), Arc::new(entered));
        let receiving =
            Receiving { tls: tls.clone(), tcp: tcp.try_clone()?, came, _entered: entered.clone() };
        let sending = Sending { out: Out { tls, tcp, packed: Vec::new() }, _entered: entered };
        Ok((Box::new(receiving), Box::new(sending)))
    }

    fn into_socket(self: Box<Self>, first: bool) -> io::Result<OwnedFd> {
        self.set_timeout(None)?;
        let (ours, theirs) = UnixStream::pair()?;
        let Self { tls, tcp, came, entered } = *self;
        let (tls, entered) = (Arc::new(Mutex::new(tls)), Arc::new(entered));
        let from = Receiving { tls: tls.clone(), tcp: tcp.try_clone()?, came, _entered: entered.clone() };
        let inwards = Inwards { from, to: theirs.try_clone()? };
        let outwards =
            Outwards { out: Out { tls, tcp, packed: Vec::new() }, from: theirs, _entered: entered };
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(move || {
                if first {
                    schedule::precede();
                }
                work();
            })
        };
        start("ferry-inwards", Box::new(move || inwards.run()))?;
        start("ferry-outwards", Box::new(move || outwards.run()))?;
        Ok(ours.into())
    }

    fn beneath(&self) -> io::Result<OwnedFd> {
        Ok(self.tcp.try_clone()?.into())
    }
}

/// What was read from the socket and not decrypted yet.
#[derive(Default)]
struct Came {
    bytes: Vec<u8>,
    from: usize,
    until: usize,
}

impl Came {
    fn is_empty(&self) -> bool {
        self.from == self.until
    }

    /// Reads what has come; nothing when the peer sends no more.
    fn fill(&mut self, tcp: &mut TcpStream) -> io::Result<()> {
        self.bytes.resize(READ_BYTES, 0);
        loop {
            match tcp.read(&mut self.bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    (self.from, self.until) = (0, read?);
                    return Ok(());
                }
            }
        }
    }

    /// Decrypts some of it: as much as fits before it is read. Of nothing it is the end.
    fn feed(&mut self, tls: &mut Connection) -> io::Result<()> {
        self.from += tls.read_tls(&mut &self.bytes[self.from..self.until])?;
        let processed = tls.process_new_packets();
        processed.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// The receiving direction, on a thread of its own.
struct Receiving {
    tls: Arc<Mutex<Connection>>,
    tcp: TcpStream,
    came: Came,
    _entered: Arc<Entered>,
}

impl Receiving {
    /// What has come by now, as much as there is room for, and whether it is the end: what was decrypted before first.
    fn ready(&mut self, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        while count < buffer.len() {
            match tls.reader().read(&mut buffer[count..]) {
                Ok(0) => return Ok((count, true)),
                Ok(more) => count += more,
                // What came before the end is not lost with it: it is told again.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock && count == 0 => return Err(error),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                Err(_) if self.came.is_empty() => break,
                Err(_) => self.came.feed(&mut tls)?,
            }
        }
        Ok((count, buffer.is_empty()))
    }
}

impl Read for Receiving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (count, ended) = self.ready(buffer)?;
            if count > 0 || ended {
                return Ok(count);
            }
            // Not under the lock: whoever sends must not wait for the peer to speak.
            self.came.fill(&mut self.tcp)?;
            if self.came.is_empty() {
                // The peer has left without a word: the session says so.
                self.came.feed(&mut self.tls.lock().unwrap_or_else(PoisonError::into_inner))?;
            }
        }
    }
}

/// The sending direction. With it the connection ends, for whoever reads as well.
struct Sending {
    out: Out,
    _entered: Arc<Entered>,
}

/// Where a connection is written to.
struct Out {
    tls: Arc<Mutex<Connection>>,
    tcp: TcpStream,
    packed: Vec<u8>,
}

impl Out {
    /// Encrypts what `say` says, and sends it: not under the lock, since the peer may wait for us to read before it reads.
    fn send<T>(&mut self, say: impl FnOnce(&mut Connection) -> io::Result<T>) -> io::Result<T> {
        self.packed.clear();
        let said = {
            let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
            let said = say(&mut tls)?;
            while tls.wants_write() {
                tls.write_tls(&mut self.packed)?;
            }
            said
        };
        self.tcp.write_all(&self.packed)?;
        Ok(said)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(|tls| tls.writer().write(bytes))
    }

    fn close(&mut self) -> io::Result<()> {
        self.send(|tls| {
            tls.send_close_notify();
            Ok(())
        })
    }
}

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let _ = self.out.close();
        let _ = self.out.tcp.shutdown(Shutdown::Both);
    }
}

/// From the peer to the other end of a socket pair.
struct Inwards {
    from: Receiving,
    to: UnixStream,
}

impl Inwards {
    /// Until the peer sends no more, or nobody reads it.
    fn run(mut self) {
        if let Err(error) = self.pass() {
            tracing::debug!(%error, "a connection broke");
        }
        let _ = self.to.shutdown(Shutdown::Write);
    }

    fn pass(&mut self) -> io::Result<()> {
        let mut plain = vec![0; READ_BYTES];
        loop {
            let count = self.from.read(&mut plain)?;
            if count == 0 {
                return Ok(());
            }
            self.to.write_all(&plain[..count])?;
        }
    }
}

/// From the other end of a socket pair to the peer.
struct Outwards {
    out: Out,
    from: UnixStream,
    _entered: Arc<Entered>,
}

impl Outwards {
    /// Until nothing more is said, or the peer does not take it.
    fn run(mut self) {
        if let Err(error) = self.pass() {
            tracing::debug!(%error, "a connection broke");
        }
        // Whoever still writes is told by that, and so is the peer.
        let _ = self.from.shutdown(Shutdown::Read);
        let _ = self.out.tcp.shutdown(Shutdown::Write);
    }

    fn pass(&mut self) -> io::Result<()> {
        let mut plain = vec![0; READ_BYTES];
        loop {
            // Whoever waits in a read of this socket is woken by every answer that is taken from its other end, too.
            let mut said = [PollFd::new(&self.from, PollFlags::IN)];
            match poll(&mut said, None) {
                Err(Errno::INTR) => continue,
                polled => drop(polled?),
            }
            let count = match self.from.read(&mut plain) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if count == 0 {
                return self.out.close();
            }
            let mut said = 0;
            while said < count {
                said += self.out.write(&plain[said..count])?;
            }
        }
    }
}
