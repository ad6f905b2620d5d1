//! What a move would cost, measured on the running workload.

use crate::event::MethodChosen;
use crate::ids::{HostName, WorkloadId};
use crate::strategy::measured::Measured;
use crate::strategy::options::LiveOptions;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks what a move would cost; nothing is sent, and nothing of the workload changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EstimateRequest {
    /// Where it would go.
    pub to: HostName,
    /// What would be asked of the method.
    #[serde(default)]
    pub live: LiveOptions,
}

/// What each method is predicted to cost, and what that was computed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Estimate {
    /// Which workload.
    pub workload: WorkloadId,
    /// From here.
    pub source: HostName,
    /// To there.
    pub target: HostName,
    /// What was measured, and what was taken for the rest.
    pub measured: Measured,
    /// How long it was looked at, microseconds.
    pub looked_us: u64,
    /// The method that `auto` chooses by it, with all predictions.
    pub chosen: MethodChosen,
    /// Where each figure that was not measured now is from, in sentences.
    pub assumed: Vec<String>,
}
