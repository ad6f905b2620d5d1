//! Hosts of the fleet and what they can do.

use crate::facts::HostFacts;
use crate::ids::HostName;
use serde::{Deserialize, Serialize};
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
