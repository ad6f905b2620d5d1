//! Moves: things with an id that are listed, followed and cancelled.

use super::With;
use crate::error::Error;
use crate::event::{Event, Summary};
use crate::ids::{HostName, MoveId, WorkloadId};
use crate::plan::Plan;
use crate::planning::Method;
use crate::strategy::options::LiveOptions;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for a plan; changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Where it would go.
    pub to: HostName,
    /// How state would travel.
    #[serde(default)]
    pub method: Method,
    /// Connections that cannot move would be ended.
    #[serde(default)]
    pub end_connections: bool,
    /// Paths that the workload needs, beside those that were named when it began.
    #[serde(default)]
    pub with: Vec<With>,
}

/// Asks for moves. With `from` the receiver begins it; without, the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// Workloads by name, id or the beginning of an id.
    pub workloads: Vec<String>,
    /// Where they go.
    pub to: HostName,
    /// Where they are fetched from; none: from the node that is asked.
    #[serde(default)]
    pub from: Option<HostName>,
    /// How state travels.
    #[serde(default)]
    pub method: Method,
    /// What is asked of a method that copies while the workload runs.
    #[serde(default)]
    pub live: LiveOptions,
    /// Exactly this plan, or refuse. Only with one workload.
    #[serde(default)]
    pub plan: Option<Plan>,
    /// Connections that cannot move, since they are of the host's own address, are ended: their peers get a reset.
    #[serde(default)]
    pub end_connections: bool,
    /// Paths that the workload needs, beside those that were named when it began; noted for it. Only with one workload, begun by the
    /// sender.
    #[serde(default)]
    pub with: Vec<With>,
}

/// Which end of a move this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoveRole {
    /// The workload leaves.
    Source,
    /// The workload arrives.
    Target,
}

/// Where a move stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoveState {
    /// Under way.
    #[n(0)]
    Running,
    /// The workload runs at the target.
    #[n(1)]
    Done,
    /// It was given up; the workload runs at the source.
    #[n(2)]
    RolledBack,
    /// Refused before anything was touched.
    #[n(3)]
    Refused,
    /// Nobody knows yet: both sides stay frozen and ask the decider.
    #[n(4)]
    InDoubt,
    /// The workload runs at the target; pages of it are still at the source, and follow.
    #[n(5)]
    Draining,
    /// As draining, and there is no way to the source: who touches a page that is missing waits.
    #[n(6)]
    Paused,
}

impl MoveState {
    /// Whether it will still become something else by itself.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Running | Self::Draining | Self::Paused)
    }
}

/// One move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Move {
    /// Its identity, the same at both ends.
    pub id: MoveId,
    /// What moves.
    pub workload: WorkloadId,
    /// The workload's name.
    pub name: String,
    /// From here.
    pub source: HostName,
    /// To there.
    pub target: HostName,
    /// Which end this host is.
    pub role: MoveRole,
    /// Whether the original goes on.
    pub clone: bool,
    /// How state travels.
    pub method: Method,
    /// Where it stands.
    pub state: MoveState,
    /// When it began, seconds since 1970.
    pub began_unix: u64,
    /// Time that the workload stood still, once known.
    pub downtime_us: Option<u64>,
    /// Time from begin to end, once it ended.
    pub total_us: Option<u64>,
    /// Why it did not end well.
    pub error: Option<Error>,
    /// Its rounds, bytes and times, as far as they are known.
    #[serde(default)]
    pub summary: Summary,
    /// Everything that happened so far.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// An event on the stream of a move, with the move that it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TimedEvent {
    /// Which move.
    #[serde(rename = "move")]
    pub id: MoveId,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
