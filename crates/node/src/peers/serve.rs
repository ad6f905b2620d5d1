//! What is done with an authenticated connection: its greeting says what it is for.

use super::wire::{Reply, Request};
use crate::frame;
use crate::trust::join::{JoinAnswer, JoinRequest};
use ferry_model::error::{Error, Result};
use ferry_model::ids::HostName;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::greeting::{self, Hello, Purpose};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long a peer may be silent before it has said what it wants.
const GREETING_TIME_MAX: Duration = Duration::from_secs(10);

/// How long it may take to send one request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// The node behind the listener. Called on threads that may block; `from` is always the name in the certificate.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request.
    fn answer(&self, from: &HostName, request: Request) -> Result<Reply>;

    /// Takes a connection of a move, after its greeting.
    fn moving(&self, from: HostName, hello: Hello, stream: Box<dyn Stream>);

    /// Decides about a host that wants to join.
    fn join(&self, request: &JoinRequest) -> Result<JoinAnswer>;

    /// Somebody was turned away before it had a name.
    fn turned_away(&self, address: &str, why: &str);
}

/// Serves one connection of `from` until it ends.
pub fn serve(mut stream: Box<dyn Stream>, from: &HostName, handler: &dyn Handler) {
    match greet(&mut stream, from) {
        Err(cause) => tracing::debug!(%from, %cause, "a peer's greeting failed"),
        Ok(hello) if hello.purpose == Purpose::Node => {
            if let Err(error) = answer(&mut stream, from, handler) {
                tracing::debug!(%from, %error, "a peer's request failed");
            }
        }
        Ok(hello) => {
            let _ = stream.set_timeout(None);
            handler.moving(from.clone(), hello, stream);
        }
    }
}

fn greet(stream: &mut Box<dyn Stream>, from: &HostName) -> io::Result<Hello> {
    stream.set_timeout(Some(GREETING_TIME_MAX))?;
    let hello = greeting::accept(stream)?;
    if hello.host != *from {
        let why = format!("It calls itself {}, and its certificate says {from}", hello.host);
        greeting::refuse(stream, &why)?;
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    greeting::welcome(stream, &hello)?;
    Ok(hello)
}

fn answer(stream: &mut Box<dyn Stream>, from: &HostName, handler: &dyn Handler) -> Result<()> {
    let limit = |cause: io::Error| Error::from_source(ferry_model::error::Kind::Unable, &cause);
    stream.set_timeout(Some(REQUEST_TIME_MAX)).map_err(limit)?;
    let request: Request = frame::receive(stream)?;
    let reply = handler.answer(from, request).unwrap_or_else(|error| Reply::Failed { error });
    frame::send(stream, &reply)
}

/// Serves one host that joins.
pub fn serve_joiner(mut stream: UnixStream, handler: &dyn Handler) {
    let limited = stream
        .set_read_timeout(Some(GREETING_TIME_MAX))
        .and_then(|()| stream.set_write_timeout(Some(GREETING_TIME_MAX)));
    if limited.is_err() {
        return;
    }
    let asked = frame::receive::<JoinRequest>(&mut stream);
    let answer = asked
        .and_then(|request| handler.join(&request))
        .unwrap_or_else(|error| JoinAnswer::Refused { error });
    if let Err(error) = frame::send(&mut stream, &answer) {
        tracing::debug!(%error, "a joiner did not hear the answer");
    }
}
