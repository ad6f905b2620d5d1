//! Joins a TLS connection to a socket pair, so that everything above it can be plain blocking code, and so that an end of
//! it could be given to another process. Each direction is copied by one task of the runtime.

use super::open::{Ending, Entered, Open};
use crate::passing::pass_on;
use ferry_model::ids::HostName;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Bytes copied at once, each way: large enough that page frames do not wait for the scheduler.
const BUFFER_BYTES: usize = 256 * 1024;

/// Returns the blocking end of a pair whose other end is joined to `tls` until either side closes or the peer, known as
/// `name` by the certificate numbered `serial`, is put out.
pub fn join(
    tls: TlsStream<TcpStream>,
    open: &Arc<Open>,
    name: &HostName,
    serial: &[u8],
) -> io::Result<UnixStream> {
    join_holding(tls, open, name, serial, ())
}

/// As [`join`], and keeps `held` until the connection has ended.
pub fn join_holding(
    tls: TlsStream<TcpStream>,
    open: &Arc<Open>,
    name: &HostName,
    serial: &[u8],
    held: impl Send + 'static,
) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let theirs = tokio::net::UnixStream::from_std(theirs)?;
    let (begin, begun) = tokio::sync::oneshot::channel::<Entered>();
    let task = tokio::spawn(async move {
        let _held = held;
        // It is dropped also when the task is aborted.
        let Ok(_entered) = begun.await else { return };
        let (tls_read, tls_write) = tokio::io::split(tls);
        let (ours_read, ours_write) = theirs.into_split();
        // How it ended is seen by both ends: they read an end of file.
        let (inwards, outwards) =
            (pass_on(tls_read, ours_write, BUFFER_BYTES), pass_on(ours_read, tls_write, BUFFER_BYTES));
        tokio::join!(inwards, outwards);
    });
    let entered = open.enter(name, serial, Ending::Task(task.abort_handle()));
    begin.send(entered).map_err(|_| io::Error::other("The runtime is going down"))?;
    Ok(ours)
}
