//! The listener for peers. What a client asks for in its first message (the application protocol) decides which
//! handshake it gets: peers must show a certificate in it; who joins gets one that leads to nothing but joining.

use super::accept::{Bounds, Place, accept_all};
use super::serve::{Handler, serve};
use super::{Direct, Peers, bridge, silence};
use crate::trust::{certificate, tls};
use ferry_transfer::wire::Stream;
use std::io;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

/// How many peers may be connected at a time.
const BOUNDS: Bounds = Bounds { handshakes_max: 128, connections_max: 1024 };

/// Accepts connections until the runtime ends.
pub async fn listen(listener: TcpListener, peers: Arc<Peers>, handler: Arc<dyn Handler>) {
    let own = peers.clone();
    let handshake = move |tcp: TcpStream, place: Place| {
        let peers = own.clone();
        async move { Ok((accept(tcp, &peers).await?, place)) }
    };
    let serve = move |accepted: Result<(Accepted, Place), String>, from: String| {
        let (peers, handler) = (peers.clone(), handler.clone());
        async move {
            let admitted = accepted.and_then(|(accepted, place)| {
                let admitted = match accepted {
                    Accepted::Peer(tls) => admit(tls, &peers, &handler, place),
                    Accepted::Joiner(tls) => admit_joiner(tls, &peers, &handler, place),
                };
                admitted.map_err(|cause| cause.to_string())
            });
            if let Err(why) = admitted {
                handler.turned_away(&from, &why);
            }
        }
    };
    accept_all(listener, BOUNDS, handshake, serve).await;
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
    let direct = tls.get_ref().1.alpn_protocol() == Some(tls::PEER_DIRECT);
    let stream: Box<dyn Stream> = match direct {
        true => Box::new(Direct::enter(tls, &peers.open, &said.name, &said.serial)?),
        false => Box::new(bridge::join(tls, &peers.open, &said.name, &said.serial)?),
    };
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
