//! Workloads that are images: suspended here, and perhaps taken back elsewhere since; and workloads that left while that could not be
//! noted. The journal knows.

use super::Workloads;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::handover::entry::last_record;
use ferry_model::ids::{HostName, WorkloadId};
use ferry_session::decider::Journals;
use ferry_session::shim::RECORD as SHIM_RECORD;
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

    /// Notes which workloads have left while that could not be written down, since the disk was full: the journal, which had its room
    /// before, names another owner, and nothing of the copy is left. To be called when the node starts.
    pub(super) fn note_left(&self) {
        let here: Vec<WorkloadId> = {
            let records = self.records();
            records.iter().filter(|(_, record)| record.runs_here()).map(|(id, _)| *id).collect()
        };
        for id in here {
            let Some(owner) = self.owner(id) else { continue };
            if owner == self.host || self.directory(id).join(SHIM_RECORD).exists() {
                continue;
            }
            tracing::info!(workload = %id, to = %owner, "it has left, and that was not noted");
            if let Err(error) = self.departed(id, Some(&owner)) {
                // It is known until the next start, which looks again.
                tracing::warn!(workload = %id, %error, "that it left could not be noted yet");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journals::OpenJournals;
    use crate::up::Config;
    use crate::workloads::record::NodeRecord;
    use ferry_model::api::WorkloadState;
    use ferry_model::handover::Entry;
    use ferry_model::ids::{BootId, Epoch};
    use ferry_session::decider::Embedded;
    use ferry_session::shim::Spec;
    use std::sync::Arc;

    #[test]
    fn a_departure_that_could_not_be_noted_is_found_in_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let (alpha, beta) = (HostName::new("alpha").unwrap(), HostName::new("beta").unwrap());
        let (id, boot) = (WorkloadId([3; 16]), BootId([7; 16]));
        let config = Config {
            state: dir.path().to_owned(),
            run: dir.path().join("run"),
            listen: None,
            api_listen: None,
            advertise: None,
            bridge: "b0".into(),
            visits_bytes_max: 0,
            ferry: "/nonexistent".into(),
        };
        let open = || {
            let journals = Arc::new(OpenJournals::new(dir.path(), &alpha));
            Workloads::open(&config, &alpha, boot, journals).unwrap()
        };
        let shown = |workloads: &Workloads| {
            let all = workloads.list();
            (all[0].state, all[0].host.clone())
        };
        let first = open();
        let spec = Spec { id, name: "web".into(), ..Spec::default() };
        NodeRecord::of(&spec, false).save(&first.directory(id)).unwrap();
        first.own(id).unwrap();
        // Its own, whatever has become of its shim.
        assert_eq!(shown(&open()), (WorkloadState::Lost, alpha.clone()));
        let Entry::Record(mut record) = Embedded::first(id, &beta, boot) else { panic!("no record") };
        record.epoch = Epoch(2);
        let journal = first.journals.open(id).unwrap();
        journal.lock().unwrap().append(&Entry::Record(record)).unwrap();
        drop((journal, first));
        // While something of the copy is left, the move that destroys it says when it has gone.
        let left = dir.path().join("workloads").join(id.to_string()).join(SHIM_RECORD);
        std::fs::write(&left, b"").unwrap();
        assert_eq!(shown(&open()), (WorkloadState::Lost, alpha.clone()));
        std::fs::remove_file(&left).unwrap();
        assert_eq!(shown(&open()), (WorkloadState::Gone, beta.clone()));
        assert_eq!(crate::workloads::gone_to(left.parent().unwrap()).unwrap(), Some(beta));
    }
}
