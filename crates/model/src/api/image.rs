//! Images of workloads: what is asked of a checkpoint and a restore, and what they report.

use super::Workload;
use crate::ids::Hash;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for the image of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRequest {
    /// Where the image will be: an absolute path on the node's host, which must not exist.
    pub dir: String,
    /// The workload goes on afterwards. Otherwise the image is the workload from then on.
    #[serde(default)]
    pub leave_running: bool,
    /// Threads that copy memory.
    #[serde(default = "two")]
    pub threads: usize,
}

/// What a checkpoint did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointReport {
    /// Hash of the image.
    pub image: Hash,
    /// Processes in it.
    pub processes: usize,
    /// Threads in it.
    pub threads: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of them that were zeros and not stored.
    pub zero_bytes: u64,
    /// How long it stood still; where it was suspended: until the image was durable. Microseconds.
    pub frozen_us: u64,
    /// From the beginning to the end, microseconds.
    pub total_us: u64,
}

/// Asks that an image runs again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The image: an absolute path on the node's host.
    pub dir: String,
    /// As a new workload with an identity of its own, beside the one that was saved.
    #[serde(default)]
    pub as_clone: bool,
    /// The clone's name; none: one is made up.
    #[serde(default)]
    pub name: Option<String>,
    /// The clone's address; needed when the original has one.
    #[serde(default)]
    pub net: Option<String>,
    /// Accept an image that a host signed whose key is not listed.
    #[serde(default)]
    pub trust_image: bool,
    /// Threads that copy memory.
    #[serde(default = "two")]
    pub threads: usize,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreReport {
    /// Hash of the image.
    pub image: Hash,
    /// The workload, as it runs now.
    pub workload: Workload,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// From the beginning until it ran, microseconds.
    pub restored_us: u64,
}

fn two() -> usize {
    2
}
