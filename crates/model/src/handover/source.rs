//! The source's side of a handover.
//!
//! `Offered -> Freezing -> Frozen -> Deciding -> Committed -> Ended`, with `Aborting` as the way back, which is open
//! until Deciding and again once the decider says that the workload is this host's. `Orphan` is Frozen without a copy
//! (the host restarted): then only the target can still have a whole one, so nothing may be cancelled.

use super::entry::steps_of;
use super::message::bounded;
use super::{
    Answer, Body, Cas, Effect, Entry, Input, Key, Machine, Message, Outcome, Parties, Purpose, Receipt,
    Record, Standing, Step, Terms, won_by,
};
use crate::ids::{BootId, HostName};

/// The source of one move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    key: Key,
    parties: Parties,
    terms: Terms,
    /// What was sent, once that is known: a move that may leave pages behind need not do so.
    receipt: Option<Receipt>,
    /// This host's copy exists (runs, or is frozen whole).
    copy: bool,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Offered { reserved: bool },
    Freezing,
    Frozen { sent: Option<Receipt>, cancel: Option<String> },
    Orphan,
    Deciding { receipt: Receipt, target_boot_id: BootId, fence: bool, doubt: bool },
    Committed { record: Record, over: Option<Outcome> },
    Aborting { reason: String, outcome: Outcome },
    Ended(Outcome),
}

impl Source {
    /// Begins a move: journals OFFERED and sends the offer. The workload runs on.
    #[must_use]
    pub fn offer(key: Key, parties: Parties, terms: Terms) -> (Self, Vec<Effect>) {
        let source = Self {
            key,
            parties,
            terms,
            receipt: None,
            copy: true,
            stage: Stage::Offered { reserved: false },
        };
        let step = Step::Offered { to: source.parties.peer.clone(), terms };
        let effects = vec![source.journal(step), source.send(Body::Offer { terms })];
        (source, effects)
    }

    /// Rebuilds the source of `key` from the journal after a crash or a restart; `copy` says whether the workload (running or
    /// frozen) is still on this host. `None`: the journal knows no such move from here.
    #[must_use]
    pub fn recover(
        entries: &[Entry],
        key: Key,
        me: &HostName,
        boot_id: BootId,
        copy: bool,
    ) -> Option<(Self, Vec<Effect>)> {
        let mut source = None;
        for (entry_boot, step) in steps_of(entries, key) {
            let copy = copy && entry_boot == boot_id;
            if let Step::Offered { to, terms } = step {
                let parties = Parties { me: me.clone(), peer: to.clone(), boot_id };
                let stage = Stage::Offered { reserved: false };
                source = Some(Self { key, parties, terms: *terms, receipt: None, copy, stage });
                continue;
            }
            let Some(source) = &mut source else { continue };
            source.copy = copy;
            if let Step::Deciding { receipt, .. } = step {
                source.receipt = Some(*receipt);
            }
            source.stage = match step {
                Step::Frozen => Stage::Frozen { sent: None, cancel: None },
                Step::Deciding { receipt, target_boot_id } => Stage::Deciding {
                    receipt: *receipt,
                    target_boot_id: *target_boot_id,
                    fence: false,
                    doubt: true,
                },
                Step::Committed { record } => Stage::Committed { record: record.clone(), over: None },
                Step::Aborted { reason } => {
                    Stage::Aborting { reason: reason.clone(), outcome: Outcome::Aborted }
                }
                Step::Lost => Stage::Ended(Outcome::Lost),
                Step::Died => Stage::Ended(Outcome::Died),
                Step::Done => match &source.stage {
                    Stage::Aborting { outcome, .. } => Stage::Ended(*outcome),
                    _ => Stage::Ended(Outcome::Moved),
                },
                _ => continue,
            };
        }
        let mut source = source?;
        let effects = source.resume();
        Some((source, effects))
    }

    /// What a restarted source does first.
    fn resume(&mut self) -> Vec<Effect> {
        match &self.stage {
            // What was captured or sent before the crash is not worth saving: it runs here, nobody else may.
            Stage::Offered { .. } | Stage::Freezing => self.abort("The source's node restarted".into()),
            Stage::Frozen { .. } if self.copy || self.terms.purpose == Purpose::Clone => {
                self.abort("The source's node restarted".into())
            }
            Stage::Frozen { .. } => self.orphaned(),
            Stage::Aborting { .. } if !self.copy => self.on_copy_gone(),
            Stage::Orphan | Stage::Deciding { .. } | Stage::Committed { .. } | Stage::Aborting { .. } => {
                self.on(Input::Tick)
            }
            Stage::Ended(_) => Vec::new(),
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

    /// True once the target has said RESERVED: rounds may begin.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        matches!(self.stage, Stage::Offered { reserved: true })
    }

    /// Whether pages follow after the resume, as far as is known: then the frozen copy is needed until all are in.
    fn pages_follow(&self) -> bool {
        self.terms.post_copy && self.receipt.is_none_or(|receipt| receipt.missing_pages > 0)
    }

    fn journal(&self, step: Step) -> Effect {
        Effect::Journal(Entry::Step { key: self.key, boot_id: self.parties.boot_id, step })
    }

    fn send(&self, body: Body) -> Effect {
        Effect::Send(Message { key: self.key, body })
    }

    /// The way back while it is still open: journal first, so that no later self may commit; then let it run.
    fn abort(&mut self, reason: String) -> Vec<Effect> {
        self.back(reason, Outcome::Aborted)
    }

    fn back(&mut self, reason: String, outcome: Outcome) -> Vec<Effect> {
        let reason = bounded(reason);
        let told = self.send(Body::Abort { reason: reason.clone() });
        if !self.copy {
            // Frozen, it was in nobody's hands; before that it simply ended, like any program whose host restarts.
            let ran = self.terms.purpose == Purpose::Clone
                || matches!(self.stage, Stage::Offered { .. } | Stage::Freezing);
            let (step, outcome) = if ran { (Step::Died, Outcome::Died) } else { (Step::Lost, Outcome::Lost) };
            self.stage = Stage::Ended(outcome);
            return vec![self.journal(step), told];
        }
        let effects = vec![self.journal(Step::Aborted { reason: reason.clone() }), Effect::Thaw, told];
        self.stage = Stage::Aborting { reason, outcome };
        effects
    }

    fn orphaned(&mut self) -> Vec<Effect> {
        if self.pages_follow() && self.receipt.is_some() {
            return self.pages_gone();
        }
        self.stage = Stage::Orphan;
        vec![self.send(Body::Ask)]
    }

    /// The pages that would have followed are gone: the target's copy can never be whole.
    fn pages_gone(&mut self) -> Vec<Effect> {
        self.back("The pages of the frozen copy are gone".into(), Outcome::Lost)
    }

    /// The target holds a whole copy, but for the pages that follow. For a clone there is nothing to decide.
    fn decide(&mut self, receipt: Receipt, target_boot_id: BootId) -> Vec<Effect> {
        self.receipt = Some(receipt);
        if self.terms.purpose == Purpose::Clone {
            let record = won_by(self.key, &self.parties.peer, target_boot_id, receipt.hash);
            return self.committed(record);
        }
        self.stage = Stage::Deciding { receipt, target_boot_id, fence: false, doubt: false };
        let deciding = self.journal(Step::Deciding { receipt, target_boot_id });
        vec![deciding, self.ask(receipt, target_boot_id, false)]
    }

    /// The one question to the decider: give it to the target, or (fencing) put it out of the target's reach.
    fn ask(&self, receipt: Receipt, target_boot_id: BootId, fence: bool) -> Effect {
        let given = won_by(self.key, &self.parties.peer, target_boot_id, receipt.hash);
        let kept = Record { owner: self.parties.me.clone(), boot_id: self.parties.boot_id, ..given.clone() };
        let new = if fence { kept } else { given };
        Effect::Cas(Cas { owner: self.parties.me.clone(), epoch: self.key.epoch, new })
    }

    fn committed(&mut self, record: Record) -> Vec<Effect> {
        let mut effects = vec![self.journal(Step::Committed { record: record.clone() })];
        self.stage = Stage::Committed { record, over: None };
        effects.extend(self.on(Input::Tick));
        effects
    }

    /// Obeys a record that the decider showed. Only a higher epoch than the move's says anything final.
    fn obey(&mut self, record: &Record) -> Vec<Effect> {
        let mine = record.owner == self.parties.me && record.standing == Standing::Running;
        if record.id != self.key.id || record.epoch <= self.key.epoch {
            return Vec::new();
        }
        match &self.stage {
            Stage::Deciding { .. } | Stage::Committed { over: None, .. } if mine => {
                let handed_back = record.epoch > self.key.epoch.next();
                let mut effects = vec![Effect::Journal(Entry::Record(record.clone()))];
                effects.extend(if handed_back {
                    self.back("The target could not start it and handed it back".into(), Outcome::HandedBack)
                } else {
                    self.abort("The move was fenced off before it was committed".into())
                });
                effects
            }
            // Won; or, by an operator's hand, somebody else's. Either way it will never run here again, and the target
            // is told the record as it is.
            Stage::Deciding { .. } => self.committed(record.clone()),
            _ => Vec::new(),
        }
    }

    /// Ends the source's copy: the target runs, or has ended, what was this workload.
    fn finish(&mut self, outcome: Outcome) -> Vec<Effect> {
        if self.terms.purpose == Purpose::Clone {
            self.stage = Stage::Ended(outcome);
            return vec![self.journal(Step::Done), self.send(Body::Acknowledge)];
        }
        if let Stage::Committed { over, .. } = &mut self.stage {
            *over = Some(outcome);
        }
        vec![Effect::Destroy]
    }

    fn on_message(&mut self, body: Body) -> Vec<Effect> {
        let clone = self.terms.purpose == Purpose::Clone;
        let follow = self.pages_follow();
        let failed = match &body {
            Body::Discarded { reason } | Body::Unable { reason } => Some(reason.clone()),
            _ => None,
        };
        match (&mut self.stage, body) {
            (Stage::Offered { reserved }, Body::Reserved) => {
                *reserved = true;
                Vec::new()
            }
            (Stage::Offered { reserved: false }, Body::Refused { reason }) => self.abort(reason),
            (Stage::Frozen { sent: Some(sent), .. }, Body::Prepared { receipt, boot_id }) => {
                if *sent == receipt {
                    return self.decide(receipt, boot_id);
                }
                self.abort("The target restored another state than was captured".into())
            }
            (Stage::Orphan, Body::Prepared { receipt, .. }) if receipt.missing_pages > 0 => self.pages_gone(),
            (Stage::Orphan, Body::Prepared { receipt, boot_id }) => self.decide(receipt, boot_id),
            (Stage::Offered { .. } | Stage::Freezing | Stage::Frozen { .. } | Stage::Orphan, _) => {
                failed.map(|reason| self.abort(reason)).unwrap_or_default()
            }
            (Stage::Deciding { receipt, target_boot_id, fence, .. }, Body::Unable { .. }) if self.copy => {
                *fence = true;
                let (receipt, boot_id) = (*receipt, *target_boot_id);
                vec![self.ask(receipt, boot_id, true)]
            }
            // The target learnt from the decider before this host did.
            (
                Stage::Deciding { .. },
                Body::Running | Body::Complete { .. } | Body::HandBack { .. } | Body::Died | Body::Lost,
            ) => vec![Effect::Read],
            (Stage::Committed { over: None, .. }, Body::Prepared { .. }) => self.on(Input::Tick),
            (Stage::Committed { over: None, .. }, Body::HandBack { .. }) => vec![Effect::Read],
            (Stage::Committed { over: None, .. }, Body::Discarded { .. }) if clone => {
                self.stage = Stage::Ended(Outcome::Aborted);
                vec![self.journal(Step::Done)]
            }
            (Stage::Committed { over: None, .. }, Body::Running) if !follow => self.finish(Outcome::Moved),
            (Stage::Committed { over: None, .. }, Body::Complete { .. }) => self.finish(Outcome::Moved),
            (Stage::Committed { over: None, .. }, Body::Died) => self.finish(Outcome::Died),
            (Stage::Committed { over: None, .. }, Body::Lost) => self.finish(Outcome::Lost),
            (Stage::Aborting { reason, .. }, _) => {
                let reason = reason.clone();
                vec![self.send(Body::Abort { reason })]
            }
            (Stage::Ended(Outcome::Moved | Outcome::Died | Outcome::Lost), Body::Running)
            | (Stage::Ended(_), Body::Complete { .. } | Body::Died | Body::Lost) => {
                vec![self.send(Body::Acknowledge)]
            }
            (Stage::Ended(_), Body::Reserved | Body::Prepared { .. } | Body::Unable { .. }) => {
                vec![self.send(Body::Abort { reason: "This move has ended".into() })]
            }
            _ => Vec::new(),
        }
    }

    fn on_tick(&mut self) -> Vec<Effect> {
        match &self.stage {
            Stage::Offered { reserved: false } => vec![self.send(Body::Offer { terms: self.terms })],
            Stage::Frozen { sent: Some(receipt), .. } => {
                let state = self.send(Body::State { receipt: *receipt });
                if self.terms.purpose == Purpose::Clone { vec![Effect::Thaw, state] } else { vec![state] }
            }
            Stage::Orphan => vec![self.send(Body::Ask)],
            Stage::Deciding { receipt, target_boot_id, fence, .. } => {
                vec![self.ask(*receipt, *target_boot_id, *fence)]
            }
            Stage::Committed { over: Some(_), .. } => vec![Effect::Destroy],
            Stage::Committed { record, .. } => {
                let commit = self.send(Body::Commit { record: record.clone() });
                match (self.pages_follow(), self.copy) {
                    (false, _) => vec![commit],
                    (true, true) => vec![Effect::Serve, commit],
                    (true, false) => vec![commit, self.send(Body::PagesGone)],
                }
            }
            Stage::Aborting { .. } => vec![Effect::Thaw],
            Stage::Offered { .. } | Stage::Freezing | Stage::Frozen { sent: None, .. } | Stage::Ended(_) => {
                Vec::new()
            }
        }
    }

    fn on_copy_gone(&mut self) -> Vec<Effect> {
        self.copy = false;
        let clone = self.terms.purpose == Purpose::Clone;
        if let Stage::Deciding { fence, .. } = &mut self.stage {
            // Nothing is left here to take back.
            *fence = false;
        }
        match &self.stage {
            Stage::Offered { .. } | Stage::Freezing => self.abort("The workload ended".into()),
            Stage::Frozen { .. } if clone => self.abort("The workload ended".into()),
            Stage::Frozen { .. } => self.orphaned(),
            Stage::Aborting { outcome, .. } => {
                self.stage = Stage::Ended(*outcome);
                vec![self.journal(Step::Done)]
            }
            Stage::Committed { over: None, .. } if self.pages_follow() => vec![self.send(Body::PagesGone)],
            _ => Vec::new(),
        }
    }
}

impl Machine for Source {
    fn on(&mut self, input: Input) -> Vec<Effect> {
        match (&mut self.stage, input) {
            (_, Input::Message(message)) if message.key == self.key => self.on_message(message.body),
            (_, Input::Tick) => self.on_tick(),
            (Stage::Offered { .. } | Stage::Freezing, Input::Cancel(reason)) => self.abort(reason),
            // Something may have killed the frozen copy unnoticed, and then the target's is the last: look before it is given up.
            (Stage::Frozen { cancel, .. }, Input::Cancel(reason)) => {
                *cancel = Some(reason);
                vec![Effect::Look]
            }
            (Stage::Frozen { cancel, .. }, Input::Ready) => match cancel.take() {
                Some(reason) => self.abort(reason),
                None => Vec::new(),
            },
            (Stage::Deciding { .. }, Input::Fence) if self.copy => vec![Effect::Look],
            (Stage::Deciding { receipt, target_boot_id, fence, .. }, Input::Ready) => {
                *fence = true;
                let (receipt, boot_id) = (*receipt, *target_boot_id);
                vec![self.ask(receipt, boot_id, true)]
            }
            (Stage::Offered { reserved: true }, Input::FreezeNow) => {
                self.stage = Stage::Freezing;
                vec![Effect::Freeze]
            }
            (Stage::Freezing, Input::Captured) => {
                self.stage = Stage::Frozen { sent: None, cancel: None };
                vec![self.journal(Step::Frozen)]
            }
            (Stage::Frozen { sent: sent @ None, .. }, Input::Sent(receipt)) => {
                *sent = Some(receipt);
                self.receipt = Some(receipt);
                let state = self.send(Body::State { receipt });
                // A clone's original has given all that is asked of it.
                let clone = self.terms.purpose == Purpose::Clone;
                if clone { vec![Effect::Thaw, state] } else { vec![state] }
            }
            (Stage::Deciding { doubt, .. }, Input::Decider(answer)) => {
                *doubt = matches!(answer, Answer::Unknown | Answer::Refused(_));
                match answer {
                    Answer::Won(record) | Answer::Is(record) => self.obey(&record),
                    // Against the registry's rules it will never be a commit: put it out of reach, then let it run here.
                    Answer::Refused(_) if self.copy => vec![Effect::Look],
                    Answer::Unknown | Answer::Refused(_) => Vec::new(),
                }
            }
            (Stage::Committed { .. }, Input::Decider(Answer::Won(record) | Answer::Is(record))) => {
                self.obey(&record)
            }
            (Stage::Aborting { outcome, .. }, Input::Thawed) => {
                self.stage = Stage::Ended(*outcome);
                vec![self.journal(Step::Done)]
            }
            (Stage::Committed { over: Some(outcome), .. }, Input::Destroyed) => {
                self.stage = Stage::Ended(*outcome);
                self.copy = false;
                vec![self.journal(Step::Done), self.send(Body::Acknowledge)]
            }
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
        matches!(self.stage, Stage::Offered { .. } | Stage::Freezing | Stage::Frozen { .. })
    }

    fn in_doubt(&self) -> bool {
        matches!(self.stage, Stage::Deciding { doubt: true, .. })
    }

    fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Offered { .. } => "offered",
            Stage::Freezing => "freezing",
            Stage::Frozen { .. } => "frozen",
            Stage::Orphan => "frozen copy gone",
            Stage::Deciding { doubt: false, .. } => "deciding",
            Stage::Deciding { doubt: true, .. } => "in doubt",
            Stage::Committed { .. } if self.pages_follow() => "serving pages",
            Stage::Committed { .. } => "committed",
            Stage::Aborting { .. } => "aborting",
            Stage::Ended(_) => "ended",
        }
    }
}
