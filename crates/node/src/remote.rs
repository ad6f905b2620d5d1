//! A node's API from elsewhere, as an operator: `https://[NODE@]HOST[:PORT]` with the operator's key and certificate.
//!
//! Each connection is TLS on a small runtime of its own, joined to one end of a socket pair, so that a client reads and
//! writes it as it does the local socket.

use crate::passing::pass_on;
use crate::trust::{certificate, operator, tls};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use rustls::pki_types::ServerName;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};

/// The port of a node's API, where none is said.
pub const PORT: u16 = 7312;

/// How long connecting and the handshake may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes passed on at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// A node that is reached over the network. Its connections end with it.
pub struct Remote {
    url: String,
    address: String,
    name: ServerName<'static>,
    config: Arc<rustls::ClientConfig>,
    runtime: tokio::runtime::Runtime,
    broke: Broke,
}

/// Why a connection broke, if one did: a node says only after the handshake that it turns a client away.
type Broke = Arc<Mutex<Option<io::Error>>>;

impl Remote {
    /// The node at `url`, for the operator whose files are in `identity`.
    ///
    /// # Errors
    /// `Usage` if the address or the directory is not one.
    pub fn new(url: &str, identity: &Path) -> Result<Self> {
        let Target { node, address } = parse(url)?;
        let credentials = operator::load(identity)?;
        let any_node = node.is_none();
        let any = HostName::new("any").map_err(|cause| Error::from_source(Kind::Bug, &cause))?;
        // Not looked at if any node will do.
        let name = certificate::server_name(&node.unwrap_or(any))?;
        let config = tls::operator(&credentials.authority, credentials.chain, credentials.key, any_node)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|cause| Error::from_source(Kind::Unable, &cause))?;
        Ok(Self {
            url: url.to_owned(),
            address,
            name,
            config: Arc::new(config),
            runtime,
            broke: Broke::default(),
        })
    }

    /// A new connection to it. Blocks; not for async threads.
    ///
    /// # Errors
    /// `Refused` if who answers is not the node that was named, or turns this operator away; `Unable` if nobody answers.
    pub fn open(&self) -> Result<UnixStream> {
        let unable = |cause: &io::Error| self.failure(cause);
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let connected = self.runtime.block_on(async {
            tokio::time::timeout(CONNECT_TIME_MAX, async {
                let tcp = tokio::net::TcpStream::connect(&self.address).await?;
                tcp.set_nodelay(true)?;
                connector.connect(self.name.clone(), tcp).await
            })
            .await
        });
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "It does not answer");
        let tls = connected.map_err(late).flatten().map_err(|cause| unable(&cause))?;
        let (ours, theirs) = UnixStream::pair().map_err(|cause| unable(&cause))?;
        theirs.set_nonblocking(true).map_err(|cause| unable(&cause))?;
        let _inside = self.runtime.enter();
        let theirs = tokio::net::UnixStream::from_std(theirs).map_err(|cause| unable(&cause))?;
        let (tls_read, tls_write) = tokio::io::split(tls);
        let (read, write) = theirs.into_split();
        self.runtime.spawn(pass_on(
            Noting { inner: tls_read, broke: self.broke.clone() },
            write,
            BUFFER_BYTES,
        ));
        self.runtime.spawn(pass_on(read, tls_write, BUFFER_BYTES));
        Ok(ours)
    }

    /// Why a connection of it broke, if one did and not by its end.
    #[must_use]
    pub fn why_broken(&self) -> Option<Error> {
        let broke = self.broke.lock().unwrap_or_else(PoisonError::into_inner);
        broke.as_ref().map(|cause| self.failure(cause))
    }

    fn failure(&self, cause: &io::Error) -> Error {
        let is_about_trust =
            cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some_and(|error| {
                matches!(error, rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
            });
        if is_about_trust {
            Error::from_source(Kind::Refused, cause)
                .context(format!("{} and this operator do not trust each other", self.url))
                .hint(
                    "`ferry node status` on the authority's node lists the operators whose certificates hold",
                )
        } else {
            Error::from_source(Kind::Unable, cause)
                .context(format!("No node answers at {}", self.url))
                .hint("the node listens there if it was started with `ferry node up --api-listen ADDR`")
        }
    }
}

/// Passes reading on, and keeps the error that ends it, before anybody can see the end.
struct Noting<R> {
    inner: R,
    broke: Broke,
}

impl<R: AsyncRead + Unpin> AsyncRead for Noting<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if let Poll::Ready(Err(cause)) = read {
            let kept = io::Error::new(cause.kind(), cause.to_string());
            *self.broke.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
            return Poll::Ready(Err(kept));
        }
        read
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// The node that has to answer; none: any of the fleet.
    node: Option<HostName>,
    /// Host and port.
    address: String,
}

fn parse(url: &str) -> Result<Target> {
    let wrong = |why: &str| {
        Error::new(Kind::Usage, why)
            .context(format!("'{url}' is not the address of a node's API"))
            .hint("such as https://192.0.2.1:7312, or https://alpha@192.0.2.1:7312 if only alpha may answer")
    };
    let rest = url.strip_prefix("https://").ok_or_else(|| wrong("It does not begin with https://"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.is_empty() || rest.contains('/') {
        return Err(wrong("Host and port are expected, and nothing after them"));
    }
    let (node, host) = match rest.split_once('@') {
        Some((node, host)) => (Some(node), host),
        // A name that a certificate can hold says which node it is.
        None => (
            rest.rsplit_once(':').map_or(rest, |(host, _)| host).strip_suffix(certificate::NODE_SUFFIX),
            rest,
        ),
    };
    let node = node.map(HostName::new).transpose().map_err(|cause| wrong(&cause.to_string()))?;
    if host.is_empty() {
        return Err(wrong("The host is missing"));
    }
    Ok(Target { node, address: crate::up::with_port(host, PORT) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_and_who() {
        let cases = [
            ("https://192.0.2.1", None, "192.0.2.1:7312"),
            ("https://192.0.2.1:9/", None, "192.0.2.1:9"),
            ("https://[fd00::1]:9", None, "[fd00::1]:9"),
            ("https://alpha@192.0.2.1:9", Some("alpha"), "192.0.2.1:9"),
            ("https://alpha@[fd00::1]", Some("alpha"), "[fd00::1]:7312"),
            ("https://alpha.node.ferry:9", Some("alpha"), "alpha.node.ferry:9"),
        ];
        for (url, node, address) in cases {
            let node = node.map(|name| HostName::new(name).unwrap());
            assert_eq!(parse(url).unwrap(), Target { node, address: address.to_owned() }, "{url}");
        }
        for bad in
            ["http://192.0.2.1", "192.0.2.1:9", "https://", "https://a/b", "https://a b@c", "https://alpha@"]
        {
            assert_eq!(parse(bad).unwrap_err().kind, Kind::Usage, "{bad}");
        }
    }
}
