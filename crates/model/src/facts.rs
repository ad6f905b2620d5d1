//! What a host says of itself when a plan is made: what has to fit, and what it already has.
//!
//! Facts are data, so that a test can put any host in place of the real one.

use crate::ids::{Hash, HostName};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A host, as far as a plan has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostFacts {
    /// Its name.
    #[n(0)]
    pub host: HostName,
    /// `uname -m`.
    #[n(1)]
    pub architecture: String,
    /// Kernel release, for messages only: what works is in `kernel_features`.
    #[n(2)]
    pub kernel_release: String,
    /// Processor flags as in /proc/cpuinfo, sorted.
    #[n(3)]
    pub cpu_flags: Vec<String>,
    /// Bytes of an extended register set (xsave), 0 where the processor has none.
    #[n(4)]
    pub xsave_bytes: u32,
    /// Hash of the vDSO's pages: the workload's time functions are code of the kernel that it started under.
    #[n(5)]
    pub vdso: Option<Hash>,
    /// Bytes of a page.
    #[n(6)]
    pub page_bytes: u32,
    /// Kernel features that were probed by effect and work, by the names that `ferry check` prints, sorted.
    #[n(7)]
    pub kernel_features: Vec<String>,
    /// Memory that can be had, bytes.
    #[n(8)]
    pub memory_available_bytes: u64,
    /// Room in the state directory, bytes.
    #[n(9)]
    pub disk_available_bytes: u64,
    /// Bridge that workloads with an address of their own are put on.
    #[n(10)]
    pub bridge: Option<String>,
}

/// What the target says of one resource that the plan asked about.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Holding {
    /// Sort of the resource asked about.
    #[n(0)]
    pub sort: String,
    /// Its name there.
    #[n(1)]
    pub name: String,
    /// What is found under that name.
    #[n(2)]
    pub found: Found,
    /// Identity of the shared file system that it lies on, where it does.
    #[n(3)]
    pub shared: Option<String>,
}

/// What a target has under a resource's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// Nothing.
    #[n(0)]
    Absent,
    /// Something with the same content; for a device or a port: one that is free to use.
    #[n(1)]
    Same,
    /// Something else; for a port or an address: taken.
    #[n(2)]
    Different,
}

/// The target's whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Answer {
    /// The host.
    #[n(0)]
    pub facts: HostFacts,
    /// What it has of what was asked for.
    #[n(1)]
    pub holdings: Vec<Holding>,
    /// What its policy says against this workload, if anything.
    #[n(2)]
    pub refusals: Vec<String>,
}

impl Answer {
    /// What the target has under `name`, for resources of this sort.
    #[must_use]
    pub fn holding(&self, sort: &str, name: &str) -> Option<&Holding> {
        self.holdings.iter().find(|holding| holding.sort == sort && holding.name == name)
    }
}
