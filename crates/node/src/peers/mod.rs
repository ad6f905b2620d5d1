//! The other nodes of the fleet: connections to and from them, both sides authenticated, by name.
//!
//! A connection is TLS 1.3 in the async runtime, joined to one end of a socket pair; everything above it (greeting,
//! requests, moves) is plain blocking reads and writes on the other end, on threads of its own. The connections of a move
//! make no such detour ([`Direct`]). Whoever is put out of the fleet loses every open connection at once.

pub mod accept;
mod bridge;
mod direct;
mod keep;
mod listen;
mod open;
mod operators;
mod serve;
mod silence;
pub mod wire;

pub use direct::Direct;
pub use keep::{keep_members, push_members};
pub use listen::listen;
pub use operators::Admitted;
pub use serve::Handler;

use crate::frame;
use crate::trust::certificate;
use crate::trust::identity::Identity;
use crate::trust::roster::Roster;
use crate::trust::tls::Tls;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::greeting::{self, Purpose};
use open::Open;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use wire::{Reply, Request};

/// How long connecting and the handshake may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a peer may take to answer a request.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// The way to the other nodes.
pub struct Peers {
    name: HostName,
    roster: Arc<Roster>,
    tls: Tls,
    runtime: tokio::runtime::Handle,
    open: Arc<Open>,
}

impl Peers {
    /// The peers of the node that is `identity`. Must be called within the runtime that will carry the connections.
    pub fn new(identity: &Identity, roster: &Arc<Roster>) -> Result<Arc<Self>> {
        let runtime = tokio::runtime::Handle::current();
        let open = Open::watch(roster);
        let tls = Tls::new(identity, roster)?;
        Ok(Arc::new(Self { name: identity.name().clone(), roster: roster.clone(), tls, runtime, open }))
    }

    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// The list of members.
    #[must_use]
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// Connects to `host` and greets with `purpose`. Blocks; not for async threads.
    ///
    /// # Errors
    /// `NotFound` if there is no such member or it has no address; else why it could not be reached.
    pub fn connect(&self, host: &HostName, purpose: Purpose) -> io::Result<UnixStream> {
        let connected = self.runtime.block_on(async {
            let (tls, serial) = self.dial(host, &self.tls.client).await?;
            bridge::join(tls, &self.open, host, &serial)
        })?;
        self.greet(connected, purpose)
    }

    /// As [`Self::connect`], without a detour through the runtime.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_direct(&self, host: &HostName, purpose: Purpose) -> io::Result<Direct> {
        let connected = self.runtime.block_on(async {
            let (tls, serial) = self.dial(host, &self.tls.client_direct).await?;
            Direct::enter(tls, &self.open, host, &serial)
        })?;
        self.greet(connected, purpose)
    }

    fn greet<S: Stream>(&self, mut stream: S, purpose: Purpose) -> io::Result<S> {
        stream.set_timeout(Some(CONNECT_TIME_MAX))?;
        greeting::connect(&mut stream, &self.name, purpose)?;
        stream.set_timeout(None)?;
        Ok(stream)
    }

    /// Asks `host` something and waits for the answer. Blocks; not for async threads.
    pub fn ask(&self, host: &HostName, request: &Request) -> Result<Reply> {
        self.ask_within(host, request, ANSWER_TIME_MAX)
    }

    /// As [`Self::ask`], waiting at most `time_max` for the answer.
    pub fn ask_within(&self, host: &HostName, request: &Request, time_max: Duration) -> Result<Reply> {
        let mut stream = self.connect(host, Purpose::Node).map_err(|cause| unreachable(host, &cause))?;
        stream.set_read_timeout(Some(time_max)).map_err(|cause| unreachable(host, &cause))?;
        frame::send(&mut stream, request)
            .map_err(|error| error.context(format!("{host} could not be asked")))?;
        match frame::receive(&mut stream).map_err(|error| error.context(format!("{host} did not answer")))? {
            Reply::Failed { error } => Err(error),
            reply => Ok(reply),
        }
    }

    /// A connection whose handshake is over, and the number of the certificate that the host has.
    async fn dial(
        &self,
        host: &HostName,
        config: &Arc<rustls::ClientConfig>,
    ) -> io::Result<(TlsStream<TcpStream>, Vec<u8>)> {
        let not_found = |what: String| io::Error::new(io::ErrorKind::NotFound, what);
        let members = self.roster.now();
        let member =
            members.find(host).ok_or_else(|| not_found(format!("There is no host {host} in the fleet")))?;
        let address = member.address.clone();
        let address =
            address.ok_or_else(|| not_found(format!("{host} has not said yet where it is reached")))?;
        let name = certificate::server_name(host).map_err(io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(config.clone());
        let connected = tokio::time::timeout(CONNECT_TIME_MAX, async {
            let tcp = TcpStream::connect(&address).await?;
            tcp.set_nodelay(true)?;
            silence::watch(&tcp)?;
            connector.connect(name, tcp).await
        });
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("{host} at {address} does not answer"));
        let tls = connected.await.map_err(|_| late())??;
        Ok((tls.into(), member.serial.clone()))
    }
}

fn unreachable(host: &HostName, cause: &io::Error) -> Error {
    let kind = if cause.kind() == io::ErrorKind::NotFound { Kind::Usage } else { Kind::Unable };
    Error::from_source(kind, cause).context(format!("{host} could not be reached")).hint("ferry host ls")
}

/// The other hosts, as the embedded registry sees them.
impl ferry_session::decider::Peers for Peers {
    fn hosts(&self) -> Vec<HostName> {
        let members = self.roster.now();
        members.present().map(|member| member.name.clone()).filter(|name| *name != self.name).collect()
    }

    fn record(
        &self,
        host: &HostName,
        id: ferry_model::ids::WorkloadId,
    ) -> Result<Option<ferry_model::handover::Record>, ferry_session::decider::Unreachable> {
        match self.ask_within(host, &Request::Record { id }, CONNECT_TIME_MAX) {
            Ok(Reply::Record { record }) => Ok(record),
            _ => Err(ferry_session::decider::Unreachable),
        }
    }

    fn cas(
        &self,
        host: &HostName,
        cas: &ferry_model::handover::Cas,
    ) -> Result<ferry_model::handover::Answer, ferry_session::decider::Unreachable> {
        match self.ask_within(host, &Request::Cas { cas: cas.clone() }, CONNECT_TIME_MAX) {
            Ok(Reply::Decided { answer }) => Ok(answer),
            _ => Err(ferry_session::decider::Unreachable),
        }
    }
}
