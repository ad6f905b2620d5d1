//! Connections of operators: admitted here, because the list of members and what is open belong together; served by the API.

use super::{Peers, bridge};
use crate::trust::certificate;
use ferry_model::ids::HostName;
use std::io;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;

/// A connection whose handshake has shown an operator's certificate.
pub struct Admitted {
    /// Whose.
    pub name: HostName,
    /// What it says, decrypted. It closes when the operator is put out.
    pub stream: UnixStream,
}

impl Peers {
    /// Does the handshake with whoever has connected; `held` is kept until the connection ends.
    ///
    /// # Errors
    /// Why it was turned away.
    pub async fn admit_operator(&self, tcp: TcpStream, held: impl Send + 'static) -> io::Result<Admitted> {
        tcp.set_nodelay(true)?;
        let tls = TlsAcceptor::from(self.tls.api.clone()).accept(tcp).await?;
        let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.ok_or_else(|| io::Error::other("It showed no certificate"))?;
        let said = certificate::read(shown).map_err(io::Error::other)?;
        let stream = bridge::join_holding(tls.into(), &self.open, &said.name, &said.serial, held)?;
        // Put out between the handshake and the registration: the change was not seen by the watcher.
        if !self.roster.admits_operator(&said.name, &said.serial) {
            return Err(io::Error::other("It was put out of the fleet"));
        }
        stream.set_nonblocking(true)?;
        Ok(Admitted { name: said.name, stream: UnixStream::from_std(stream)? })
    }
}
