//! Two ends of a TLS connection over the loopback, with the protocol version and the ciphers that nodes use.

use ferry_transfer::wire::{Reader, Stream, Writer};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Name in the certificate.
const NAME: &str = "bench.invalid";

/// One end.
pub enum TlsStream {
    /// That which connected.
    Client(StreamOwned<ClientConnection, TcpStream>),
    /// That which accepted.
    Server(StreamOwned<ServerConnection, TcpStream>),
}

/// A connection whose handshake is done.
///
/// # Errors
/// There is no loopback.
pub fn pair() -> io::Result<(TlsStream, TlsStream)> {
    let key = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).map_err(io::Error::other)?;
    let certificate = key.cert.der().clone();
    let private = PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = &[&rustls::version::TLS13];
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).map_err(io::Error::other)?;
    let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
    let client = client.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let server = server.map_err(io::Error::other)?.with_no_client_auth();
    let mut server = server.with_single_cert(vec![certificate], private).map_err(io::Error::other)?;
    // As nodes do: unread tickets make a closing side reset the connection.
    server.send_tls13_tickets = 0;

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let client = ClientConnection::new(Arc::new(client), name).map_err(io::Error::other)?;
    let server = ServerConnection::new(Arc::new(server)).map_err(io::Error::other)?;
    let mut near = TlsStream::Client(StreamOwned::new(client, near));
    let mut far = TlsStream::Server(StreamOwned::new(server, far));
    let other = std::thread::spawn(move || -> io::Result<TlsStream> {
        far.read_exact(&mut [0])?;
        far.write_all(b"k")?;
        far.flush()?;
        Ok(far)
    });
    near.write_all(b"k")?;
    near.flush()?;
    near.read_exact(&mut [0])?;
    let far = other.join().map_err(|_| io::Error::other("the handshake failed"))??;
    Ok((near, far))
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Client(stream) => stream.read(buffer),
            Self::Server(stream) => stream.read(buffer),
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Client(stream) => stream.write(bytes),
            Self::Server(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Client(stream) => stream.flush(),
            Self::Server(stream) => stream.flush(),
        }
    }
}

impl Stream for TlsStream {
    fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let tcp = match self {
            Self::Client(stream) => &stream.sock,
            Self::Server(stream) => &stream.sock,
        };
        tcp.set_read_timeout(timeout)?;
        tcp.set_write_timeout(timeout)
    }

    fn split(self: Box<Self>) -> io::Result<(Reader, Writer)> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "Pages go one way"))
    }
}
