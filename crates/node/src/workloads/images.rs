//! Workloads that are images: suspended here, and perhaps taken back elsewhere since. Which of the two, the journal says.

use super::Workloads;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::handover::entry::last_record;
use ferry_model::ids::{HostName, WorkloadId};
use ferry_session::decider::Journals;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

impl Workloads {
    /// A workload of this host is an image at `dir` from now on.
    pub fn suspended(&self, id: WorkloadId, dir: &Path) -> Result<()> {
        let mut records = self.records();
        let Some(record) = records.get_mut(&id) else { return Ok(()) };
        record.suspended = Some(dir.to_owned());
        record.save(&self.directory(id))
    }

    /// Notes which suspended workloads another host has taken since: this host's journal knows, having decided it.
    pub(super) fn note_taken(&self) {
        let suspended: Vec<WorkloadId> = {
            let records = self.records();
            records.iter().filter(|(_, record)| record.suspended.is_some()).map(|(id, _)| *id).collect()
        };
        for id in suspended {
            let Some(owner) = self.owner(id).filter(|owner| *owner != self.host) else { continue };
            if let Err(error) = self.departed(id, Some(&owner)) {
                tracing::error!(workload = %id, %error, "that it was taken could not be noted");
            }
        }
    }

    /// Removes the directory of a workload of which nothing was ever written down here: it was to come, and did not.
    pub(super) fn forget_untouched(&self, id: WorkloadId) {
        let Some(journal) = self.journals.find(id) else { return };
        if journal.lock().unwrap_or_else(PoisonError::into_inner).entries().is_empty() {
            self.journals.close(id);
            let _ = std::fs::remove_dir_all(self.directory(id));
        }
    }

    fn owner(&self, id: WorkloadId) -> Option<HostName> {
        let journal = self.journals.find(id)?;
        let journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        last_record(journal.entries()).map(|record| record.owner.clone())
    }

    /// Refuses what only a workload that is no image can do.
    pub(super) fn refuse_suspended(&self, name: &str, suspended: Option<&PathBuf>) -> Result<()> {
        let Some(dir) = suspended else { return Ok(()) };
        let dir = dir.display();
        Err(Error::new(Kind::Usage, format!("{name} is suspended: it is the image {dir}"))
            .hint(format!("ferry restore {dir}")))
    }

    /// Refuses a restore whose name or address another workload of this host has.
    pub fn refuse_double(&self, id: WorkloadId, name: &str, net: Option<&String>) -> Result<()> {
        self.note_taken();
        let records = self.records();
        let others = records.iter().filter(|(other, record)| **other != id && record.is_here());
        for (_, other) in others {
            if other.name == name {
                return Err(Error::new(Kind::Refused, format!("There is a workload named {name} already"))
                    .hint("`ferry rm` for one that has ended; with --as-clone, another name (--name)"));
            }
            if net.is_some() && other.net.as_ref() == net && other.suspended.is_none() {
                return Err(Error::new(
                    Kind::Refused,
                    format!(
                        "{} has the address {} already",
                        other.name,
                        other.net.as_deref().unwrap_or_default()
                    ),
                )
                .hint("end it first; with --as-clone, another address (--net)"));
            }
        }
        Ok(())
    }
}
