//! Workloads: started, listed, shown, waited for, ended.

use super::answer::{Answer, Body, blocking, json};
use crate::node::Node;
use axum::extract::{Path, Query, State};
use ferry_model::api::{
    AdoptRequest, KillRequest, RunRequest, StopRequest, Waited, Workload, WorkloadDetail, WorkloadState,
};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::WorkloadId;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The signals that are sent here by number.
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// Between two looks whether a stopping workload has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The workloads of this host, also those that left.
#[utoipa::path(get, path = "/v1/workloads", tag = "workloads", responses((status = 200, body = Vec<Workload>)))]
pub async fn list(State(node): State<Arc<Node>>) -> Answer<Vec<Workload>> {
    json(move || {
        let mut list = node.workloads.list();
        list.iter_mut().for_each(|workload| node.note_move(workload));
        Ok(list)
    })
    .await
}

/// Starts a workload in a capsule of its own.
#[utoipa::path(post, path = "/v1/workloads", tag = "workloads", request_body = RunRequest,
    responses((status = 200, body = Workload), (status = "default", body = Error)))]
pub async fn run(State(node): State<Arc<Node>>, Body(request): Body<RunRequest>) -> Answer<Workload> {
    json(move || node.workloads.run(request)).await
}

/// Makes a workload of a process tree that already runs.
#[utoipa::path(post, path = "/v1/workloads/adopt", tag = "workloads", request_body = AdoptRequest,
    responses((status = 200, body = Workload), (status = "default", body = Error)))]
pub async fn adopt(State(node): State<Arc<Node>>, Body(request): Body<AdoptRequest>) -> Answer<Workload> {
    json(move || node.workloads.adopt(&request)).await
}

/// One workload, with its three segments.
#[utoipa::path(get, path = "/v1/workloads/{workload}", tag = "workloads",
    params(("workload" = String, Path, description = "Name, id, or the beginning of an id")),
    responses((status = 200, body = WorkloadDetail), (status = "default", body = Error)))]
pub async fn show(State(node): State<Arc<Node>>, Path(name): Path<String>) -> Answer<WorkloadDetail> {
    json(move || {
        let mut detail = node.workloads.detail(node.workloads.find(&name)?)?;
        node.note_move(&mut detail.workload);
        Ok(detail)
    })
    .await
}

/// How a workload is removed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    #[serde(default)]
    force: bool,
}

/// Forgets a workload, with its files.
#[utoipa::path(delete, path = "/v1/workloads/{workload}", tag = "workloads",
    params(("workload" = String, Path), ("force" = Option<bool>, Query, description = "Kill it if it still runs")),
    responses((status = 200, body = Workload), (status = "default", body = Error)))]
pub async fn remove(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Query(removal): Query<Removal>,
) -> Answer<Workload> {
    json(move || node.workloads.remove(node.workloads.find(&name)?, removal.force)).await
}

/// Answers when the workload has ended.
#[utoipa::path(get, path = "/v1/workloads/{workload}/wait", tag = "workloads", params(("workload" = String, Path)),
    responses((status = 200, body = Waited), (status = "default", body = Error)))]
pub async fn wait(State(node): State<Arc<Node>>, Path(name): Path<String>) -> Answer<Waited> {
    json(move || {
        let id = node.workloads.find(&name)?;
        Ok(Waited { id, exit: node.workloads.wait(id)? })
    })
    .await
}

/// Asks a workload to end, makes it after a while, and answers when it has.
#[utoipa::path(post, path = "/v1/workloads/{workload}/stop", tag = "workloads", params(("workload" = String, Path)),
    request_body = StopRequest, responses((status = 200, body = Workload), (status = "default", body = Error)))]
pub async fn stop(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Body(request): Body<StopRequest>,
) -> Answer<Workload> {
    json(move || {
        let id = node.workloads.find(&name)?;
        signal(&node, id, SIGTERM)?;
        if !ended_within(&node, id, Duration::from_millis(request.grace_ms.min(86_400_000)))? {
            signal(&node, id, SIGKILL)?;
            node.workloads.wait(id)?;
        }
        node.workloads.get(id)
    })
    .await
}

/// Sends a signal to a workload.
#[utoipa::path(post, path = "/v1/workloads/{workload}/kill", tag = "workloads", params(("workload" = String, Path)),
    request_body = KillRequest, responses((status = 200, body = Workload), (status = "default", body = Error)))]
pub async fn kill(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Body(request): Body<KillRequest>,
) -> Answer<Workload> {
    blocking(move || {
        if !(1..=64).contains(&request.signal) {
            return Err(Error::new(Kind::Usage, format!("{} is not a signal", request.signal)));
        }
        let id = node.workloads.find(&name)?;
        signal(&node, id, request.signal)?;
        node.workloads.get(id)
    })
    .await
    .map(axum::Json)
}

/// A signal may end what a move is carrying: while one is under way it is refused.
fn signal(node: &Node, id: WorkloadId, signal: i32) -> Result<()> {
    let workload = node.workloads.get(id)?;
    match workload.state {
        WorkloadState::Moving | WorkloadState::InDoubt => {
            Err(Error::new(Kind::Refused, format!("{} is on a move", workload.name))
                .hint("`ferry moves ls` shows it, `ferry moves cancel` gives it up"))
        }
        WorkloadState::Exited => Ok(()),
        _ => node.workloads.signal(id, signal),
    }
}

fn ended_within(node: &Node, id: WorkloadId, time: Duration) -> Result<bool> {
    let end = Instant::now() + time;
    loop {
        if node.workloads.get(id)?.exit.is_some() {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
