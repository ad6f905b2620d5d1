//! The journals of this host's workloads, each opened once: moves and the registry write to the same one.

use crate::faults::Faults;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::{HostName, WorkloadId};
use ferry_session::decider::Journals;
use ferry_session::journal::{Journal, Shared};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Name of the journal in a workload's directory.
const FILE: &str = "journal";

/// The open journals.
pub struct OpenJournals {
    dir: PathBuf,
    host: HostName,
    open: Mutex<HashMap<WorkloadId, Shared>>,
}

impl OpenJournals {
    /// Journals of the workloads of the state directory `state` of `host`.
    #[must_use]
    pub fn new(state: &Path, host: &HostName) -> Self {
        Self { dir: state.join("workloads"), host: host.clone(), open: Mutex::default() }
    }

    /// The journal of `id`, opened or made.
    pub fn open(&self, id: WorkloadId) -> Result<Shared> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = open.get(&id) {
            return Ok(journal.clone());
        }
        let dir = self.dir.join(id.to_string());
        crate::files::make_private_dir(&dir)?;
        let mut journal =
            Journal::open(&dir.join(FILE)).map_err(|cause| Error::from_source(Kind::Unable, &cause))?;
        if let Some(faults) = Faults::ordered(&self.host) {
            journal.set_watch(Box::new(move |entry| faults.stop_at_entry(entry)));
        }
        let journal = Arc::new(Mutex::new(journal));
        open.insert(id, journal.clone());
        Ok(journal)
    }

    /// Closes the journal of a workload that is removed.
    pub fn close(&self, id: WorkloadId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

impl Journals for OpenJournals {
    fn find(&self, id: WorkloadId) -> Option<Shared> {
        if !self.dir.join(id.to_string()).join(FILE).exists() {
            return None;
        }
        match self.open(id) {
            Ok(journal) => Some(journal),
            Err(error) => {
                tracing::error!(workload = %id, %error, causes = ?error.causes, "its journal cannot be read");
                None
            }
        }
    }
}
