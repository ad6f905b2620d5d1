//! The API: HTTP with JSON and server-sent events, on a Unix socket that only the owner may use, and for operators over TLS
//! with a certificate. The CLI uses nothing else; `curl` works; `GET /v1/openapi.json` describes it.

mod answer;
mod hosts;
mod images;
mod logs;
mod moves;
mod openapi;
pub mod remote;
pub mod socket;
mod streams;
pub mod who;
mod workloads;

use crate::node::Node;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use std::sync::Arc;
use who::Who;

pub use openapi::document;

/// Longest body of a request, bytes: a plan names every resource of a workload.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Serves the API on `socket` until the process ends.
pub async fn serve(socket: socket::OwnerSocket, node: Arc<Node>) -> std::io::Result<()> {
    axum::serve(socket, router(node).layer(Extension(Who::Local))).await
}

/// Serves the API to operators until the process ends.
pub async fn serve_operators(listener: remote::OperatorListener, node: Arc<Node>) {
    let known = axum::middleware::from_fn_with_state(node.clone(), who::operator);
    let service = router(node).layer(known).into_make_service_with_connect_info::<Who>();
    if let Err(cause) = axum::serve(listener, service).await {
        tracing::error!(%cause, "the API for operators ended");
    }
}

fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v1/openapi.json", get(openapi::get))
        .route("/v1/node", get(hosts::node))
        .route("/v1/tokens", post(hosts::token))
        .route("/v1/operators", post(hosts::operator))
        .route("/v1/hosts", get(hosts::list))
        .route("/v1/hosts/{host}", get(hosts::show))
        .route("/v1/hosts/{host}", delete(hosts::put_out))
        .route("/v1/workloads", get(workloads::list).post(workloads::run))
        .route("/v1/workloads/adopt", post(workloads::adopt))
        .route("/v1/workloads/{workload}", get(workloads::show).delete(workloads::remove))
        .route("/v1/workloads/{workload}/logs", get(logs::logs))
        .route("/v1/workloads/{workload}/wait", get(workloads::wait))
        .route("/v1/workloads/{workload}/stop", post(workloads::stop))
        .route("/v1/workloads/{workload}/kill", post(workloads::kill))
        .route("/v1/workloads/{workload}/attach", post(streams::attach))
        .route("/v1/workloads/{workload}/exec", post(streams::exec))
        .route("/v1/workloads/{workload}/plan", post(moves::plan))
        .route("/v1/workloads/{workload}/estimate", post(moves::estimate))
        .route("/v1/workloads/{workload}/clone", post(moves::clone))
        .route("/v1/workloads/{workload}/checkpoint", post(images::checkpoint))
        .route("/v1/restore", post(images::restore))
        .route("/v1/workloads/{workload}/recovery", get(moves::recovery).post(moves::recover))
        .route("/v1/moves", get(moves::list).post(moves::begin))
        .route("/v1/moves/{id}", get(moves::show))
        .route("/v1/moves/{id}/events", get(moves::events))
        .route("/v1/moves/{id}/cancel", post(moves::cancel))
        .fallback(answer::no_such_path)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(node)
}
