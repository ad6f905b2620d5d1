//! `ferry recover`: what the journals of both sides and the decider say about a workload, in words, and the actions that can
//! neither make two running copies nor none. The words and offers are `ferry_model`'s; here both sides are asked, and what is chosen
//! is handed to the machine of the handover, which goes through the decider and may still refuse.

mod choice;
mod words;

use crate::node::Node;
use crate::peers::wire::{Reply, Request};
use choice::Choice;
use ferry_model::api::{Recovery, RecoveryChoice, WorkloadState};
use ferry_model::error::Result;
use ferry_model::handover::advice::{Action, Advice, Side, advise};
use ferry_model::handover::entry::last_key;
use ferry_model::handover::{Answer, Entry, Step};
use ferry_model::ids::{BootId, HostName, WorkloadId};
use ferry_session::decider::{Journals, Located};
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use words::{line, said};

/// Most entries of a journal that are told: the newest.
const ENTRIES_MAX: usize = 500;

/// How long an action is waited for before it is said how it stands.
const ACTION_TIME_MAX: Duration = Duration::from_secs(5);

/// All that is known of a workload at one moment.
struct Known {
    id: WorkloadId,
    name: String,
    state: Option<WorkloadState>,
    /// Where the image is that it is suspended to.
    image: Option<String>,
    entries: Vec<Entry>,
    peer_name: Option<HostName>,
    /// The other side's journal, if it answers.
    told: Option<Vec<Entry>>,
    located: Option<Located>,
    advice: Advice,
    moving: bool,
}

impl Node {
    /// Where a workload stands, and what can be done.
    pub fn recovery(&self, name: &str) -> Result<Recovery> {
        Ok(self.told(self.known(name)?))
    }

    fn known(&self, name: &str) -> Result<Known> {
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
        let copy = copy(state, &entries, self.boot());
        let here = self.identity().name();
        let mut sides = vec![Side { host: here, journal: Some(&entries), copy }];
        if let Some(host) = &peer_name {
            let journal = told.as_ref().map(|(entries, _)| entries.as_slice());
            sides.push(Side { host, journal, copy: told.as_ref().and_then(|(_, copy)| *copy) });
        }
        let advice = advise(id, &sides, &decider);
        let image = workload.as_ref().and_then(|workload| workload.image.clone());
        let name = workload.map_or_else(|| id.to_string(), |workload| workload.name);
        let told = told.map(|(entries, _)| entries);
        let moving = self.move_of(id).is_some();
        Ok(Known { id, name, state, image, entries, peer_name, told, located, advice, moving })
    }

    fn told(&self, known: Known) -> Recovery {
        let here = self.identity().name();
        let mut words = known.advice.words.clone();
        for action in &known.advice.actions {
            match action {
                Action::BringBack { host } => words.push(format!(
                    "Start the node of {host} again, or connect it: then the move goes on or ends by itself."
                )),
                Action::TakeBack { host } if host != here => words.push(format!(
                    "On {host} it can be taken back through the decider: ferry recover {} --fence.",
                    known.name
                )),
                Action::GiveUpPages { host } if host != here => {
                    words.push(format!("On {host}: ferry recover {} --give-up.", known.name));
                }
                _ => {}
            }
        }
        if let Some(dir) = &known.image {
            words.push(format!("Its image is {dir}: ferry restore {dir}"));
        }
        if known.state == Some(WorkloadState::Lost) {
            words.push("Its shim on this host is gone.".to_owned());
        }
        if known.state == Some(WorkloadState::LostPages) {
            words.push(format!(
                "What is left of it is frozen for good: ferry rm --force {} removes it.",
                known.name
            ));
        }
        let located = known.located.as_ref();
        Recovery {
            workload: known.id,
            actions: Choice::offered(&known, here),
            in_doubt: in_doubt(&known.entries, located)
                || known.told.iter().any(|told| in_doubt(told, located)),
            here: known.entries.iter().map(line).collect(),
            peer: known.told.map(|entries| entries.iter().map(line).collect()),
            peer_name: known.peer_name,
            decider: said(located),
            epoch: located.map(|located| located.record.epoch),
            conclusion: words.join(" "),
            name: known.name,
        }
    }

    /// Does an action that was offered, and says how it stands then.
    ///
    /// # Errors
    /// `Usage` for an action that nobody knows; `Refused`, with the reason, for one that is not safe now.
    pub fn recover(&self, name: &str, choice: &RecoveryChoice) -> Result<Recovery> {
        let choice = Choice::of(choice)?;
        let known = self.known(name)?;
        choice.judge(&known, self.identity().name())?;
        let id = known.id;
        match choice {
            Choice::RestartShim => self.workloads.restart_shim(id)?,
            Choice::ResumeMove => drop(self.movements()?.recover(id)?),
            Choice::Fence | Choice::CommitTo(_) | Choice::GiveUp => {
                let mv = match self.move_of(id) {
                    Some(mv) => Some(mv),
                    None => self.movements()?.recover(id)?,
                };
                if let (Some(mv), Some(input)) = (mv, choice.input()) {
                    self.movements()?.order(mv, input)?;
                }
                let end = Instant::now() + ACTION_TIME_MAX;
                while self.move_of(id).is_some() && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        self.recovery(name)
    }

    /// What a peer is told of this host's journal.
    pub fn tell_journal(&self, id: WorkloadId) -> Reply {
        let state = self.workloads.get(id).ok().map(|workload| workload.state);
        let entries = self.entries(id);
        let copy = copy(state, &entries, self.boot());
        Reply::Journal { entries, copy }
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
}

/// Whether a copy, running or frozen, is there; none: not known. What a move had here before the host was restarted is gone.
fn copy(state: Option<WorkloadState>, entries: &[Entry], boot: BootId) -> Option<bool> {
    let last_boot = entries.iter().rev().find_map(|entry| match entry {
        Entry::Step { boot_id, .. } => Some(*boot_id),
        Entry::Record(_) => None,
    });
    match state? {
        WorkloadState::Running
        | WorkloadState::Draining
        | WorkloadState::Paused
        | WorkloadState::Moving
        | WorkloadState::InDoubt => Some(true),
        WorkloadState::Gone | WorkloadState::Exited | WorkloadState::Suspended => Some(false),
        WorkloadState::Lost if last_boot.is_some_and(|last| last != boot) => Some(false),
        WorkloadState::Lost | WorkloadState::LostPages | WorkloadState::Starting => None,
    }
}

/// Whether a side has asked the decider and has no answer.
fn in_doubt(entries: &[Entry], located: Option<&Located>) -> bool {
    let Some(key) = last_key(entries) else { return false };
    let last = entries.iter().rev().find_map(|entry| match entry {
        Entry::Step { key: of, step, .. } if *of == key => Some(step),
        _ => None,
    });
    let decided = located.is_some_and(|located| located.record.epoch > key.epoch);
    let asked =
        matches!(last, Some(Step::Deciding { .. } | Step::Suspending { .. } | Step::HandingBack { .. }));
    asked && !decided
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
