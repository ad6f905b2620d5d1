//! A checkpoint that ends its workload.
//!
//! `Checkpointing -> Suspending -> Ended`. Once the image is on disk the decider swaps the owner's record to
//! `suspended(image)` under the next epoch; only then is the copy destroyed. Until then the way back is open, after the
//! question to the decider only on its answer.

use super::entry::steps_of;
use super::message::bounded;
use super::{
    Answer, Cas, Effect, Entry, Input, Key, Machine, Outcome, Parties, Receipt, Record, Standing, Step,
};
use crate::ids::{BootId, Hash, HostName};

/// One checkpoint that ends its workload. [`Input::Sent`] says that the image is written and synced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Suspend {
    key: Key,
    parties: Parties,
    copy: bool,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Writing,
    Suspending { image: Hash, doubt: bool },
    Destroying,
    Aborting,
    Ended(Outcome),
}

impl Suspend {
    /// Begins: journals CHECKPOINTING, freezes and captures into an image at `place`, which is for `to` in a warm move.
    /// `parties.peer` is this host too.
    #[must_use]
    pub fn begin(key: Key, parties: Parties, place: &str, to: Option<HostName>) -> (Self, Vec<Effect>) {
        let suspend = Self { key, parties, copy: true, stage: Stage::Writing };
        let began = Step::Checkpointing { place: Some(place.to_owned()), to };
        let effects = vec![suspend.journal(began), Effect::Freeze];
        (suspend, effects)
    }

    /// Rebuilds it from the journal. `None`: the journal knows no such checkpoint.
    #[must_use]
    pub fn recover(
        entries: &[Entry],
        key: Key,
        me: &HostName,
        boot_id: BootId,
        copy: bool,
    ) -> Option<(Self, Vec<Effect>)> {
        let mut suspend = None;
        for (entry_boot, step) in steps_of(entries, key) {
            let copy = copy && entry_boot == boot_id;
            let stage = match (step, &suspend) {
                (Step::Checkpointing { .. }, _) => Stage::Writing,
                (Step::Suspending { image }, _) => Stage::Suspending { image: *image, doubt: true },
                (Step::Aborted { .. }, _) => Stage::Aborting,
                (Step::Died, _) => Stage::Ended(Outcome::Died),
                (Step::Done, Some(Self { stage: Stage::Aborting, .. })) => Stage::Ended(Outcome::Aborted),
                (Step::Done, _) => Stage::Ended(Outcome::Suspended),
                _ => continue,
            };
            let parties = Parties { me: me.clone(), peer: me.clone(), boot_id };
            suspend = Some(Self { key, parties, copy, stage });
        }
        let mut suspend = suspend?;
        let effects = match suspend.stage {
            Stage::Writing => suspend.abort("The node restarted"),
            Stage::Aborting if !suspend.copy => suspend.on(Input::CopyGone),
            _ => suspend.on(Input::Tick),
        };
        Some((suspend, effects))
    }

    fn journal(&self, step: Step) -> Effect {
        Effect::Journal(Entry::Step { key: self.key, boot_id: self.parties.boot_id, step })
    }

    fn abort(&mut self, reason: &str) -> Vec<Effect> {
        if !self.copy {
            self.stage = Stage::Ended(Outcome::Died);
            return vec![self.journal(Step::Died)];
        }
        self.stage = Stage::Aborting;
        vec![self.journal(Step::Aborted { reason: bounded(reason.into()) }), Effect::Thaw]
    }

    fn ask(&self, image: Hash) -> Effect {
        let new = Record {
            id: self.key.id,
            epoch: self.key.epoch.next(),
            owner: self.parties.me.clone(),
            boot_id: self.parties.boot_id,
            standing: Standing::Suspended(image),
            mv: Some(self.key.mv),
            hash: Some(image),
        };
        Effect::Cas(Cas { owner: self.parties.me.clone(), epoch: self.key.epoch, new })
    }

    fn obey(&mut self, record: Record) -> Vec<Effect> {
        if record.id != self.key.id || record.epoch <= self.key.epoch {
            return Vec::new();
        }
        let mine = record.owner == self.parties.me && record.standing == Standing::Running;
        let known = Effect::Journal(Entry::Record(record.clone()));
        // Running under a later epoch of this very move: an operator fenced it, or a restore here took it back already.
        if mine && record.mv == Some(self.key.mv) && record.epoch == self.key.epoch.next() {
            return [vec![known], self.abort("The checkpoint was fenced off")].concat();
        }
        self.stage = Stage::Destroying;
        vec![known, Effect::Destroy]
    }
}

impl Machine for Suspend {
    fn on(&mut self, input: Input) -> Vec<Effect> {
        match (&mut self.stage, input) {
            (Stage::Writing, Input::Sent(Receipt { hash: image, .. })) => {
                self.stage = Stage::Suspending { image, doubt: false };
                vec![self.journal(Step::Suspending { image }), self.ask(image)]
            }
            (Stage::Writing, Input::Cancel(reason)) => self.abort(&reason),
            (Stage::Writing, Input::CopyGone) => {
                self.copy = false;
                self.abort("The workload ended")
            }
            // What was to run on has ended: like any program.
            (Stage::Aborting, Input::CopyGone) => {
                self.stage = Stage::Ended(Outcome::Died);
                vec![self.journal(Step::Died)]
            }
            (_, Input::CopyGone) => {
                self.copy = false;
                Vec::new()
            }
            (Stage::Suspending { image, .. }, Input::Tick) => {
                let image = *image;
                vec![self.ask(image)]
            }
            (Stage::Suspending { doubt, .. }, Input::Decider(answer)) => {
                *doubt = matches!(answer, Answer::Unknown | Answer::Refused(_));
                match answer {
                    Answer::Won(record) | Answer::Is(record) => self.obey(record),
                    Answer::Unknown | Answer::Refused(_) => Vec::new(),
                }
            }
            (Stage::Destroying, Input::Tick) => vec![Effect::Destroy],
            (Stage::Destroying, Input::Destroyed) => {
                self.stage = Stage::Ended(Outcome::Suspended);
                vec![self.journal(Step::Done)]
            }
            (Stage::Aborting, Input::Tick) => vec![Effect::Thaw],
            (Stage::Aborting, Input::Thawed) => {
                self.stage = Stage::Ended(Outcome::Aborted);
                vec![self.journal(Step::Done)]
            }
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
        self.stage == Stage::Writing
    }

    fn in_doubt(&self) -> bool {
        matches!(self.stage, Stage::Suspending { doubt: true, .. })
    }

    fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Writing => "checkpointing",
            Stage::Suspending { .. } => "suspending",
            Stage::Destroying => "suspended",
            Stage::Aborting => "aborting",
            Stage::Ended(_) => "ended",
        }
    }
}
