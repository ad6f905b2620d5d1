//! The node, the hosts, and who is let in.

use super::answer::{Answer, Body, json};
use super::who::Who;
use crate::node::Node;
use axum::Extension;
use axum::extract::{Path, State};
use ferry_model::api::{Host, HostDetail, NodeStatus, OperatorRequest, OperatorSigned, Token, TokenRequest};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use std::sync::Arc;

/// This node and its place in the fleet.
#[utoipa::path(get, path = "/v1/node", tag = "node", responses((status = 200, body = NodeStatus)))]
pub async fn node(State(node): State<Arc<Node>>) -> Answer<NodeStatus> {
    json(move || Ok(node.status())).await
}

/// Makes a join token for one name, good once. Only the authority's node does.
#[utoipa::path(post, path = "/v1/tokens", tag = "node", request_body = TokenRequest,
    responses((status = 200, body = Token), (status = "default", body = Error)))]
pub async fn token(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Who>,
    Body(request): Body<TokenRequest>,
) -> Answer<Token> {
    json(move || node.token(&who, &request)).await
}

/// Makes an operator, who may use this API from elsewhere: signs the key of a PKCS#10 request. Only the authority's node does.
#[utoipa::path(post, path = "/v1/operators", tag = "node", request_body = OperatorRequest,
    responses((status = 200, body = OperatorSigned), (status = "default", body = Error)))]
pub async fn operator(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Who>,
    Body(request): Body<OperatorRequest>,
) -> Answer<OperatorSigned> {
    json(move || node.operator(&who, &request)).await
}

/// The hosts of the fleet, each asked whether it is there.
#[utoipa::path(get, path = "/v1/hosts", tag = "hosts", responses((status = 200, body = Vec<Host>)))]
pub async fn list(State(node): State<Arc<Node>>) -> Answer<Vec<Host>> {
    json(move || Ok(node.hosts())).await
}

/// One host, with what it says of itself.
#[utoipa::path(get, path = "/v1/hosts/{host}", tag = "hosts", params(("host" = HostName, Path)),
    responses((status = 200, body = HostDetail), (status = "default", body = Error)))]
pub async fn show(State(node): State<Arc<Node>>, Path(host): Path<String>) -> Answer<HostDetail> {
    json(move || node.host_detail(&parse(host)?)).await
}

/// Puts a host or an operator out of the fleet, at once. Only the authority's node does.
#[utoipa::path(delete, path = "/v1/hosts/{host}", tag = "hosts", params(("host" = HostName, Path)),
    responses((status = 200, body = Host), (status = "default", body = Error)))]
pub async fn put_out(
    State(node): State<Arc<Node>>,
    Extension(who): Extension<Who>,
    Path(host): Path<String>,
) -> Answer<Host> {
    json(move || node.put_out(&who, &parse(host)?)).await
}

fn parse(host: String) -> Result<HostName> {
    HostName::new(host).map_err(|cause| Error::from_source(Kind::Usage, &cause))
}
