//! The API for operators: the same paths as on the local socket, over TLS 1.3 with an operator's certificate.
//!
//! A handshake is done beside the others, so that one who is slow keeps nobody waiting; only connections that have passed it
//! reach the server. Each is joined to a socket pair as a peer's is, so that who is put out loses it at once.

use super::who::Who;
use crate::audit::Verdict;
use crate::node::Node;
use crate::peers::Admitted;
use crate::peers::accept::{Bounds, accept_all};
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use std::io;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::mpsc;

/// How many operators may be connected at a time.
const BOUNDS: Bounds = Bounds { handshakes_max: 64, connections_max: 512 };

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
        tokio::spawn(listen(listener, node, send));
        Ok(Self { ready, address })
    }
}

async fn listen(listener: TcpListener, node: Arc<Node>, ready: mpsc::Sender<(UnixStream, Who)>) {
    let own = node.clone();
    let handshake = move |tcp, place| {
        let node = own.clone();
        async move { node.peers().admit_operator(tcp, place).await }
    };
    let serve = move |admitted, from| {
        let (node, ready) = (node.clone(), ready.clone());
        async move {
            match admitted {
                Ok(Admitted { name, stream }) => drop(ready.send((stream, Who::Operator(name))).await),
                Err(why) => turned_away(node, from, why).await,
            }
        }
    };
    accept_all(listener, BOUNDS, handshake, serve).await;
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
