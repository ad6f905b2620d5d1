//! This node and its place in the fleet.

use crate::ids::{BootId, HostName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `GET /v1/node` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// This host's name in the fleet.
    pub name: HostName,
    /// Ferry's version.
    pub version: String,
    /// Process id of the node.
    pub pid: u32,
    /// The boot that it runs in.
    pub boot: BootId,
    /// Where peers reach it; none while it listens to nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Where operators reach this API; none while only the local socket serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// The authority of its fleet.
    pub authority: AuthorityStatus,
    /// Operators whose certificates hold.
    #[serde(default)]
    pub operators: Vec<Operator>,
    /// Workloads registered here, running or not.
    pub workloads: usize,
    /// Moves under way.
    pub moves: usize,
    /// What is kept on its disk of the memory of workloads that have left, bytes.
    #[serde(default)]
    pub visits_bytes: u64,
    /// How much of that may be kept, bytes; 0: nothing is.
    #[serde(default)]
    pub visits_bytes_max: u64,
    /// Seconds since the node began.
    pub uptime_seconds: u64,
}

/// The authority of the fleet, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuthorityStatus {
    /// Node that holds the authority's key.
    pub node: HostName,
    /// SHA-256 of the authority's certificate, hexadecimal.
    pub fingerprint: String,
    /// Whether it is this node.
    pub here: bool,
    /// Version of the list of members that this node has.
    pub members_version: u64,
}

/// Asks the authority for a token by which one host may join under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Name of the host that will join.
    pub name: HostName,
    /// For how long the token is good.
    #[serde(default = "an_hour")]
    pub valid_seconds: u64,
}

/// A join token. Whoever holds it can join once, under that name: treat it as a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// The token itself.
    pub token: String,
    /// The only name that it is good for.
    pub name: HostName,
    /// When it ends, seconds since 1970.
    pub expires_unix: u64,
}

/// Who may use the API from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operator {
    /// Its name.
    pub name: HostName,
    /// When its certificate ends, seconds since 1970.
    pub expires_unix: u64,
}

/// Asks the authority to make an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorRequest {
    /// Its name; no host has it.
    pub name: HostName,
    /// Request for a certificate (PKCS#10, PEM). Only its key counts.
    pub request: String,
    /// For how long the certificate is good.
    #[serde(default = "ninety_days")]
    pub valid_seconds: u64,
}

/// An operator's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorSigned {
    /// The operator's name.
    pub name: HostName,
    /// Its certificate, PEM.
    pub certificate: String,
    /// The certificate of the fleet's authority, by which nodes are recognised, PEM.
    pub authority: String,
    /// When the operator's certificate ends, seconds since 1970.
    pub expires_unix: u64,
}

fn ninety_days() -> u64 {
    90 * 86_400
}

fn an_hour() -> u64 {
    3600
}
