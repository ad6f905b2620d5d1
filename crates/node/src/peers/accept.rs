//! The loop behind every port of the node: connections are accepted, their handshakes are done beside each other and within a time, and
//! of both there are only so many at a time. A stranger can make us work, but only so much, and who is slow keeps nobody waiting.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a handshake may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// How long after a failure the next connection is accepted: the usual one, too many open files, does not pass at once.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection counts for as long as this is kept.
pub type Place = OwnedSemaphorePermit;

/// How many there may be at a time.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Handshakes.
    pub handshakes_max: usize,
    /// Connections that are served, or in their handshake.
    pub connections_max: usize,
}

/// Accepts connections until the runtime ends. What `handshake` makes of one is given to `serve`, with the address that it came from, or
/// why it is turned away.
pub async fn accept_all<T, Handshake, Serve>(
    listener: TcpListener,
    bounds: Bounds,
    handshake: impl Fn(TcpStream, Place) -> Handshake,
    serve: impl Fn(Result<T, String>, String) -> Serve + Send + Sync + 'static,
) where
    T: Send + 'static,
    Handshake: Future<Output = io::Result<T>> + Send + 'static,
    Serve: Future<Output = ()> + Send + 'static,
{
    let handshakes = Arc::new(Semaphore::new(bounds.handshakes_max));
    let connections = Arc::new(Semaphore::new(bounds.connections_max));
    let serve = Arc::new(serve);
    loop {
        let Ok(turn) = handshakes.clone().acquire_owned().await else { return };
        let Ok(place) = connections.clone().acquire_owned().await else { return };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(cause) => {
                tracing::warn!(%cause, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let from = tcp.peer_addr().map_or_else(|_| "unknown".to_owned(), |address| address.to_string());
        let handshake = handshake(tcp, place);
        let serve = serve.clone();
        tokio::spawn(async move {
            let done = tokio::time::timeout(HANDSHAKE_TIME_MAX, handshake).await;
            drop(turn);
            let done = match done {
                Ok(done) => done.map_err(|cause| cause.to_string()),
                Err(_) => Err("the handshake took too long".to_owned()),
            };
            serve(done, from).await;
        });
    }
}
