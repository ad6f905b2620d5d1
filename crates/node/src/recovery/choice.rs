//! The safe actions, each with its command; and for each that is not safe now, the reason by name.

use super::Known;
use ferry_model::api::{RecoveryAction, RecoveryChoice, WorkloadState};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::handover::advice::Action;
use ferry_model::handover::entry::last_key;
use ferry_model::handover::{Entry, Input, Step};
use ferry_model::ids::HostName;

/// What a person chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A successor for a shim that is gone.
    RestartShim,
    /// A move that the journal knows and nobody carries on.
    ResumeMove,
    /// The source takes it back, through the decider.
    Fence,
    /// The source, without a copy, gives it to the target that has one, through the decider.
    CommitTo(HostName),
    /// The target stops waiting for pages that will never come.
    GiveUp,
}

impl Choice {
    /// What the API's client named.
    pub fn of(choice: &RecoveryChoice) -> Result<Self> {
        match (choice.action.as_str(), &choice.to) {
            ("restart-shim", None) => Ok(Self::RestartShim),
            ("resume-move", None) => Ok(Self::ResumeMove),
            ("fence", None) => Ok(Self::Fence),
            ("commit-to", Some(host)) => Ok(Self::CommitTo(host.clone())),
            ("give-up", None) => Ok(Self::GiveUp),
            (other, _) => Err(Error::new(Kind::Usage, format!("There is no action '{other}'"))
                .hint("restart-shim, resume-move, fence, commit-to HOST, give-up")),
        }
    }

    /// What the machine of the handover is told.
    pub fn input(&self) -> Option<Input> {
        match self {
            Self::Fence => Some(Input::Fence),
            Self::CommitTo(_) => Some(Input::Tick),
            Self::GiveUp => Some(Input::SourceLost),
            Self::RestartShim | Self::ResumeMove => None,
        }
    }

    /// Those that are safe on host `here` now.
    pub fn offered(known: &Known, here: &HostName) -> Vec<RecoveryAction> {
        let mut all = vec![Self::RestartShim, Self::ResumeMove, Self::Fence, Self::GiveUp];
        all.extend(known.peer_name.clone().map(Self::CommitTo));
        all.retain(|choice| choice.against(known, here).is_none());
        all.iter().map(|choice| choice.described(&known.name)).collect()
    }

    /// Refuses what is not safe now.
    pub fn judge(&self, known: &Known, here: &HostName) -> Result<()> {
        let Some(why) = self.against(known, here) else { return Ok(()) };
        let described = self.described(&known.name);
        Err(Error::new(Kind::Refused, format!("{} is not safe now: {why}", described.name))
            .hint(format!("ferry recover {} shows what is", known.name)))
    }

    fn described(&self, workload: &str) -> RecoveryAction {
        let (name, flag, about) = match self {
            Self::RestartShim => (
                "restart-shim",
                "--do restart-shim".to_owned(),
                "start a successor for its shim, which takes over what is left of it",
            ),
            Self::ResumeMove => {
                ("resume-move", "--do resume-move".to_owned(), "take the move up again from the journal")
            }
            Self::Fence => (
                "fence",
                "--fence".to_owned(),
                "take it back here, through the decider, which refuses if the target has won",
            ),
            Self::CommitTo(host) => (
                "commit-to",
                format!("--commit-to {host}"),
                "have the decider give it to that host, which holds the only whole copy",
            ),
            Self::GiveUp => (
                "give-up",
                "--give-up".to_owned(),
                "say that the source's host never comes back: it stays frozen for good",
            ),
        };
        let command = format!("ferry recover {workload} {flag}");
        RecoveryAction { name: name.to_owned(), command, about: about.to_owned() }
    }

    /// What speaks against it; none: it is safe.
    fn against(&self, known: &Known, here: &HostName) -> Option<String> {
        let offers = |wanted: &Action| known.advice.actions.contains(wanted);
        match self {
            Self::RestartShim => match known.state {
                Some(WorkloadState::Lost) => None,
                _ => Some("no shim of it is missing on this host".to_owned()),
            },
            Self::ResumeMove if !open_move(&known.entries) => Some("no move of it is unfinished".to_owned()),
            Self::ResumeMove => known.moving.then(|| "its move is under way".to_owned()),
            Self::Fence if offers(&Action::TakeBack { host: here.clone() }) => None,
            Self::Fence => Some(why_no_fence(known, here)),
            // The offer may be for the other side to take.
            Self::CommitTo(host)
                if offers(&Action::CommitTo { host: host.clone() }) && is_source(&known.entries) =>
            {
                None
            }
            Self::CommitTo(host) => Some(why_no_commit(known, host)),
            Self::GiveUp if offers(&Action::GiveUpPages { host: here.clone() }) => None,
            Self::GiveUp => {
                Some("no pages of it are missing here, or the host that has them answers".to_owned())
            }
        }
    }
}

fn why_no_fence(known: &Known, here: &HostName) -> String {
    if let Some(winner) = winner(known).filter(|winner| winner != here) {
        return format!("{winner} has won it, and a copy taken back here would be a second one");
    }
    match (last_step(&known.entries), &known.peer_name) {
        (Some(Step::Offered { .. } | Step::Frozen), _) => {
            "nothing is decided yet: `ferry moves cancel` gives the move up".to_owned()
        }
        (Some(Step::Deciding { .. }), Some(peer)) => {
            format!("the frozen copy here is gone, and {peer} has the only whole one")
        }
        (Some(Step::Reserved { .. } | Step::Prepared { .. }), Some(peer)) => {
            format!("only its source, {peer}, can take it back")
        }
        _ => "no move of it is in doubt".to_owned(),
    }
}

fn why_no_commit(known: &Known, host: &HostName) -> String {
    if let Some(winner) = winner(known) {
        return format!("it is decided: {winner} has it");
    }
    if !is_source(&known.entries) {
        return "only its owner's decider gives it away, and this host is not its owner".to_owned();
    }
    if known.peer_name.as_ref() != Some(host) {
        return format!("{host} takes no part in a move of it");
    }
    if known.told.is_none() {
        return format!("{host} does not answer, so nobody knows that it holds a whole copy");
    }
    match last_step(&known.entries) {
        Some(Step::Offered { .. } | Step::Frozen) => {
            format!("the copy is here, or {host} holds no whole one: the move goes on or ends by itself")
        }
        Some(Step::Deciding { .. }) => "the decider is asked already, again and again".to_owned(),
        _ => "no move of it is undecided".to_owned(),
    }
}

/// Whom the decider gave it to in its last move, if it did.
fn winner(known: &Known) -> Option<HostName> {
    let key = last_key(&known.entries)?;
    let record = &known.located.as_ref()?.record;
    (record.epoch > key.epoch).then(|| record.owner.clone())
}

fn last_step(entries: &[Entry]) -> Option<&Step> {
    steps(entries).last()
}

fn is_source(entries: &[Entry]) -> bool {
    matches!(steps(entries).next(), Some(Step::Offered { .. }))
}

/// Whether the last move of a journal is not over.
fn open_move(entries: &[Entry]) -> bool {
    let over = |step: &Step| matches!(step, Step::Done | Step::Died | Step::HandedBack | Step::Lost);
    steps(entries).next().is_some() && !steps(entries).any(over)
}

/// The steps of the last move.
fn steps(entries: &[Entry]) -> impl Iterator<Item = &Step> {
    let key = last_key(entries);
    entries.iter().filter_map(move |entry| match entry {
        Entry::Step { key: of, step, .. } if Some(*of) == key => Some(step),
        _ => None,
    })
}
