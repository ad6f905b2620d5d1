//! The listener for peers. What a client asks for in its first message (the application protocol) decides which
//! handshake it gets: peers must show a certificate in it; who joins gets one that leads to nothing but joining.

use super::serve::{Handler, serve};
use super::{Peers, bridge, silence};
use crate::trust::{certificate, tls};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

/// How long a handshake may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Most handshakes at a time: a stranger can make us work, but only so much.
const HANDSHAKES_MAX: usize = 128;

/// Most connections that are served at a time.
const CONNECTIONS_MAX: usize = 1024;

/// Accepts connections until the runtime ends.
pub async fn listen(listener: TcpListener, peers: Arc<Peers>, handler: Arc<dyn Handler>) {
    let handshakes = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES_MAX));
    let connections = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(turn) = handshakes.clone().acquire_owned().await else { return };
        let Ok(place) = connections.clone().acquire_owned().await else { return };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(cause) => {
                tracing::warn!(%cause, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (peers, handler) = (peers.clone(), handler.clone());
        tokio::spawn(async move {
            let from = tcp.peer_addr().map_or_else(|_| "unknown".to_owned(), |address| address.to_string());
            let accepted = tokio::time::timeout(HANDSHAKE_TIME_MAX, accept(tcp, &peers)).await;
            drop(turn);
            match accepted {
                Ok(Ok(Accepted::Peer(tls))) => {
                    if let Err(cause) = admit(tls, &peers, &handler, place) {
                        handler.turned_away(&from, &cause.to_string());
                    }
                }
                Ok(Ok(Accepted::Joiner(tls))) => {
                    if let Err(cause) = admit_joiner(tls, &peers, &handler, place) {
                        handler.turned_away(&from, &cause.to_string());
                    }
                }
                Ok(Err(cause)) => handler.turned_away(&from, &cause.to_string()),
                Err(_) => handler.turned_away(&from, "the handshake took too long"),
            }
        });
    }
}

enum Accepted {
    Peer(TlsStream<TcpStream>),
    Joiner(TlsStream<TcpStream>),
}

async fn accept(tcp: TcpStream, peers: &Peers) -> io::Result<Accepted> {
    tcp.set_nodelay(true)?;
    silence::watch(&tcp)?;
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await?;
    let joins =
        start.client_hello().alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == tls::JOIN));
    if joins {
        Ok(Accepted::Joiner(start.into_stream(peers.tls.joining.clone()).await?.into()))
    } else {
        Ok(Accepted::Peer(start.into_stream(peers.tls.server.clone()).await?.into()))
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

fn admit(
    tls: TlsStream<TcpStream>,
    peers: &Arc<Peers>,
    handler: &Arc<dyn Handler>,
    place: Place,
) -> io::Result<()> {
    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.ok_or_else(|| io::Error::other("It showed no certificate"))?;
    // The handshake has verified it; what it says is who they are, whatever they call themselves.
    let said = certificate::read(shown).map_err(io::Error::other)?;
    let stream = bridge::join(tls, &peers.open, &said.name, &said.serial)?;
    // Put out between the handshake and the registration: the change was not seen by the watcher.
    if !peers.roster.admits(&said.name, &said.serial) {
        return Err(io::Error::other("It was put out of the fleet"));
    }
    let handler = handler.clone();
    std::thread::Builder::new().name("ferry-peer".to_owned()).spawn(move || {
        serve(stream, &said.name, &*handler);
        drop(place);
    })?;
    Ok(())
}

fn admit_joiner(
    tls: TlsStream<TcpStream>,
    peers: &Arc<Peers>,
    handler: &Arc<dyn Handler>,
    place: Place,
) -> io::Result<()> {
    // It has no name yet. It is entered under ours, so that it is closed when nothing else is.
    let own = peers.roster.now().find(&peers.name).map(|member| member.serial.clone()).unwrap_or_default();
    let stream = bridge::join(tls, &peers.open, &peers.name, &own)?;
    let handler = handler.clone();
    std::thread::Builder::new().name("ferry-joiner".to_owned()).spawn(move || {
        super::serve::serve_joiner(stream, &*handler);
        drop(place);
    })?;
    Ok(())
}
