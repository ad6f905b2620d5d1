//! Workloads: what is asked for, and what is said about them.

use crate::ids::{Epoch, HostName, MoveId, WorkloadId};
use crate::plan::Resource;
use crate::resource::Binding;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Asks for a new workload in a capsule of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Name; none: one is made up.
    #[serde(default)]
    pub name: Option<String>,
    /// A terminal of its own instead of a log pipe.
    #[serde(default)]
    pub terminal: bool,
    /// Address and prefix length on the bridge, for a network namespace of its own.
    #[serde(default)]
    pub net: Option<String>,
    /// Limit of memory.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Limit of processor time, thousandths of one processor.
    #[serde(default)]
    pub cpu_milli: Option<u64>,
    /// Environment, `NAME=VALUE`. It is the whole environment but for PATH, HOME and TERM, which have defaults.
    #[serde(default)]
    pub env: Vec<String>,
    /// User: a name or number, with an optional `:GROUP`.
    #[serde(default)]
    pub user: Option<String>,
    /// Working directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Paths of the host that the workload needs.
    #[serde(default)]
    pub with: Vec<With>,
}

/// A path of the host that a workload needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct With {
    /// Absolute path.
    pub path: String,
    /// How the workload is bound to it.
    #[serde(default = "by_identifier")]
    pub binding: Binding,
}

fn by_identifier() -> Binding {
    Binding::Identifier
}

/// Makes a workload of a process tree that already runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    /// Process id of the root of the tree, as the node sees it.
    pub pid: i32,
    /// Name; none: one is made up.
    #[serde(default)]
    pub name: Option<String>,
    /// Paths of the host that it needs beside the files that it has open.
    #[serde(default)]
    pub with: Vec<With>,
}

/// Where a workload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    /// Its capsule is being made.
    Starting,
    /// It runs.
    Running,
    /// It is on its way to or from another host.
    Moving,
    /// It runs, and pages of it are still at the host that it came from.
    Draining,
    /// As draining, and there is no way to that host: what touches a page that is missing waits.
    Paused,
    /// Frozen until the decider answers.
    InDoubt,
    /// Its state is in an image; restore takes it back.
    Suspended,
    /// Its first process ended.
    Exited,
    /// It runs on another host now.
    Gone,
    /// Its shim or capsule is lost (a reboot, a crash).
    Lost,
    /// Frozen for good: pages of it were in the memory of a host that is gone. It never reads zeros in their place.
    LostPages,
}

/// One workload, as `ferry ps` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workload {
    /// Its identity.
    pub id: WorkloadId,
    /// Its name on this host.
    pub name: String,
    /// The host that owns it.
    pub host: HostName,
    /// How often it changed hands.
    pub epoch: Epoch,
    /// Where it stands.
    pub state: WorkloadState,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Host pid of its first process, while there is one.
    pub pid: Option<i32>,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// The move that it is in.
    #[serde(default, rename = "move", skip_serializing_if = "Option::is_none")]
    pub moving: Option<MoveId>,
    /// Directory of the image that it is, while it is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its address on the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
    /// Whether it was adopted and not started here.
    pub adopted: bool,
    /// When it was registered on this host, seconds since 1970.
    pub created_unix: u64,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It exited with this code.
    #[n(0)]
    Code(#[n(0)] i32),
    /// This signal ended it.
    #[n(1)]
    Signal(#[n(0)] i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited ({code})"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
        }
    }
}

impl Exit {
    /// The code that a shell would give: the exit code, or 128 and the signal.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        let code = match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        };
        u8::try_from(code & 0xff).unwrap_or(255)
    }
}

/// A workload in full: the line of the list and its three segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkloadDetail {
    /// The line of the list.
    #[serde(flatten)]
    pub workload: Workload,
    /// What it consists of.
    pub segments: Segments,
}

/// The three segments of a workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Segments {
    /// Code: executables and libraries.
    pub code: Vec<Resource>,
    /// Resources: everything else that it holds.
    pub resource: Vec<Resource>,
    /// Execution: tasks and memory, in words.
    pub execution: Vec<String>,
    /// Why the segments could not be read, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
}

/// Asks for another program inside of a workload's capsule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// A terminal of its own.
    #[serde(default)]
    pub terminal: bool,
    /// Environment, `NAME=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
    /// User: a name or number, with an optional `:GROUP`.
    #[serde(default)]
    pub user: Option<String>,
    /// Working directory.
    #[serde(default)]
    pub cwd: Option<String>,
}

/// Asks a workload to end: SIGTERM, and SIGKILL when the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// How long it may take.
    #[serde(default = "ten_seconds")]
    pub grace_ms: u64,
}

impl Default for StopRequest {
    fn default() -> Self {
        Self { grace_ms: ten_seconds() }
    }
}

fn ten_seconds() -> u64 {
    10_000
}

/// Sends a signal to the first process of a workload; SIGKILL goes to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    /// Number of the signal.
    #[serde(default = "sigkill")]
    pub signal: i32,
}

impl Default for KillRequest {
    fn default() -> Self {
        Self { signal: sigkill() }
    }
}

fn sigkill() -> i32 {
    9
}

/// How a workload ended, for who waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waited {
    /// Which workload.
    pub id: WorkloadId,
    /// How it ended.
    pub exit: Exit,
}

/// Remote cloning: the original goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// Where the clone goes.
    pub to: HostName,
    /// Its name there; none: one is made up.
    #[serde(default)]
    pub name: Option<String>,
    /// Its address there; needed when the original has one.
    #[serde(default)]
    pub net: Option<String>,
}
