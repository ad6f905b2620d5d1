//! Plans and moves.

use super::answer::{Answer, Body, Refusal, blocking, json};
use crate::node::Node;
use axum::extract::{Path, State};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use ferry_model::api::{
    CloneRequest, Estimate, EstimateRequest, Move, MoveRequest, PlanRequest, Recovery, RecoveryChoice,
    TimedEvent,
};
use ferry_model::error::Error;
use ferry_model::plan::Plan;
use std::convert::Infallible;
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;

/// What a move would do, resource by resource. Changes nothing.
#[utoipa::path(post, path = "/v1/workloads/{workload}/plan", tag = "moves", params(("workload" = String, Path)),
    request_body = PlanRequest, responses((status = 200, body = Plan), (status = "default", body = Error)))]
pub async fn plan(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Body(request): Body<PlanRequest>,
) -> Answer<Plan> {
    json(move || node.plan(&name, &request)).await
}

/// What a move would cost, by each method: the workload is measured for a second and a half. Nothing is sent.
#[utoipa::path(post, path = "/v1/workloads/{workload}/estimate", tag = "moves", params(("workload" = String, Path)),
    request_body = EstimateRequest, responses((status = 200, body = Estimate), (status = "default", body = Error)))]
pub async fn estimate(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Body(request): Body<EstimateRequest>,
) -> Answer<Estimate> {
    json(move || node.estimate(&name, &request)).await
}

/// Begins a remote cloning; the original goes on.
#[utoipa::path(post, path = "/v1/workloads/{workload}/clone", tag = "moves", params(("workload" = String, Path)),
    request_body = CloneRequest, responses((status = 200, body = Move), (status = "default", body = Error)))]
pub async fn clone(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Body(request): Body<CloneRequest>,
) -> Answer<Move> {
    json(move || node.begin_clone(&name, request)).await
}

/// Begins moves and answers at once; follow them by their events.
#[utoipa::path(post, path = "/v1/moves", tag = "moves", request_body = MoveRequest,
    responses((status = 200, body = Vec<Move>), (status = "default", body = Error)))]
pub async fn begin(State(node): State<Arc<Node>>, Body(request): Body<MoveRequest>) -> Answer<Vec<Move>> {
    json(move || node.begin_moves(request)).await
}

/// The moves in which this host takes or took part, without their events.
#[utoipa::path(get, path = "/v1/moves", tag = "moves", responses((status = 200, body = Vec<Move>)))]
pub async fn list(State(node): State<Arc<Node>>) -> Answer<Vec<Move>> {
    json(move || node.list_moves()).await
}

/// One move, with its events so far.
#[utoipa::path(get, path = "/v1/moves/{id}", tag = "moves",
    params(("id" = String, Path, description = "Id, or the beginning of it")),
    responses((status = 200, body = Move), (status = "default", body = Error)))]
pub async fn show(State(node): State<Arc<Node>>, Path(id): Path<String>) -> Answer<Move> {
    json(move || node.get_move(&id)).await
}

/// Gives a move up, as long as nothing is decided; the workload goes on at the source.
#[utoipa::path(post, path = "/v1/moves/{id}/cancel", tag = "moves", params(("id" = String, Path)),
    responses((status = 200, body = Move), (status = "default", body = Error)))]
pub async fn cancel(State(node): State<Arc<Node>>, Path(id): Path<String>) -> Answer<Move> {
    json(move || node.cancel_move(&id)).await
}

/// Server-sent events: everything that happened in the move so far, then what happens, until its end.
#[utoipa::path(get, path = "/v1/moves/{id}/events", tag = "moves", params(("id" = String, Path)),
    responses((status = 200, body = TimedEvent, content_type = "text/event-stream"), (status = "default", body = Error)))]
pub async fn events(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
) -> Result<Sse<impl futures_util::Stream<Item = Result<SseEvent, Infallible>>>, Refusal> {
    let (send, receive) = tokio::sync::mpsc::channel(64);
    blocking(move || {
        let id = node.get_move(&id)?.id;
        std::thread::spawn(move || {
            let mut seen = 0;
            while !send.is_closed() {
                let Ok((events, ended)) = node.follow_move(id, seen) else { return };
                seen += events.len();
                for event in events {
                    let Ok(data) = SseEvent::default().json_data(TimedEvent { id, event }) else { return };
                    if send.blocking_send(Ok(data)).is_err() {
                        return;
                    }
                }
                if ended {
                    return;
                }
            }
        });
        Ok(())
    })
    .await?;
    Ok(Sse::new(ReceiverStream::new(receive)).keep_alive(KeepAlive::default()))
}

/// Where a workload stands after trouble, and what can safely be done.
#[utoipa::path(get, path = "/v1/workloads/{workload}/recovery", tag = "trouble", params(("workload" = String, Path)),
    responses((status = 200, body = Recovery), (status = "default", body = Error)))]
pub async fn recovery(State(node): State<Arc<Node>>, Path(name): Path<String>) -> Answer<Recovery> {
    json(move || node.recovery(&name)).await
}

/// Does one of the safe actions.
#[utoipa::path(post, path = "/v1/workloads/{workload}/recovery", tag = "trouble", params(("workload" = String, Path)),
    request_body = RecoveryChoice, responses((status = 200, body = Recovery), (status = "default", body = Error)))]
pub async fn recover(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Body(choice): Body<RecoveryChoice>,
) -> Answer<Recovery> {
    json(move || node.recover(&name, &choice)).await
}
