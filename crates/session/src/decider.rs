//! The embedded registry: the record of a workload is in its current owner's own journal.
//!
//! The owner decides alone, by an append to its journal, which is atomic and on disk. Another host asks the owner. Nobody
//! needs a directory: whoever holds a record of a workload names its owner of that time, and following owners to ever
//! higher epochs ends at the current one. A host is believed only about what it owned: a stolen one can give away nothing else.

use crate::journal::Shared;
use ferry_model::handover::Entry;
use ferry_model::handover::decider::{Answer, By, Cas, Record, Refusal, Registry, Standing, apply};
use ferry_model::handover::entry::last_record;
use ferry_model::ids::{BootId, Epoch, HostName, MoveId, WorkloadId};
use std::sync::Arc;

/// How often a chain of owners is followed: more changes of owner than that during one question are not waited for.
const HOPS_MAX: usize = 16;

/// Where this host's journals are.
pub trait Journals: Send + Sync {
    /// The journal of `id`, if this host has one.
    fn find(&self, id: WorkloadId) -> Option<Shared>;
}

/// The other hosts. Implemented by the node over its authenticated connections; a call may block, and one that
/// gets no answer in a few seconds is an error.
pub trait Peers: Send + Sync {
    /// Names of all other hosts known.
    fn hosts(&self) -> Vec<HostName>;
    /// What `host` has written down about `id` ([`Embedded::local`] there). `Ok(None)`: it knows nothing of it.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn record(&self, host: &HostName, id: WorkloadId) -> Result<Option<Record>, Unreachable>;
    /// Has `host` decide ([`Embedded::decide`] there).
    ///
    /// # Errors
    /// When it cannot be asked, or did not answer: then it may have decided.
    fn cas(&self, host: &HostName, cas: &Cas) -> Result<Answer, Unreachable>;
}

/// No answer from a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The host does not answer")]
pub struct Unreachable;

/// Where a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The record with the highest epoch found.
    pub record: Record,
    /// The owner it names was asked and knows of nothing newer. False: it could not be asked.
    pub confirmed: bool,
}

/// The registry of this host.
#[derive(Clone)]
pub struct Embedded {
    me: HostName,
    journals: Arc<dyn Journals>,
    peers: Arc<dyn Peers>,
}

impl Embedded {
    /// The registry of host `me`.
    #[must_use]
    pub fn new(me: HostName, journals: Arc<dyn Journals>, peers: Arc<dyn Peers>) -> Self {
        Self { me, journals, peers }
    }

    /// The first record of a workload that begins on this host.
    #[must_use]
    pub fn first(id: WorkloadId, me: &HostName, boot_id: BootId) -> Entry {
        let (owner, standing) = (me.clone(), Standing::Running);
        let mv: Option<MoveId> = None;
        Entry::Record(Record { id, epoch: Epoch(1), owner, boot_id, standing, mv, hash: None })
    }

    /// What this host has written down about `id`.
    #[must_use]
    pub fn local(&self, id: WorkloadId) -> Option<Record> {
        let journal = self.journals.find(id)?;
        let journal = journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last_record(journal.entries()).filter(|record| record.id == id).cloned()
    }

    /// Decides about a workload that this host owns, for `by`: a peer's name comes from its certificate, never from what it says.
    #[must_use]
    pub fn decide(&self, cas: &Cas, by: &By) -> Answer {
        let Some(journal) = self.journals.find(cas.new.id) else { return Answer::Unknown };
        let mut journal = journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(current) = last_record(journal.entries()).cloned() else { return Answer::Unknown };
        // Whoever no longer owns it cannot decide; the asker is shown to whom it went.
        if current.owner != self.me {
            return Answer::Is(current);
        }
        match apply(&current, cas, by) {
            Ok(record) => match journal.append(&Entry::Record(record.clone())) {
                Ok(()) => Answer::Won(record),
                // It may be on disk all the same.
                Err(_) => Answer::Unknown,
            },
            Err(answer) => answer,
        }
    }

    /// Where the workload is, for a person or a command: asks everybody when this host knows nothing of it, or when the owner is
    /// away. Good for finding; nothing is ever decided on it, since any host can claim anything.
    #[must_use]
    pub fn locate(&self, id: WorkloadId) -> Option<Located> {
        let start = self.local(id).or_else(|| self.ask_all(id, None))?;
        let found = self.follow(start);
        if found.confirmed {
            return Some(found);
        }
        match self.ask_all(id, Some(&found.record.owner)) {
            Some(newer) if newer.epoch > found.record.epoch => Some(self.follow(newer)),
            _ => Some(found),
        }
    }

    /// Follows owners to ever higher epochs. Each is believed only about what it owned.
    fn follow(&self, mut record: Record) -> Located {
        for _ in 0..HOPS_MAX {
            if record.owner == self.me {
                // This host's own word, if it has given the workload away since.
                match self.local(record.id) {
                    Some(local) if local.epoch > record.epoch => record = local,
                    _ => return Located { record, confirmed: true },
                }
                continue;
            }
            match self.peers.record(&record.owner, record.id) {
                Ok(Some(newer)) if newer.id == record.id && newer.epoch > record.epoch => record = newer,
                Ok(_) => return Located { record, confirmed: true },
                Err(Unreachable) => return Located { record, confirmed: false },
            }
        }
        Located { record, confirmed: false }
    }

    fn ask_all(&self, id: WorkloadId, but: Option<&HostName>) -> Option<Record> {
        let hosts = self.peers.hosts().into_iter().filter(|host| Some(host) != but);
        let records = hosts.filter_map(|host| self.peers.record(&host, id).ok().flatten());
        records.filter(|record| record.id == id).max_by_key(|record| record.epoch)
    }
}

impl Registry for Embedded {
    fn read(&self, id: WorkloadId) -> Answer {
        // An unconfirmed record is still a fact about its epoch, which is all that a handover takes from it.
        self.local(id).map_or(Answer::Unknown, |record| Answer::Is(self.follow(record).record))
    }

    fn read_from(&self, owner: &HostName, id: WorkloadId) -> Answer {
        match self.peers.record(owner, id) {
            Ok(Some(record)) if record.id == id => Answer::Is(self.follow(record).record),
            _ => Answer::Unknown,
        }
    }

    fn cas(&self, cas: &Cas) -> Answer {
        if cas.owner == self.me {
            return self.decide(cas, &By::Host(self.me.clone()));
        }
        match self.peers.cas(&cas.owner, cas) {
            Ok(Answer::Won(record)) if record != cas.new => Answer::Refused(Refusal::WrongEpoch),
            Ok(answer) => answer,
            Err(Unreachable) => Answer::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
