//! The API for operators: the same paths as on the local socket, over TLS 1.3 with an operator's certificate.
//!
//! A handshake is done beside the others, so that one who is slow keeps nobody waiting; only connections that have passed it
//! reach the server. Each is joined to a socket pair as a peer's is, so that who is put out loses it at once.

use super::who::Who;
use crate::audit::Verdict;
use crate::node::Node;
use crate::peers::Admitted;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

/// How long a handshake may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Most handshakes at a time: a stranger can make us work, but only so much.
const HANDSHAKES_MAX: usize = 64;

/// Most connections that are served at a time.
const CONNECTIONS_MAX: usize = 512;

/// Connections of operators, ready to be served.
pub struct OperatorListener {
    ready: mpsc::Receiver<(UnixStream, Who)>,
    address: std::net::SocketAddr,
}

impl OperatorListener {
    /// Accepts connections on `listener` for as long as it is kept.
    pub fn new(listener: TcpListener, node: Arc<Node>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (send, ready) = mpsc::channel(1);
        tokio::spawn(accept_all(listener, node, send));
        Ok(Self { ready, address })
    }
}

async fn accept_all(listener: TcpListener, node: Arc<Node>, ready: mpsc::Sender<(UnixStream, Who)>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(turn) = handshakes.clone().acquire_owned().await else { return };
        let Ok(place) = connections.clone().acquire_owned().await else { return };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(cause) => {
                tracing::warn!(%cause, "a connection to the API could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (node, ready) = (node.clone(), ready.clone());
        tokio::spawn(async move {
            let from = tcp.peer_addr().map_or_else(|_| "unknown".to_owned(), |address| address.to_string());
            let admitted =
                tokio::time::timeout(HANDSHAKE_TIME_MAX, node.peers().admit_operator(tcp, place)).await;
            drop(turn);
            match admitted {
                Ok(Ok(Admitted { name, stream })) => {
                    let _ = ready.send((stream, Who::Operator(name))).await;
                }
                Ok(Err(cause)) => turned_away(node, from, cause.to_string()).await,
                Err(_) => turned_away(node, from, "the handshake took too long".to_owned()).await,
            }
        });
    }
}

async fn turned_away(node: Arc<Node>, from: String, why: String) {
    tracing::debug!(from, why, "turned away from the API");
    let noted = tokio::task::spawn_blocking(move || {
        node.audit.note(&from, "connect to the API", Verdict::Refused, &why);
    });
    let _ = noted.await;
}

impl axum::serve::Listener for OperatorListener {
    type Io = UnixStream;
    type Addr = Who;

    async fn accept(&mut self) -> (UnixStream, Who) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The acceptor ends only with the runtime.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Who> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("operators connect to {}", self.address)))
    }
}

impl Connected<IncomingStream<'_, OperatorListener>> for Who {
    fn connect_info(stream: IncomingStream<'_, OperatorListener>) -> Self {
        stream.remote_addr().clone()
    }
}
