//! After trouble: what is found, what the journals say, and the safe actions.

use crate::ids::{Epoch, HostName, WorkloadId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `ferry doctor` found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Doctor {
    /// Findings; empty: all is well.
    pub findings: Vec<Finding>,
    /// Checks that were made, in words.
    pub checked: Vec<String>,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What: `process`, `cgroup`, `directory`, `device`, `audit`, `permission`.
    pub sort: String,
    /// Its name: a path, a pid, a device.
    pub name: String,
    /// Whose it is: a workload, a move, or nobody's.
    pub owner: String,
    /// What is wrong, or what it is a leftover of.
    pub detail: String,
    /// Whether `--clean` removes it.
    pub cleanable: bool,
    /// Whether it was removed just now.
    pub cleaned: bool,
}

/// What `ferry recover` knows about a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recovery {
    /// Which workload.
    pub workload: WorkloadId,
    /// Its name.
    pub name: String,
    /// What this host's journal says, one line per entry.
    pub here: Vec<String>,
    /// What the other side says; none: it was not asked or did not answer.
    pub peer: Option<Vec<String>>,
    /// Who the peer is.
    pub peer_name: Option<HostName>,
    /// What the decider says.
    pub decider: String,
    /// Epoch that the decider holds.
    pub epoch: Option<Epoch>,
    /// Whether it stands still until the decider answers.
    pub in_doubt: bool,
    /// Where that leaves the workload, in one sentence.
    pub conclusion: String,
    /// What can safely be done now.
    pub actions: Vec<RecoveryAction>,
}

/// A safe action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryAction {
    /// Its name.
    pub name: String,
    /// The command that does it.
    pub command: String,
    /// What it does.
    pub about: String,
}

/// Chooses an action of a [`Recovery`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveryChoice {
    /// Name of the action: `restart-shim`, `resume-move`, `fence`, `commit-to`, `give-up`.
    pub action: String,
    /// With `commit-to`: the host that holds the whole copy.
    #[serde(default)]
    pub to: Option<HostName>,
}
