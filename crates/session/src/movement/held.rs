//! Pages that a target still has of an earlier visit of the workload: kept by the host that it leaves, offered when it comes back.

use super::ground::Ground;
use super::planning;
use super::source::SourceRole;
use super::target::TargetRole;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::handover::{Answer, Key};
use ferry_model::ids::HostName;
use ferry_model::planning::Method;
use ferry_transfer::wire::bulk::{BulkReader, BulkWriter};
use ferry_transfer::wire::control::{Bulk, Message};
use ferry_transfer::wire::rounds::Offer;
use ferry_transfer::wire::rounds::held::{NAME_BYTES, OFFER_PAGES_MAX};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the target may take to say which pages it has.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Most bytes of their names.
const NAMES_BYTES_MAX: u64 = OFFER_PAGES_MAX as u64 * NAME_BYTES as u64;

impl SourceRole {
    /// Asks the target which pages it has.
    pub(super) fn which_held(&mut self) -> Result<Offer> {
        let names = self.names().map_err(|e| planning::link_error(&e).context("Asking for what it holds"))?;
        let mut offer = Offer::default();
        offer.add(&names).map_err(|e| Error::from_source(Kind::RolledBack, &e))?;
        Ok(offer)
    }

    fn names(&mut self) -> io::Result<Vec<u8>> {
        let link = &mut self.ground.link;
        link.send(&Message::WhichHeld)?;
        let (end, recorder) = (Instant::now() + ANSWER_MAX, &self.ground.recorder);
        let mut next = || -> io::Result<Message> {
            loop {
                match link.expect(end.saturating_duration_since(Instant::now()))? {
                    Message::Event { event } => recorder.note(event.what),
                    message => return Ok(message),
                }
            }
        };
        match next()? {
            Message::Bulk { kind: Bulk::Held } => {}
            other => return Err(io::Error::other(format!("{other:?} where names of pages were due"))),
        }
        let mut reader = BulkReader::new(next, NAMES_BYTES_MAX);
        let mut names = Vec::new();
        reader.read_to_end(&mut names)?;
        reader.finish().map(|_| names)
    }

    /// It runs at the target: what is here of its memory may be of use when it comes back.
    pub(super) fn keep_visit(&mut self) {
        let spaces = std::mem::take(&mut self.left);
        if spaces.is_empty() {
            return;
        }
        match self.ground.node.visits().keep(self.workload(), &spaces) {
            Ok(bytes) => self.ground.recorder.say(format!("{bytes} bytes of its memory are kept here")),
            Err(error) => self.ground.recorder.say(format!("Its memory is not kept here: {error}")),
        }
    }
}

impl TargetRole {
    /// Tells the source if there is something of an earlier visit. It asks for it when it is about to send rounds, or does not.
    pub(super) fn offer_held(&mut self) {
        let in_rounds = matches!(self.method, Method::Auto | Method::PreCopy | Method::Hybrid);
        let visits = self.ground.node.visits();
        self.visit = visits.find(self.ground.key.id).filter(|_| in_rounds && self.is_owners()).map(Arc::new);
        if let Some(visit) = &self.visit {
            let _ = self.ground.link.send(&Message::Holds { pages: visit.pages() });
        }
    }

    /// Whether the source is who has the workload now, by what this host knows of where it went. Another one that only calls something by its
    /// name is not to hear what was in its memory.
    fn is_owners(&self) -> bool {
        let Ground { node, key, peer, .. } = &self.ground;
        may_hear(&node.registry().read(key.id), key, peer)
    }

    /// Says which pages it has; from then on the source may count on them.
    pub(super) fn tell_held(&mut self) -> Result<()> {
        let visit = self.visit.clone();
        if let Some(visit) = &visit {
            self.incoming()?.hold(visit.clone());
        }
        let names = visit.as_ref().map(|visit| visit.names()).unwrap_or_default();
        let link = &mut self.ground.link;
        let told = link.writer().and_then(|to| {
            let mut writer = BulkWriter::begin(to, Bulk::Held)?;
            writer.write_all(names)?;
            writer.finish()
        });
        told.map(drop).map_err(|e| planning::link_error(&e))
    }

    /// It runs here, or what was kept has proved to be of no use.
    pub(super) fn forget_visit(&mut self, arrived: bool) {
        let spoilt = self.visit.take().is_some_and(|visit| visit.is_spoilt());
        if arrived || spoilt {
            let (visits, id) = (self.ground.node.visits(), self.ground.key.id);
            // To give room on a disk back takes a while.
            let _ = std::thread::Builder::new().name("ferry-visit".into()).spawn(move || visits.forget(id));
        }
    }
}

/// Whether `peer` may hear what is kept of a workload, as a registry has answered.
fn may_hear(answer: &Answer, key: &Key, peer: &HostName) -> bool {
    match answer {
        Answer::Is(record) | Answer::Won(record) => record.id == key.id && record.owner == *peer,
        Answer::Refused(_) | Answer::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_model::handover::{Record, Standing};
    use ferry_model::ids::{BootId, Epoch, MoveId, WorkloadId};

    #[test]
    fn only_who_has_the_workload_hears_what_was_in_its_memory() {
        let host = |name: &str| HostName::new(name).unwrap();
        let key = Key { id: WorkloadId([3; 16]), epoch: Epoch(2), mv: MoveId([7; 16]) };
        let record = |id, owner: &str| Record {
            id: WorkloadId([id; 16]),
            epoch: Epoch(2),
            owner: host(owner),
            boot_id: BootId([9; 16]),
            standing: Standing::Running,
            mv: None,
            hash: None,
        };
        assert!(may_hear(&Answer::Is(record(3, "beta")), &key, &host("beta")));
        assert!(!may_hear(&Answer::Is(record(3, "beta")), &key, &host("mallory")));
        assert!(!may_hear(&Answer::Is(record(4, "beta")), &key, &host("beta")));
        assert!(!may_hear(&Answer::Unknown, &key, &host("beta")));
    }
}
