//! What a move needs of the node around it. The node implements it over its peers, policy and directories; tests over a socket pair.

use crate::journal::Shared;
use crate::visits::Visits;
use ferry_model::error::Result;
use ferry_model::facts::{Holding, HostFacts};
use ferry_model::handover::Registry;
use ferry_model::ids::{BootId, HostName, WorkloadId};
use ferry_model::plan::Resource;
use ferry_model::strategy::before::Before;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::greeting::Purpose;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is offered to a target, for its policy.
#[derive(Clone, Debug)]
pub struct Offer<'a> {
    /// The host that offers, by its certificate.
    pub from: &'a HostName,
    /// Name of the workload.
    pub name: &'a str,
    /// Address that it brings along, with prefix length.
    pub network: Option<&'a str>,
    /// The original goes on.
    pub clone: bool,
    /// What it holds.
    pub resources: &'a [Resource],
}

/// The node around a move. Everything may block for a while; nothing is called from an async thread.
pub trait Node: Send + Sync + 'static {
    /// This host.
    fn host(&self) -> HostName;

    /// This boot of it.
    fn boot_id(&self) -> BootId;

    /// What it says of itself for plans.
    fn facts(&self) -> HostFacts;

    /// What it has of the resources that a plan asks about ([`crate::facts`]).
    fn holdings(&self, questions: &[Resource]) -> Vec<Holding>;

    /// The state directory, with this host's keys.
    fn state(&self) -> PathBuf;

    /// The state directory of a workload; it need not exist yet. Shim, capsule and journal live in it.
    fn directory(&self, id: WorkloadId) -> PathBuf;

    /// What is kept of the memory of workloads that have left.
    fn visits(&self) -> Visits {
        Visits::new(&self.state(), 0)
    }

    /// The program `ferry`, to start shims with.
    fn program(&self) -> PathBuf;

    /// Connects to another node, both sides authenticated, and greets with `purpose`.
    fn connect(&self, to: &HostName, purpose: Purpose) -> io::Result<Box<dyn Stream>>;

    /// The journal of a workload, opened or made.
    fn journal(&self, id: WorkloadId) -> Result<Shared>;

    /// The journal of a workload, if this host has one: a name that somebody else says makes nothing.
    fn find_journal(&self, id: WorkloadId) -> Option<Shared>;

    /// The decider.
    fn registry(&self) -> Arc<dyn Registry + Send + Sync>;

    /// What earlier moves to `host` have shown of the link and of a pause.
    fn before(&self, _host: &HostName) -> Before {
        Before::default()
    }

    /// What this host's policy says against an offer; empty: welcome.
    fn refusals(&self, offer: &Offer<'_>) -> Vec<String>;

    /// A workload is this host's now and runs here (again).
    fn arrived(&self, id: WorkloadId);

    /// A workload of this host is an image at `dir` from now on; nothing else of it is left but its journal.
    fn suspended(&self, id: WorkloadId, dir: &Path);

    /// A workload left this host for `to`, or was given up; nothing of it is left but its journal.
    fn departed(&self, id: WorkloadId, to: Option<&HostName>);

    /// A move stands at a point of which no journal tells, named as the journal names its steps. Does nothing: the fault walk's node has
    /// something fail here.
    fn stands_at(&self, _point: &'static str) {}
}
