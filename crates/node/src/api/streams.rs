//! `attach` and `exec`: after an upgrade the connection carries the shim's frames both ways, passed on as they are.

use super::answer::{Body, Refusal, blocking};
use crate::node::Node;
use crate::passing::pass_on;
use axum::body::Body as HttpBody;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use ferry_model::api::ExecRequest;
use ferry_model::error::{Error, Kind, Result};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Name of the protocol after the upgrade.
pub const PROTOCOL: &str = "ferry-stdio/1";

/// Bytes passed on at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Nothing is asked for yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AttachRequest {}

/// Joins this connection to the workload's terminal or output: send `Upgrade: ferry-stdio/1`. Frames follow: a kind
/// (1 output, 2 error output, 3 input, 4 size, 5 exit code, 6 signal), a length of 4 bytes (little endian), the bytes.
#[utoipa::path(post, path = "/v1/workloads/{workload}/attach", tag = "workloads", params(("workload" = String, Path)),
    responses((status = 101, description = "Frames follow"), (status = "default", body = Error)))]
pub async fn attach(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    upgraded::<AttachRequest>(request, move |_| node.workloads.attach(node.workloads.find(&name)?)).await
}

/// Runs another program inside; the connection becomes its standard streams, as with `attach`.
#[utoipa::path(post, path = "/v1/workloads/{workload}/exec", tag = "workloads", params(("workload" = String, Path)),
    request_body = ExecRequest, responses((status = 101, description = "Frames follow"), (status = "default", body = Error)))]
pub async fn exec(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    upgraded::<ExecRequest>(request, move |asked| node.workloads.exec(node.workloads.find(&name)?, asked))
        .await
}

async fn upgraded<T: serde::de::DeserializeOwned + Send + 'static>(
    mut request: Request,
    open: impl FnOnce(T) -> Result<UnixStream> + Send + 'static,
) -> Result<Response, Refusal> {
    let wanted = request.headers().get(header::UPGRADE).is_some_and(|value| value == PROTOCOL);
    if !wanted {
        return Err(Refusal(Error::new(
            Kind::Usage,
            format!("This needs a connection that upgrades to {PROTOCOL}"),
        )));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let Body(asked) = Body::<T>::from_request(request, &()).await?;
    let stream = blocking(move || open(asked)).await?;
    let ready = stream.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(stream));
    let shim = ready.map_err(|cause| Refusal(Error::from_source(Kind::Unable, &cause)))?;
    tokio::spawn(async move {
        match upgrade.await {
            Ok(client) => {
                let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
                let (shim_read, shim_write) = shim.into_split();
                let input = tokio::spawn(pass_on(client_read, shim_write, BUFFER_BYTES));
                pass_on(shim_read, client_write, BUFFER_BYTES).await;
                input.abort();
            }
            Err(cause) => tracing::debug!(%cause, "a stream did not come about"),
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(HttpBody::empty())
        .map_err(|cause| Refusal(Error::from_source(Kind::Bug, &cause)))
}
