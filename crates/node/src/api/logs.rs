//! What a workload wrote, as it is, and on as it writes. Plain bytes: `curl` shows it as `ferry logs` does.

use super::answer::{Refusal, blocking};
use crate::node::Node;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::WorkloadId;
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Sender;

/// Bytes read at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Between two looks whether there is more.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How the log is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    #[serde(default)]
    follow: bool,
}

/// What the workload wrote to its standard output and error.
#[utoipa::path(get, path = "/v1/workloads/{workload}/logs", tag = "workloads",
    params(("workload" = String, Path), ("follow" = Option<bool>, Query, description = "Go on until the workload ends")),
    responses((status = 200, body = String, content_type = "application/octet-stream"), (status = "default", body = Error)))]
pub async fn logs(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Query(reading): Query<Reading>,
) -> Result<Response, Refusal> {
    let (send, receive) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(8);
    blocking(move || {
        let id = node.workloads.find(&name)?;
        let path = node.workloads.log(id);
        let file = match File::open(&path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => None,
            opened => Some(opened.map_err(|cause| {
                Error::from_source(Kind::Unable, &cause)
                    .context(format!("{} could not be read", path.display()))
            })?),
        };
        std::thread::spawn(move || {
            if let Some(file) = file {
                pass_on(&node, id, file, reading.follow, &send);
            }
        });
        Ok(())
    })
    .await?;
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
    Response::builder()
        .header("content-type", "application/octet-stream")
        .body(body)
        .map_err(|cause| Refusal(Error::from_source(Kind::Bug, &cause)))
}

fn pass_on(node: &Node, id: WorkloadId, mut file: File, follow: bool, to: &Sender<std::io::Result<Bytes>>) {
    let mut piece = vec![0; PIECE_BYTES];
    let mut over = !follow;
    loop {
        match file.read(&mut piece) {
            Ok(0) if over => return,
            Ok(0) => {
                if to.is_closed() {
                    return;
                }
                // Looked at before the last read: what it wrote until its end is read yet.
                over = node.workloads.get(id).map_or(true, |workload| workload.pid.is_none());
                std::thread::sleep(LOOK_EVERY);
            }
            Ok(count) => {
                if to.blocking_send(Ok(Bytes::copy_from_slice(&piece[..count]))).is_err() {
                    return;
                }
            }
            Err(cause) => {
                let _ = to.blocking_send(Err(cause));
                return;
            }
        }
    }
}
