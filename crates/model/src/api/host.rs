//! Hosts of the fleet and what they can do.

use crate::ids::HostName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One host, as `ferry host ls` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Its name: what every `--to` and `--node` accepts.
    pub name: HostName,
    /// Whether it is the host that answers.
    pub here: bool,
    /// Where it is reached.
    pub address: Option<String>,
    /// Whether it answered just now; none: not asked.
    pub reachable: Option<bool>,
    /// Whether it was removed from the fleet.
    pub removed: bool,
}

/// One host in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostDetail {
    /// The line of the list.
    #[serde(flatten)]
    pub host: Host,
    /// What it answered about itself; none: it did not answer.
    pub facts: Option<HostFacts>,
}

/// What a host says about itself for plans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostFacts {
    /// Kernel release.
    pub kernel: String,
    /// Machine architecture, as the kernel names it.
    pub machine: String,
    /// Processors online.
    pub processors: u32,
    /// Memory of the host, bytes.
    pub memory_bytes: u64,
    /// Memory that can be had without swapping, bytes.
    pub memory_available_bytes: u64,
    /// Kernel features by name, probed by effect.
    pub features: BTreeMap<String, Feature>,
}

/// One probed feature of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Feature {
    /// Whether it works here.
    pub works: bool,
    /// What was seen, or why it does not work.
    pub detail: String,
    /// What its absence costs.
    pub cost: String,
}
