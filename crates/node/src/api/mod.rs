//! The local API: HTTP with JSON and server-sent events on a Unix socket that only the owner may use. The CLI uses nothing
//! else; `curl --unix-socket` works; `GET /v1/openapi.json` describes it.

mod answer;
mod hosts;
mod images;
mod logs;
mod moves;
mod openapi;
pub mod socket;
mod streams;
mod workloads;

use crate::node::Node;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};
use std::sync::Arc;

pub use openapi::document;

/// Longest body of a request, bytes: a plan names every resource of a workload.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Serves the API on `socket` until the process ends.
pub async fn serve(socket: socket::OwnerSocket, node: Arc<Node>) -> std::io::Result<()> {
    axum::serve(socket, router(node)).await
}

fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v1/openapi.json", get(openapi::get))
        .route("/v1/node", get(hosts::node))
        .route("/v1/tokens", post(hosts::token))
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
