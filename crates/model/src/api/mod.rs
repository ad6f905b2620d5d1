//! The types of the local API: what `curl`, the CLI and the OpenAPI document agree on.
//!
//! They are JSON with names of whole words, units last. Requests refuse fields that they do not know, so that a
//! mistyped option is an error and not a default; answers may grow, and clients skip what they do not know.

mod estimate;
mod host;
mod image;
mod moves;
mod node;
mod schema;
mod trouble;
mod workload;

pub use estimate::{Estimate, EstimateRequest};
pub use host::{Host, HostDetail};
pub use image::{CheckpointReport, CheckpointRequest, RestoreReport, RestoreRequest};
pub use moves::{Move, MoveRequest, MoveRole, MoveState, PlanRequest, TimedEvent};
pub use node::{AuthorityStatus, NodeStatus, Operator, OperatorRequest, OperatorSigned, Token, TokenRequest};
pub use trouble::{Doctor, Finding, Recovery, RecoveryAction, RecoveryChoice};
pub use workload::{
    AdoptRequest, CloneRequest, ExecRequest, Exit, KillRequest, RunRequest, Segments, StopRequest, Waited,
    With, Workload, WorkloadDetail, WorkloadState,
};
