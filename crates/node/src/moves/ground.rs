//! What the moves of `session` need of the node around them: its peers, policy, directories and journals.

use crate::audit::Verdict;
use crate::faults::Faults;
use crate::node::Node;
use crate::policy::Offered;
use ferry_model::error::Result;
use ferry_model::facts::{Holding, HostFacts};
use ferry_model::handover::Registry;
use ferry_model::ids::{BootId, HostName, WorkloadId};
use ferry_model::plan::Resource;
use ferry_model::strategy::before::Before;
use ferry_session::decider::Journals;
use ferry_session::facts::{self, Place};
use ferry_session::journal::Shared;
use ferry_session::movement;
use ferry_session::visits::Visits;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::greeting::Purpose;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl movement::Node for Node {
    fn host(&self) -> HostName {
        self.identity().name().clone()
    }

    fn boot_id(&self) -> BootId {
        self.boot()
    }

    fn facts(&self) -> HostFacts {
        Node::facts(self)
    }

    fn holdings(&self, questions: &[Resource]) -> Vec<Holding> {
        let addresses = self.workloads.addresses();
        facts::answer(questions, &Place { root: Path::new("/"), hashes: &self.hashes, addresses: &addresses })
    }

    fn state(&self) -> PathBuf {
        self.config().state.clone()
    }

    fn directory(&self, id: WorkloadId) -> PathBuf {
        self.workloads.directory(id)
    }

    fn visits(&self) -> Visits {
        Visits::new(&self.config().state, self.config().visits_bytes_max)
    }

    fn program(&self) -> PathBuf {
        self.config().ferry.clone()
    }

    fn connect(&self, to: &HostName, purpose: Purpose) -> io::Result<Box<dyn Stream>> {
        match purpose {
            Purpose::Node => Ok(Box::new(self.peers().connect(to, purpose)?)),
            // Somebody stands still until it is said, or waits for each page, or there are many of them.
            _ => Ok(Box::new(self.peers().connect_direct(to, purpose)?)),
        }
    }

    fn journal(&self, id: WorkloadId) -> Result<Shared> {
        self.journals.open(id)
    }

    fn find_journal(&self, id: WorkloadId) -> Option<Shared> {
        self.journals.find(id)
    }

    fn registry(&self) -> Arc<dyn Registry + Send + Sync> {
        match Faults::ordered(self.identity().name()) {
            None => Arc::new(self.registry.clone()),
            Some(faults) => Arc::new(faults.before(self.registry.clone())),
        }
    }

    fn before(&self, host: &HostName) -> Before {
        self.shown_before(host)
    }

    fn refusals(&self, offer: &movement::Offer<'_>) -> Vec<String> {
        let (from, name) = (offer.from, offer.name);
        let offered =
            Offered { from, name, network: offer.network, clone: offer.clone, resources: offer.resources };
        let mut against = match self.policy() {
            Ok(policy) => policy.refusals(&offered),
            // What cannot be understood was written to keep somebody out.
            Err(error) => vec![error.message],
        };
        if self.workloads.has_name(name) {
            against.push(format!("there is a workload named {name} already"));
        }
        let what = format!("{} {name}", if offer.clone { "send a clone of" } else { "send" });
        match against.first() {
            None => self.audit.note(from.as_str(), &what, Verdict::Allowed, "policy"),
            Some(why) => self.audit.note(from.as_str(), &what, Verdict::Refused, why),
        }
        against
    }

    fn arrived(&self, id: WorkloadId) {
        if let Err(error) = self.workloads.arrived(id) {
            tracing::error!(workload = %id, %error, causes = ?error.causes, "it arrived and could not be registered");
        }
    }

    fn suspended(&self, id: WorkloadId, dir: &Path) {
        if let Err(error) = self.workloads.suspended(id, dir) {
            tracing::error!(workload = %id, %error, causes = ?error.causes, "that it is suspended could not be noted");
        }
    }

    fn departed(&self, id: WorkloadId, to: Option<&HostName>) {
        if let Err(error) = self.workloads.departed(id, to) {
            tracing::error!(workload = %id, %error, causes = ?error.causes, "that it left could not be noted");
        }
    }

    fn stands_at(&self, point: &'static str) {
        if let Some(faults) = Faults::ordered(self.identity().name()) {
            faults.stop_at(point);
        }
    }
}
