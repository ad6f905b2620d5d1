//! Workloads into images, and back.

use super::answer::{Answer, Body, json};
use crate::node::Node;
use axum::extract::{Path, State};
use ferry_model::api::{CheckpointReport, CheckpointRequest, RestoreReport, RestoreRequest};
use ferry_model::error::Error;
use std::sync::Arc;

/// Writes a workload into an image; unless it is to go on, the image is the workload from then on.
#[utoipa::path(post, path = "/v1/workloads/{workload}/checkpoint", tag = "images", params(("workload" = String, Path)),
    request_body = CheckpointRequest,
    responses((status = 200, body = CheckpointReport), (status = "default", body = Error)))]
pub async fn checkpoint(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Body(request): Body<CheckpointRequest>,
) -> Answer<CheckpointReport> {
    json(move || node.checkpoint(&name, &request)).await
}

/// Lets an image run again: the workload that it is, once; or, as a clone, a new one.
#[utoipa::path(post, path = "/v1/restore", tag = "images", request_body = RestoreRequest,
    responses((status = 200, body = RestoreReport), (status = "default", body = Error)))]
pub async fn restore(
    State(node): State<Arc<Node>>,
    Body(request): Body<RestoreRequest>,
) -> Answer<RestoreReport> {
    json(move || node.restore(&request)).await
}
