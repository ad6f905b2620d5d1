//! The target's side of a handover.
//!
//! `Reserved -> Prepared -> Checking -> Starting -> Running (-> Draining -> Complete) -> Ended`. Before PREPARED it may
//! discard as it likes. From PREPARED on only the source's ABORT or the decider's record ends it: it holds what may be
//! the last whole copy. A target that won and cannot start hands back, but never after STARTING.

use super::entry::{last_record, steps_of};
use super::message::bounded;
use super::{
    Answer, Body, Cas, Effect, Entry, Input, Key, Machine, Message, Outcome, Parties, Purpose, Receipt,
    Record, Standing, Step, Terms, after_next,
};
use crate::ids::{BootId, Hash, HostName};

/// The target of one move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    key: Key,
    parties: Parties,
    terms: Terms,
    /// What was restored, from PREPARED on: a move that may leave pages behind need not do so.
    receipt: Option<Receipt>,
    /// This host's copy exists: being built, frozen whole, or running.
    copy: bool,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Reserved { expected: Option<Receipt> },
    Prepared { receipt: Receipt },
    Checking { receipt: Receipt, record: Record },
    HandingBack { receipt: Receipt, record: Record, doubt: bool },
    Returned { record: Record },
    Starting,
    Running,
    Draining { paused: bool },
    Complete { hash: Hash },
    Discarding { reason: String },
    Dead,
    PagesLost,
    Ended(Outcome),
}

impl Target {
    /// Accepts an offer: journals RESERVED and says so. To be called after the policy has agreed and space is reserved.
    #[must_use]
    pub fn reserve(key: Key, parties: Parties, terms: Terms) -> (Self, Vec<Effect>) {
        let stage = Stage::Reserved { expected: None };
        let target = Self { key, parties, terms, receipt: None, copy: true, stage };
        let step = Step::Reserved { from: target.parties.peer.clone(), terms };
        let effects = vec![target.journal(step), target.send(Body::Reserved)];
        (target, effects)
    }

    /// Rebuilds the target of `key` from the journal after a crash or a restart; `copy` says whether what was restored (frozen
    /// or running) is still on this host. `None`: the journal knows no such move to here.
    #[must_use]
    pub fn recover(
        entries: &[Entry],
        key: Key,
        me: &HostName,
        boot_id: BootId,
        copy: bool,
    ) -> Option<(Self, Vec<Effect>)> {
        let mut target: Option<Self> = None;
        for (entry_boot, step) in steps_of(entries, key) {
            let copy = copy && entry_boot == boot_id;
            if let Step::Reserved { from, terms } = step {
                let parties = Parties { me: me.clone(), peer: from.clone(), boot_id };
                let stage = Stage::Reserved { expected: None };
                target = Some(Self { key, parties, terms: *terms, receipt: None, copy, stage });
                continue;
            }
            let Some(target) = &mut target else { continue };
            target.copy = copy;
            target.stage = match step {
                Step::Prepared { receipt } => {
                    target.receipt = Some(*receipt);
                    Stage::Prepared { receipt: *receipt }
                }
                Step::HandingBack { .. } => match (target.receipt, target.record_in(entries)) {
                    (Some(receipt), Some(record)) => Stage::HandingBack { receipt, record, doubt: true },
                    _ => continue,
                },
                Step::HandedBack => match last_record(entries) {
                    Some(record) => Stage::Returned { record: record.clone() },
                    None => continue,
                },
                Step::Starting => Stage::Starting,
                Step::Running if target.pages_follow() => Stage::Draining { paused: true },
                Step::Running => Stage::Running,
                Step::Complete { hash } => Stage::Complete { hash: *hash },
                Step::Discarded { reason } => Stage::Discarding { reason: reason.clone() },
                Step::Died => Stage::Dead,
                Step::Lost => Stage::PagesLost,
                Step::Done => Stage::Ended(match &target.stage {
                    Stage::Discarding { .. } => Outcome::Aborted,
                    Stage::Returned { .. } => Outcome::HandedBack,
                    Stage::Dead => Outcome::Died,
                    Stage::PagesLost => Outcome::Lost,
                    _ => Outcome::Moved,
                }),
                _ => continue,
            };
        }
        let mut target = target?;
        let effects = target.resume(entries);
        Some((target, effects))
    }

    /// The record of this very move, if the journal has it: then this host knew that it had won.
    fn record_in(&self, entries: &[Entry]) -> Option<Record> {
        entries.iter().find_map(|entry| match entry {
            Entry::Record(record) if self.is_mine(record) => Some(record.clone()),
            _ => None,
        })
    }

    /// What a restarted target does first.
    fn resume(&mut self, entries: &[Entry]) -> Vec<Effect> {
        match self.stage {
            Stage::Reserved { .. } => self.discard("The target's node restarted".into()),
            Stage::Prepared { receipt } => match self.record_in(entries) {
                Some(record) => self.check(receipt, record),
                None => self.on(Input::Tick),
            },
            Stage::Starting | Stage::Running | Stage::Draining { .. } | Stage::Complete { .. }
                if !self.copy =>
            {
                self.on_copy_gone()
            }
            _ => self.on(Input::Tick),
        }
    }

    /// The other side.
    #[must_use]
    pub fn peer(&self) -> &HostName {
        &self.parties.peer
    }

    /// What was offered.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// True while post-copy waits for the source: the tasks that touch missing pages are blocked.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        matches!(self.stage, Stage::Draining { paused: true })
    }

    /// False until every page is in: no clone, move or checkpoint of the workload before.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.pages_follow() || matches!(self.stage, Stage::Complete { .. } | Stage::Ended(Outcome::Moved))
    }

    /// Whether pages follow after the resume, as far as is known.
    fn pages_follow(&self) -> bool {
        self.terms.post_copy && self.receipt.is_none_or(|receipt| receipt.missing_pages > 0)
    }

    fn journal(&self, step: Step) -> Effect {
        Effect::Journal(Entry::Step { key: self.key, boot_id: self.parties.boot_id, step })
    }

    fn send(&self, body: Body) -> Effect {
        Effect::Send(Message { key: self.key, body })
    }

    /// This record says that this move was won by this host.
    fn is_mine(&self, record: &Record) -> bool {
        record.id == self.key.id
            && record.epoch == self.key.epoch.next()
            && record.owner == self.parties.me
            && record.mv == Some(self.key.mv)
            && record.standing == Standing::Running
    }

    fn discard(&mut self, reason: String) -> Vec<Effect> {
        let reason = bounded(reason);
        let told = self.send(Body::Discarded { reason: reason.clone() });
        let effects = vec![self.journal(Step::Discarded { reason: reason.clone() }), Effect::Destroy, told];
        self.stage = Stage::Discarding { reason };
        effects
    }

    fn receipt_or_unable(&self, receipt: Receipt) -> Effect {
        let boot_id = self.parties.boot_id;
        self.send(if self.copy {
            Body::Prepared { receipt, boot_id }
        } else {
            Body::Unable {
                reason: "The prepared copy is gone: the target's host restarted or ended it".into(),
            }
        })
    }

    /// Obeys a record, told or read. Below the next epoch nothing is decided.
    fn obey(&mut self, receipt: Receipt, record: &Record) -> Vec<Effect> {
        if record.id != self.key.id || record.epoch <= self.key.epoch {
            return Vec::new();
        }
        if !self.is_mine(record) {
            return self.discard("The decider gave the workload to another move".into());
        }
        if record.hash != Some(receipt.hash) {
            return Vec::new();
        }
        let mut effects = vec![Effect::Journal(Entry::Record(record.clone()))];
        effects.extend(self.check(receipt, record.clone()));
        effects
    }

    fn check(&mut self, receipt: Receipt, record: Record) -> Vec<Effect> {
        self.stage = Stage::Checking { receipt, record };
        if self.copy {
            return vec![Effect::Check];
        }
        self.cannot_start("The prepared copy is gone: the target's host restarted or ended it".into())
    }

    /// Won, not STARTING: give it back, and never start it, whatever the decider answers and whenever.
    fn cannot_start(&mut self, reason: String) -> Vec<Effect> {
        let reason = bounded(reason);
        let Stage::Checking { receipt, record } = &self.stage else { return Vec::new() };
        if self.terms.purpose == Purpose::Clone {
            return self.discard(reason);
        }
        let (receipt, record) = (*receipt, record.clone());
        let effects = vec![self.journal(Step::HandingBack { reason }), self.give_back(receipt, &record)];
        self.stage = Stage::HandingBack { receipt, record, doubt: false };
        effects
    }

    fn give_back(&self, receipt: Receipt, record: &Record) -> Effect {
        let new = Record {
            epoch: record.epoch.next(),
            owner: self.parties.peer.clone(),
            boot_id: self.terms.source_boot_id,
            hash: Some(receipt.hash),
            ..record.clone()
        };
        Effect::Cas(Cas { owner: self.parties.me.clone(), epoch: record.epoch, new })
    }

    fn handed_back(&mut self, record: Record) -> Vec<Effect> {
        self.stage = Stage::Returned { record: record.clone() };
        let known = Effect::Journal(Entry::Record(record.clone()));
        vec![known, self.journal(Step::HandedBack), Effect::Destroy, self.send(Body::HandBack { record })]
    }

    fn running(&mut self) -> Vec<Effect> {
        self.stage = if self.pages_follow() { Stage::Draining { paused: false } } else { Stage::Running };
        vec![self.journal(Step::Running), self.send(Body::Running)]
    }

    fn pages_lost(&mut self) -> Vec<Effect> {
        self.stage = Stage::PagesLost;
        vec![self.journal(Step::Lost), Effect::Hold, self.send(Body::Lost)]
    }

    fn on_copy_gone(&mut self) -> Vec<Effect> {
        self.copy = false;
        match &self.stage {
            Stage::Reserved { .. } => self.discard("What was being restored has ended".into()),
            Stage::Prepared { receipt } => vec![self.receipt_or_unable(*receipt)],
            Stage::Checking { .. } => self.cannot_start("The prepared copy is gone".into()),
            Stage::Starting | Stage::Running | Stage::Draining { .. } | Stage::Complete { .. } => {
                self.stage = Stage::Dead;
                vec![self.journal(Step::Died), self.send(Body::Died)]
            }
            _ => Vec::new(),
        }
    }

    fn on_message(&mut self, body: Body) -> Vec<Effect> {
        match (&mut self.stage, body) {
            (Stage::Reserved { expected: None }, Body::Offer { .. }) => vec![self.send(Body::Reserved)],
            (Stage::Reserved { expected: expected @ None }, Body::State { receipt }) => {
                *expected = Some(receipt);
                vec![Effect::Restore]
            }
            (Stage::Reserved { .. } | Stage::Prepared { .. }, Body::Abort { reason }) => self.discard(reason),
            (Stage::Returned { record }, Body::Commit { .. }) => {
                let record = record.clone();
                vec![self.send(Body::HandBack { record })]
            }
            // The record is the decider's to show; this only tells the source to look.
            (Stage::Ended(Outcome::HandedBack), Body::Commit { record }) => {
                vec![self.send(Body::HandBack { record })]
            }
            (Stage::Prepared { receipt }, Body::State { .. } | Body::Ask) => {
                let receipt = *receipt;
                vec![self.receipt_or_unable(receipt)]
            }
            (Stage::Prepared { receipt }, Body::Commit { record }) => {
                let receipt = *receipt;
                self.obey(receipt, &record)
            }
            (Stage::Running | Stage::Draining { .. }, Body::Commit { .. }) => vec![self.send(Body::Running)],
            (Stage::Draining { .. }, Body::PagesGone) => self.pages_lost(),
            (Stage::Running | Stage::Complete { .. }, Body::Acknowledge) => self.done(Outcome::Moved),
            (Stage::Dead, Body::Acknowledge) => self.done(Outcome::Died),
            (Stage::PagesLost, Body::Acknowledge) => self.done(Outcome::Lost),
            (
                Stage::Discarding { reason },
                Body::Offer { .. } | Body::State { .. } | Body::Ask | Body::Commit { .. },
            ) => {
                let reason = reason.clone();
                vec![self.send(Body::Discarded { reason })]
            }
            (
                Stage::Ended(Outcome::Aborted),
                Body::Offer { .. } | Body::State { .. } | Body::Ask | Body::Commit { .. },
            ) => {
                vec![self.send(Body::Discarded { reason: "This move has ended".into() })]
            }
            (
                Stage::Complete { .. } | Stage::Dead | Stage::PagesLost,
                Body::Commit { .. } | Body::PagesGone,
            ) => self.on(Input::Tick),
            _ => Vec::new(),
        }
    }

    fn done(&mut self, outcome: Outcome) -> Vec<Effect> {
        self.stage = Stage::Ended(outcome);
        vec![self.journal(Step::Done)]
    }

    fn on_tick(&mut self) -> Vec<Effect> {
        match &self.stage {
            Stage::Reserved { expected: None } => vec![self.send(Body::Reserved)],
            Stage::Prepared { receipt } => vec![self.receipt_or_unable(*receipt), Effect::Read],
            Stage::Checking { .. } => vec![Effect::Check],
            Stage::HandingBack { receipt, record, .. } => vec![self.give_back(*receipt, record)],
            Stage::Starting => vec![Effect::Thaw],
            Stage::Running | Stage::Draining { .. } => vec![self.send(Body::Running)],
            Stage::Complete { hash } => vec![self.send(Body::Complete { hash: *hash })],
            Stage::Discarding { .. } | Stage::Returned { .. } => vec![Effect::Destroy],
            Stage::Dead => vec![self.send(Body::Died)],
            Stage::PagesLost => vec![Effect::Hold, self.send(Body::Lost)],
            Stage::Reserved { .. } | Stage::Ended(_) => Vec::new(),
        }
    }
}

impl Machine for Target {
    fn on(&mut self, input: Input) -> Vec<Effect> {
        match (&mut self.stage, input) {
            (_, Input::Message(message)) if message.key == self.key => self.on_message(message.body),
            (_, Input::Tick) => self.on_tick(),
            (Stage::Reserved { .. }, Input::Cancel(reason)) => self.discard(reason),
            (Stage::Reserved { expected }, Input::Restored(receipt)) => {
                if *expected != Some(receipt) {
                    return self.discard("What was restored is not what was captured".into());
                }
                self.stage = Stage::Prepared { receipt };
                self.receipt = Some(receipt);
                vec![self.journal(Step::Prepared { receipt }), self.receipt_or_unable(receipt)]
            }
            (Stage::Prepared { receipt }, Input::Decider(Answer::Won(record) | Answer::Is(record))) => {
                let receipt = *receipt;
                self.obey(receipt, &record)
            }
            (Stage::Checking { .. }, Input::Ready) => {
                self.stage = Stage::Starting;
                vec![self.journal(Step::Starting), Effect::Thaw]
            }
            (Stage::Checking { .. }, Input::NotReady(reason)) => self.cannot_start(reason),
            (Stage::HandingBack { doubt, .. }, Input::Decider(answer)) => match answer {
                Answer::Won(record) | Answer::Is(record) if record.epoch >= after_next(self.key.epoch) => {
                    self.handed_back(record)
                }
                _ => {
                    *doubt = true;
                    Vec::new()
                }
            },
            (Stage::Starting, Input::Thawed) => self.running(),
            (Stage::Draining { paused }, Input::Link(up)) => {
                *paused = !up;
                Vec::new()
            }
            (Stage::Draining { .. }, Input::PagesIn(hash)) => {
                self.stage = Stage::Complete { hash };
                vec![self.journal(Step::Complete { hash }), self.send(Body::Complete { hash })]
            }
            (Stage::Draining { .. }, Input::SourceLost) => self.pages_lost(),
            (Stage::Discarding { .. }, Input::Destroyed) => self.done(Outcome::Aborted),
            (Stage::Returned { .. }, Input::Destroyed) => self.done(Outcome::HandedBack),
            (_, Input::CopyGone) => self.on_copy_gone(),
            _ => Vec::new(),
        }
    }

    fn key(&self) -> Key {
        self.key
    }

    fn outcome(&self) -> Option<Outcome> {
        match self.stage {
            Stage::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    fn can_cancel(&self) -> bool {
        matches!(self.stage, Stage::Reserved { .. })
    }

    fn in_doubt(&self) -> bool {
        matches!(self.stage, Stage::Prepared { .. } | Stage::HandingBack { doubt: true, .. })
    }

    fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Reserved { .. } => "reserved",
            Stage::Prepared { .. } => "prepared",
            Stage::Checking { .. } => "won",
            Stage::HandingBack { .. } => "handing back",
            Stage::Returned { .. } => "handed back",
            Stage::Starting => "starting",
            Stage::Running => "running",
            Stage::Draining { paused: true } => "paused",
            Stage::Draining { paused: false } => "draining",
            Stage::Complete { .. } => "complete",
            Stage::Discarding { .. } => "discarding",
            Stage::Dead => "ended",
            Stage::PagesLost => "lost pages",
            Stage::Ended(_) => "ended",
        }
    }
}
