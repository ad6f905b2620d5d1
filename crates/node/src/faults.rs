//! Faults on order: how the fault walk makes something fail exactly at a step, in the program that people run.
//!
//! Only when `FERRY_FAULTS` names a directory in the node's environment; without it, nothing of this is reached. Files in the
//! directory are switches: `HOST.stop` holds the name of a step, and the node stops when that step is on disk: `stop` becomes
//! `HOST.at`, and it goes on when `HOST.go` is there. While `away` is there the decider does not answer; `loses` makes it decide
//! once and its answer be lost.

use ferry_model::handover::{Answer, Cas, Entry, Registry};
use ferry_model::ids::{HostName, WorkloadId};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Names the directory.
pub const VARIABLE: &str = "FERRY_FAULTS";

/// How long a node stops at a step before it goes on by itself.
const STOP_MAX: Duration = Duration::from_secs(120);

/// The switches of one host.
#[derive(Clone, Debug)]
pub struct Faults {
    dir: PathBuf,
    host: HostName,
}

impl Faults {
    /// Those that were ordered for `host`, if any were.
    #[must_use]
    pub fn ordered(host: &HostName) -> Option<Self> {
        std::env::var_os(VARIABLE).map(|dir| Self { dir: dir.into(), host: host.clone() })
    }

    /// Stops here if this is the step: it is on disk, and nothing after it has happened.
    pub fn stop_at_entry(&self, entry: &Entry) {
        if let Entry::Step { step, .. } = entry {
            self.stop_at(step.name());
        }
    }

    /// Stops here if this is the step.
    pub fn stop_at(&self, step: &str) {
        let wanted = std::fs::read_to_string(self.file("stop")).unwrap_or_default();
        if wanted != step || std::fs::rename(self.file("stop"), self.file("at")).is_err() {
            return;
        }
        tracing::warn!(step, "stops here: a fault was ordered");
        let end = Instant::now() + STOP_MAX;
        while !self.file("go").exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stands before the decider.
    #[must_use]
    pub fn before<R: Registry>(self, registry: R) -> Decider<R> {
        Decider { faults: self, registry }
    }

    fn file(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", self.host))
    }

    fn is_away(&self) -> bool {
        self.dir.join("away").exists()
    }
}

/// A decider that may not be heard.
#[derive(Clone, Debug)]
pub struct Decider<R> {
    faults: Faults,
    registry: R,
}

impl<R: Registry> Registry for Decider<R> {
    fn read(&self, id: WorkloadId) -> Answer {
        if self.faults.is_away() { Answer::Unknown } else { self.registry.read(id) }
    }

    fn read_from(&self, owner: &HostName, id: WorkloadId) -> Answer {
        if self.faults.is_away() { Answer::Unknown } else { self.registry.read_from(owner, id) }
    }

    fn cas(&self, cas: &Cas) -> Answer {
        if self.faults.is_away() {
            return Answer::Unknown;
        }
        let answer = self.registry.cas(cas);
        let lost = std::fs::remove_file(self.faults.dir.join("loses")).is_ok();
        if lost { Answer::Unknown } else { answer }
    }
}
