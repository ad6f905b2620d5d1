//! A restore that takes a suspended workload back.
//!
//! `Building -> Taking -> Starting -> Ended`. The image is verified and built into a frozen cgroup first; then the decider
//! swaps `suspended(image)` to `running` here, once: a second restore finds another epoch and is refused (`--as-clone`
//! makes a new workload instead). Won and unable to start before STARTING: put back to suspended, so that nothing is lost.

use super::entry::steps_of;
use super::{
    Answer, Body, Cas, Effect, Entry, Input, Key, Machine, Message, Outcome, Parties, Record, Standing, Step,
    after_next,
};
use crate::ids::{Epoch, Hash};

/// One restore. `key.epoch` is the epoch under which the workload is suspended, as the image says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Restore {
    key: Key,
    parties: Parties,
    image: Hash,
    copy: bool,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Taking { doubt: bool },
    Checking,
    PuttingBack { doubt: bool },
    Starting,
    Discarding,
    Ended(Outcome),
}

impl Restore {
    /// The copy is verified, whole and frozen: journals TAKING and asks the decider for it. `parties.peer` is the host that
    /// owns the suspended workload. A restore that fails before this point needs no machine: nothing was promised.
    #[must_use]
    pub fn take(key: Key, parties: Parties, image: Hash) -> (Self, Vec<Effect>) {
        let restore = Self { key, parties, image, copy: true, stage: Stage::Taking { doubt: false } };
        let from = Some(restore.parties.peer.clone());
        let effects = vec![restore.journal(Step::Taking { image, from }), restore.ask()];
        (restore, effects)
    }

    /// The copy of a clone is verified, whole and frozen. `key.epoch` is 0: it is a new workload, so nothing is decided, and one
    /// that cannot start is discarded.
    #[must_use]
    pub fn clone_of(key: Key, parties: Parties, image: Hash) -> (Self, Vec<Effect>) {
        let restore = Self { key, parties, image, copy: true, stage: Stage::Checking };
        (restore, vec![Effect::Check])
    }

    fn is_clone(&self) -> bool {
        self.key.epoch == Epoch(0)
    }

    /// Rebuilds it from the journal, which also says whom it asks. `None`: the journal knows no such restore.
    #[must_use]
    pub fn recover(
        entries: &[Entry],
        key: Key,
        parties: &Parties,
        copy: bool,
    ) -> Option<(Self, Vec<Effect>)> {
        let mut restore = None;
        for (entry_boot, step) in steps_of(entries, key) {
            let copy = copy && entry_boot == parties.boot_id;
            if let Step::Taking { image, from } = step {
                let stage = Stage::Taking { doubt: true };
                let mut parties = parties.clone();
                parties.peer = from.clone().unwrap_or(parties.peer);
                restore = Some(Self { key, parties, image: *image, copy, stage });
                continue;
            }
            // A clone begins with this: before, nothing was promised.
            let begins = |image| Self { key, parties: parties.clone(), image, copy, stage: Stage::Starting };
            let clone = key.epoch == Epoch(0) && matches!(step, Step::Starting | Step::Discarded { .. });
            if restore.is_none() && clone {
                restore = Some(begins(Hash([0; 32])));
            }
            let Some(restore) = &mut restore else { continue };
            restore.copy = copy;
            restore.stage = match step {
                Step::PuttingBack { .. } => Stage::PuttingBack { doubt: true },
                Step::Starting => Stage::Starting,
                Step::Discarded { .. } => Stage::Discarding,
                Step::Running => Stage::Ended(Outcome::Moved),
                Step::Died => Stage::Ended(Outcome::Died),
                Step::Done => match restore.stage {
                    Stage::Ended(outcome) => Stage::Ended(outcome),
                    _ => Stage::Ended(Outcome::Aborted),
                },
                _ => continue,
            };
        }
        let mut restore = restore?;
        let effects = match restore.stage {
            Stage::Starting if !restore.copy => restore.on(Input::CopyGone),
            _ => restore.on(Input::Tick),
        };
        Some((restore, effects))
    }

    fn journal(&self, step: Step) -> Effect {
        Effect::Journal(Entry::Step { key: self.key, boot_id: self.parties.boot_id, step })
    }

    fn taken(&self) -> Record {
        Record {
            id: self.key.id,
            epoch: self.key.epoch.next(),
            owner: self.parties.me.clone(),
            boot_id: self.parties.boot_id,
            standing: Standing::Running,
            mv: Some(self.key.mv),
            hash: Some(self.image),
        }
    }

    fn ask(&self) -> Effect {
        Effect::Cas(Cas { owner: self.parties.peer.clone(), epoch: self.key.epoch, new: self.taken() })
    }

    fn put_back(&self) -> Effect {
        let taken = self.taken();
        let epoch = after_next(self.key.epoch);
        let new = Record { epoch, standing: Standing::Suspended(self.image), ..taken.clone() };
        Effect::Cas(Cas { owner: taken.owner, epoch: taken.epoch, new })
    }

    fn discard(&mut self, reason: &str) -> Vec<Effect> {
        self.stage = Stage::Discarding;
        vec![self.journal(Step::Discarded { reason: reason.into() }), Effect::Destroy]
    }

    fn cannot_start(&mut self) -> Vec<Effect> {
        if self.is_clone() {
            return self.discard("It could not be started");
        }
        self.stage = Stage::PuttingBack { doubt: false };
        vec![self.journal(Step::PuttingBack { image: self.image }), self.put_back()]
    }

    fn obey(&mut self, record: &Record) -> Vec<Effect> {
        if record.id != self.key.id || record.epoch <= self.key.epoch {
            return Vec::new();
        }
        let taken = self.taken();
        if (record.epoch, &record.owner, record.mv) != (taken.epoch, &taken.owner, taken.mv) {
            return self.discard("The image was restored before");
        }
        let known = Effect::Journal(Entry::Record(record.clone()));
        self.stage = Stage::Checking;
        let next = if self.copy { vec![Effect::Check] } else { self.cannot_start() };
        [vec![known], next].concat()
    }
}

/// What a journal says to the host that suspended a workload and asks what became of the restore (`Body::Ask`). Outer `None`: the
/// journal knows of no such restore; inner `None`: it is not over.
pub(super) fn told(entries: &[Entry], message: &Message) -> Option<Option<Body>> {
    let steps: Vec<&Step> = steps_of(entries, message.key).map(|(_, step)| step).collect();
    let begun = steps.iter().any(|step| matches!(step, Step::Taking { .. }));
    if message.body != Body::Ask || !begun {
        return None;
    }
    Some(steps.iter().rev().find_map(|step| match step {
        Step::Running => Some(Body::Running),
        Step::Died => Some(Body::Died),
        Step::Discarded { reason } => Some(Body::Discarded { reason: reason.clone() }),
        _ => None,
    }))
}

impl Machine for Restore {
    fn on(&mut self, input: Input) -> Vec<Effect> {
        match (&mut self.stage, input) {
            (Stage::Taking { .. }, Input::Tick) => vec![self.ask()],
            (Stage::Taking { doubt }, Input::Decider(answer)) => match answer {
                Answer::Won(record) | Answer::Is(record) => {
                    *doubt = false;
                    self.obey(&record)
                }
                // Against the rules (another image, another host's): it cannot have happened and never will.
                Answer::Refused(refusal) => self.discard(&refusal.to_string()),
                Answer::Unknown => {
                    *doubt = true;
                    Vec::new()
                }
            },
            (Stage::Checking, Input::Ready) => {
                self.stage = Stage::Starting;
                let first = Effect::Journal(Entry::Record(self.taken()));
                let first = self.is_clone().then_some(first);
                first.into_iter().chain([self.journal(Step::Starting), Effect::Thaw]).collect()
            }
            (Stage::Checking, Input::NotReady(_)) => self.cannot_start(),
            (Stage::Checking, Input::Tick) => vec![Effect::Check],
            (Stage::PuttingBack { .. }, Input::Tick) => vec![self.put_back()],
            (Stage::PuttingBack { doubt }, Input::Decider(answer)) => match answer {
                Answer::Won(record) | Answer::Is(record) if record.epoch >= after_next(self.key.epoch) => {
                    let known = Effect::Journal(Entry::Record(record));
                    [vec![known], self.discard("It could not be started here; it is an image as before")]
                        .concat()
                }
                _ => {
                    *doubt = true;
                    Vec::new()
                }
            },
            (Stage::Starting, Input::Tick) => vec![Effect::Thaw],
            (Stage::Starting, Input::Thawed) => {
                self.stage = Stage::Ended(Outcome::Moved);
                vec![self.journal(Step::Running), self.journal(Step::Done)]
            }
            (Stage::Discarding, Input::Tick) => vec![Effect::Destroy],
            (Stage::Discarding, Input::Destroyed) => {
                self.stage = Stage::Ended(Outcome::Aborted);
                vec![self.journal(Step::Done)]
            }
            (stage, Input::CopyGone) => {
                self.copy = false;
                match stage {
                    Stage::Checking => self.cannot_start(),
                    Stage::Starting => {
                        self.stage = Stage::Ended(Outcome::Died);
                        vec![self.journal(Step::Died)]
                    }
                    _ => Vec::new(),
                }
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
        false
    }

    fn in_doubt(&self) -> bool {
        matches!(self.stage, Stage::Taking { doubt: true } | Stage::PuttingBack { doubt: true })
    }

    fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Taking { .. } => "taking",
            Stage::Checking => "won",
            Stage::PuttingBack { .. } => "putting back",
            Stage::Starting => "starting",
            Stage::Discarding => "discarding",
            Stage::Ended(_) => "ended",
        }
    }
}
