//! `ferry recover`: what the journals of both sides and the decider say about a workload, in words, and the actions that can
//! neither make two running copies nor none. The words are `ferry_model`'s; here both sides are asked.

use crate::node::Node;
use crate::peers::wire::{Reply, Request};
use ferry_model::api::{Recovery, RecoveryAction, WorkloadState};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::handover::advice::{Action, Side, advise};
use ferry_model::handover::entry::last_key;
use ferry_model::handover::{Answer, Entry, Record, Standing, Step};
use ferry_model::ids::{HostName, WorkloadId};
use ferry_session::decider::{Journals, Located};
use std::sync::PoisonError;

/// Most entries of a journal that are told: the newest.
const ENTRIES_MAX: usize = 500;

impl Node {
    /// Where a workload stands, and what can be done.
    pub fn recovery(&self, name: &str) -> Result<Recovery> {
        let id = self.find_anywhere(name)?;
        let entries = self.entries(id);
        let workload = self.workloads.get(id).ok();
        let state = workload.as_ref().map(|workload| workload.state);
        let peer_name = peer(&entries);
        let told =
            peer_name.as_ref().and_then(|host| match self.peers().ask(host, &Request::Journal { id }) {
                Ok(Reply::Journal { entries, copy }) => Some((entries, copy)),
                _ => None,
            });
        let located = self.registry.locate(id);
        let decider = match &located {
            Some(located) if located.confirmed => Answer::Is(located.record.clone()),
            _ => Answer::Unknown,
        };
        let mut sides =
            vec![Side { host: self.identity().name(), journal: Some(&entries), copy: copy(state) }];
        if let Some(host) = &peer_name {
            let journal = told.as_ref().map(|(entries, _)| entries.as_slice());
            sides.push(Side { host, journal, copy: told.as_ref().and_then(|(_, copy)| *copy) });
        }
        let advice = advise(id, &sides, &decider);
        let mut words = advice.words;
        for action in &advice.actions {
            if let Action::BringBack { host } = action {
                words.push(format!(
                    "Start the node of {host} again, or connect it: then the move goes on or ends by itself."
                ));
            }
        }
        if let Some(dir) = workload.as_ref().and_then(|workload| workload.image.as_ref()) {
            words.push(format!("Its image is {dir}: ferry restore {dir}"));
        }
        if state == Some(WorkloadState::Lost) {
            words.push("Its shim on this host is gone.".to_owned());
        }
        Ok(Recovery {
            workload: id,
            name: workload.map_or_else(|| id.to_string(), |workload| workload.name),
            here: entries.iter().map(line).collect(),
            peer: told.map(|(entries, _)| entries.iter().map(line).collect()),
            peer_name,
            decider: said(located.as_ref()),
            epoch: located.as_ref().map(|located| located.record.epoch),
            conclusion: words.join(" "),
            actions: self.actions(id, &entries, state),
        })
    }

    /// Does an action that was offered, and says how it stands then.
    pub fn recover(&self, name: &str, action: &str) -> Result<Recovery> {
        let id = self.find_anywhere(name)?;
        let state = self.workloads.get(id).ok().map(|workload| workload.state);
        let offered = self.actions(id, &self.entries(id), state);
        if !offered.iter().any(|each| each.name == action) {
            let names: Vec<String> = offered.into_iter().map(|each| each.name).collect();
            let hint = if names.is_empty() { "nothing has to be done".to_owned() } else { names.join(", ") };
            return Err(
                Error::new(Kind::Usage, format!("'{action}' is not among the safe actions")).hint(hint)
            );
        }
        match action {
            "restart-shim" => self.workloads.restart_shim(id)?,
            "resume-move" => drop(self.movements()?.recover(id)?),
            _ => return Err(Error::new(Kind::Bug, format!("Nobody knows how to do '{action}'"))),
        }
        self.recovery(name)
    }

    /// What a peer is told of this host's journal.
    pub fn tell_journal(&self, id: WorkloadId) -> Reply {
        let state = self.workloads.get(id).ok().map(|workload| workload.state);
        Reply::Journal { entries: self.entries(id), copy: copy(state) }
    }

    /// A workload that is registered here, or of which there is only a journal left.
    fn find_anywhere(&self, name: &str) -> Result<WorkloadId> {
        self.workloads.find(name).or_else(|error| match name.parse::<WorkloadId>() {
            Ok(id) if self.journals.find(id).is_some() => Ok(id),
            _ => Err(error),
        })
    }

    fn entries(&self, id: WorkloadId) -> Vec<Entry> {
        let Some(journal) = self.journals.find(id) else { return Vec::new() };
        let journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = journal.entries();
        entries[entries.len().saturating_sub(ENTRIES_MAX)..].to_vec()
    }

    fn actions(
        &self,
        id: WorkloadId,
        entries: &[Entry],
        state: Option<WorkloadState>,
    ) -> Vec<RecoveryAction> {
        let mut actions = Vec::new();
        if state == Some(WorkloadState::Lost) {
            actions.push(RecoveryAction {
                name: "restart-shim".to_owned(),
                about: "start a successor for its shim, which takes over what is left of it".to_owned(),
            });
        }
        if open_move(entries) && self.move_of(id).is_none() {
            actions.push(RecoveryAction {
                name: "resume-move".to_owned(),
                about: "take the move up again from the journal".to_owned(),
            });
        }
        actions
    }
}

/// Whether a copy, running or frozen, is there; none: not known.
fn copy(state: Option<WorkloadState>) -> Option<bool> {
    match state? {
        WorkloadState::Running | WorkloadState::Moving | WorkloadState::InDoubt => Some(true),
        WorkloadState::Gone | WorkloadState::Exited | WorkloadState::Suspended => Some(false),
        WorkloadState::Lost | WorkloadState::Starting => None,
    }
}

/// Whether the last move of a journal is not over.
fn open_move(entries: &[Entry]) -> bool {
    let Some(key) = last_key(entries) else { return false };
    let of_it = entries.iter().filter_map(|entry| match entry {
        Entry::Step { key: of, step, .. } if *of == key => Some(step),
        _ => None,
    });
    !of_it.into_iter().any(|step| matches!(step, Step::Done | Step::Died | Step::HandedBack | Step::Lost))
}

/// The other side of the last move.
fn peer(entries: &[Entry]) -> Option<HostName> {
    entries.iter().rev().find_map(|entry| match entry {
        Entry::Step { step: Step::Offered { to, .. }, .. } => Some(to.clone()),
        Entry::Step { step: Step::Reserved { from, .. }, .. } => Some(from.clone()),
        Entry::Step { step: Step::Checkpointing { to, .. } | Step::Taking { from: to, .. }, .. } => {
            to.clone()
        }
        _ => None,
    })
}

fn line(entry: &Entry) -> String {
    match entry {
        Entry::Record(record) => format!("owner {}", owner(record)),
        Entry::Step { key, step, .. } => {
            let more = match step {
                Step::Offered { to, .. } => format!(" to {to}"),
                Step::Reserved { from, .. } => format!(" for {from}"),
                Step::Checkpointing { place: Some(place), to: None } => format!(" to {place}"),
                Step::Checkpointing { to: Some(to), .. } => format!(" for {to}"),
                Step::Taking { from: Some(from), .. } => format!(" from {from}"),
                Step::Committed { record } => format!(": owner {}", owner(record)),
                Step::Aborted { reason } | Step::Discarded { reason } | Step::HandingBack { reason } => {
                    format!(": {reason}")
                }
                _ => String::new(),
            };
            format!("{} {}, epoch {}{more}", key.mv, step.name(), key.epoch.0)
        }
    }
}

fn owner(record: &Record) -> String {
    let standing = match record.standing {
        Standing::Running => "may run it".to_owned(),
        Standing::Suspended(image) => format!("it is suspended to image {image}"),
        Standing::Ended => "it has ended".to_owned(),
    };
    format!("{}, epoch {}, {standing}", record.owner, record.epoch.0)
}

fn said(located: Option<&Located>) -> String {
    match located {
        None => "knows nothing of it".to_owned(),
        Some(located) if located.confirmed => owner(&located.record),
        Some(located) => {
            format!("{} (its owner does not answer; this is what others know)", owner(&located.record))
        }
    }
}
