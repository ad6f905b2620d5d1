//! The client of a node's API: HTTP with JSON on a Unix socket, or over TLS as an operator. The CLI uses nothing else, so
//! whatever it can do, `curl` can do too.

use ferry_model::error::{Error, Kind, Result};
use ferry_node::remote::Remote;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Answers longer than this are not from a node, bytes.
const ANSWER_MAX: usize = 256 << 20;

/// Where the node is.
enum Way {
    /// On this host.
    Socket(PathBuf),
    /// Elsewhere.
    Remote(Remote),
}

/// A node that answers.
pub struct Client {
    way: Way,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Looks whether a node listens at `socket`.
    pub fn connect(socket: &Path) -> Result<Self> {
        UnixStream::connect(socket).map_err(|cause| unreachable_node(socket, &cause))?;
        Self::new(Way::Socket(socket.to_owned()))
    }

    /// The node at `url`, for the operator whose files are in `identity`. It is reached with the first request.
    pub fn remote(url: &str, identity: &Path) -> Result<Self> {
        Self::new(Way::Remote(Remote::new(url, identity)?))
    }

    fn new(way: Way) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|cause| Error::from_source(Kind::Unable, &cause))?;
        Ok(Self { way, runtime })
    }

    /// A new connection to the node.
    pub fn open(&self) -> Result<UnixStream> {
        match &self.way {
            Way::Socket(path) => UnixStream::connect(path).map_err(|cause| unreachable_node(path, &cause)),
            Way::Remote(remote) => remote.open(),
        }
    }

    /// `GET path`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, None)
    }

    /// `POST path` with `body` as JSON.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|cause| crate::failure::bug(&cause))?;
        self.call(Method::POST, path, Some(body))
    }

    /// `DELETE path`.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::DELETE, path, None)
    }

    /// `GET path`, handing over the body piece by piece as it arrives.
    pub fn pieces(&self, path: &str, mut each: impl FnMut(&[u8]) -> Result<ControlFlow<()>>) -> Result<()> {
        let stream = self.open()?;
        self.runtime.block_on(async {
            let response = self.send(stream, Method::GET, path, None).await?;
            if !response.status().is_success() {
                return Err(refusal(response).await);
            }
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|cause| self.broken(&cause))?;
                if let Some(data) = frame.data_ref()
                    && each(data)?.is_break()
                {
                    break;
                }
            }
            Ok(())
        })
    }

    /// `GET path` as server-sent events, each handed over as it arrives. `Ok(false)` if Ctrl-C ended the listening.
    pub fn events<T: DeserializeOwned>(
        &self,
        path: &str,
        mut each: impl FnMut(T) -> Result<ControlFlow<()>>,
    ) -> Result<bool> {
        let stream = self.open()?;
        self.runtime.block_on(async {
            let response = self.send(stream, Method::GET, path, None).await?;
            if !response.status().is_success() {
                return Err(refusal(response).await);
            }
            let mut body = response.into_body();
            let mut buffer: Vec<u8> = Vec::new();
            let interrupt = tokio::signal::ctrl_c();
            tokio::pin!(interrupt);
            loop {
                let frame = tokio::select! {
                    frame = body.frame() => frame,
                    _ = &mut interrupt => return Ok(false),
                };
                let Some(frame) = frame else { return Ok(true) };
                let frame = frame.map_err(|cause| self.broken(&cause))?;
                buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
                if buffer.len() > ANSWER_MAX {
                    return Err(Error::new(Kind::Bug, "The node sent an event without an end"));
                }
                while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                    let event: Vec<u8> = buffer.drain(..end + 2).collect();
                    if let Some(value) = parse_event(&event)?
                        && each(value)?.is_break()
                    {
                        return Ok(true);
                    }
                }
            }
        })
    }

    fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<T> {
        let stream = self.open()?;
        self.runtime.block_on(async {
            let response = self.send(stream, method, path, body).await?;
            if !response.status().is_success() {
                return Err(refusal(response).await);
            }
            let bytes = collect(response).await?;
            let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            serde_json::from_slice(bytes).map_err(|cause| {
                Error::from_source(Kind::Bug, &cause)
                    .context("The node's answer was not understood")
                    .hint("`ferry --version` and `ferry node status` tell whether both are of one version")
            })
        })
    }

    /// Why the connection broke; of a node elsewhere, what was found out about it.
    pub fn broken(&self, cause: &(dyn std::error::Error + 'static)) -> Error {
        let known = match &self.way {
            Way::Socket(_) => None,
            Way::Remote(remote) => remote.why_broken(),
        };
        known.unwrap_or_else(|| {
            Error::from_source(Kind::Unable, cause).context("The connection to the node broke")
        })
    }

    async fn send(
        &self,
        stream: UnixStream,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>> {
        let stream = stream.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(stream));
        let stream = stream.map_err(|cause| self.broken(&cause))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|cause| self.broken(&cause))?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "ferry");
        let request =
            if body.is_some() { request.header("content-type", "application/json") } else { request };
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())));
        let request = request.map_err(|cause| crate::failure::bug(&cause))?;
        sender.send_request(request).await.map_err(|cause| self.broken(&cause))
    }
}

/// A text as one segment of a path.
pub fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The data lines of one server-sent event, as JSON. Comments (keep-alive) have none.
fn parse_event<T: DeserializeOwned>(event: &[u8]) -> Result<Option<T>> {
    let text = String::from_utf8_lossy(event);
    let data: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
    if data.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&data.join("\n")).map(Some).map_err(|cause| crate::failure::bug(&cause))
}

async fn collect(response: Response<Incoming>) -> Result<Bytes> {
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER_MAX);
    let collected = limited.collect().await;
    collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|cause| Error::new(Kind::Unable, "The node broke off its answer").context(cause.to_string()))
}

/// What the node said instead of a result: its error, whole.
async fn refusal(response: Response<Incoming>) -> Error {
    let status = response.status();
    match collect(response).await {
        Ok(body) => error_of(status, &body),
        Err(error) => error,
    }
}

/// The error in the body of an answer; if there is none, one that tells the status.
pub fn error_of(status: StatusCode, body: &[u8]) -> Error {
    serde_json::from_slice::<Error>(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        Error::new(Kind::Bug, format!("The node answered {status}: {}", text.trim()))
    })
}

/// No node at the socket.
pub fn unreachable_node(socket: &Path, cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::from_source(Kind::Unable, cause)
        .context(format!("No node answers at {}", socket.display()))
        .hint("start one with `ferry node up` (once before: `ferry node init`)")
        .hint("or name its socket's directory with --run or FERRY_RUN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_segment() {
        assert_eq!(segment("web-1"), "web-1");
        assert_eq!(segment("a/b c"), "a%2Fb%20c");
    }

    #[test]
    fn events_are_data_lines_and_comments_are_none() {
        assert_eq!(parse_event::<u32>(b"event: x\ndata: 7\n\n").unwrap(), Some(7));
        assert_eq!(parse_event::<u32>(b": keep-alive\n\n").unwrap(), None);
    }
}
