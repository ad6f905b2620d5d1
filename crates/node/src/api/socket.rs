//! The socket of the API: 0600 in a directory that is 0700, and who connects is asked for by the kernel's word besides.

use ferry_model::error::{Error, Kind, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream, unix::SocketAddr};

/// A listener that lets in only this process's own user and root.
pub struct OwnerSocket {
    inner: UnixListener,
    owner: u32,
}

/// Binds the socket at `path`. One that a killed node left is replaced; one on which a node answers is not.
pub fn bind(path: &Path) -> Result<OwnerSocket> {
    let unable = |cause: &std::io::Error| {
        Error::from_source(Kind::Unable, cause)
            .context(format!("The socket {} could not be made", path.display()))
    };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Error::new(Kind::Unable, format!("Another node answers at {}", path.display()))
            .hint("give this one another directory: --run DIR"));
    }
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(unable(&cause)),
        _ => {}
    }
    // Nobody can come in between: the directory is the owner's alone.
    let inner = UnixListener::bind(path).map_err(|cause| unable(&cause))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|cause| unable(&cause))?;
    Ok(OwnerSocket { inner, owner: rustix::process::geteuid().as_raw() })
}

impl axum::serve::Listener for OwnerSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, address)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == self.owner || peer.uid() == 0 => return (stream, address),
                    Ok(peer) => {
                        tracing::warn!(uid = peer.uid(), "another user was turned away from the local API")
                    }
                    Err(cause) => tracing::warn!(%cause, "a connection without credentials was turned away"),
                },
                Err(cause) => {
                    tracing::warn!(%cause, "a connection to the local API could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}
