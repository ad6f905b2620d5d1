//! The journals of this host's workloads, each opened once: moves and the registry write to the same one.

use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::WorkloadId;
use ferry_session::decider::Journals;
use ferry_session::journal::{Journal, Shared};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Name of the journal in a workload's directory.
const FILE: &str = "journal";

/// The open journals.
pub struct OpenJournals {
    dir: PathBuf,
    open: Mutex<HashMap<WorkloadId, Shared>>,
}

impl OpenJournals {
    /// Journals of the workloads of the state directory `state`.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self { dir: state.join("workloads"), open: Mutex::default() }
    }

    /// The journal of `id`, opened or made.
    pub fn open(&self, id: WorkloadId) -> Result<Shared> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(journal) = open.get(&id) {
            return Ok(journal.clone());
        }
        let dir = self.dir.join(id.to_string());
        crate::files::make_private_dir(&dir)?;
        let journal = Journal::open_shared(&dir.join(FILE))
            .map_err(|cause| Error::from_source(Kind::Unable, &cause))?;
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
