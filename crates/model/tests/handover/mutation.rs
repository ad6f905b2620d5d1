//! Rules broken on purpose: a checker that does not find them proves nothing.

use super::world::Role;
use ferry_model::handover::{Answer, Body, Effect, Entry, Input, Step};

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    None,
    /// A prepared target that hears nothing throws its copy away (point 4).
    TargetDiscardsOnTimeout,
    /// A source that gets no answer from the decider lets its copy run (points 5 and 6).
    SourceThawsInDoubt,
    /// A source obeys a cancel after DECIDING (point 5).
    SourceCancelsLate,
    /// DECIDING is not on disk before the decider is asked (point 5).
    DecidingNotJournalled,
    /// A target thaws before STARTING is on disk (point 7).
    ThawBeforeStarting,
    /// STARTING is never on disk (point 8).
    StartingNotJournalled,
    /// A target starts as soon as it is prepared, without a commit (point 7).
    TargetStartsUnasked,
    /// The source destroys its copy when it has won, not when the target runs (point 9).
    SourceDestroysEarly,
    /// ABORTED is not on disk before the thaw.
    AbortedNotJournalled,
    /// PREPARED is said before it is on disk (point 3).
    PreparedNotJournalled,
    /// The source of a post-copy move ends at RUNNING instead of COMPLETE (point 10).
    PagesDroppedAtRunning,
}

impl Mutation {
    /// This entry never reaches the disk.
    pub fn forgets(self, entry: &Entry) -> bool {
        let Entry::Step { step, .. } = entry else { return false };
        match self {
            Self::DecidingNotJournalled => matches!(step, Step::Deciding { .. }),
            Self::StartingNotJournalled => matches!(step, Step::Starting),
            Self::AbortedNotJournalled => matches!(step, Step::Aborted { .. }),
            Self::PreparedNotJournalled => matches!(step, Step::Prepared { .. }),
            _ => false,
        }
    }

    /// What the broken machine does instead.
    pub fn bend(self, before: &Role, input: &Input, mut effects: Vec<Effect>) -> Vec<Effect> {
        let key = before.seen().key();
        let stage = before.seen().stage();
        let step = |step| effects_entry(key, step);
        match self {
            Self::TargetDiscardsOnTimeout if stage == "prepared" && *input == Input::Tick => {
                vec![step(Step::Discarded { reason: "time-out".into() }), Effect::Destroy]
            }
            Self::SourceThawsInDoubt
                if matches!(before, Role::Source(_))
                    && matches!(stage, "deciding" | "in doubt")
                    && *input == Input::Decider(Answer::Unknown) =>
            {
                vec![Effect::Thaw]
            }
            Self::SourceCancelsLate
                if matches!(before, Role::Source(_))
                    && matches!(stage, "deciding" | "in doubt")
                    && matches!(input, Input::Tick) =>
            {
                vec![step(Step::Aborted { reason: "cancelled".into() }), Effect::Thaw]
            }
            Self::ThawBeforeStarting => {
                if effects.contains(&Effect::Thaw) && *input == Input::Ready {
                    effects.reverse();
                }
                effects
            }
            Self::TargetStartsUnasked => {
                if matches!(input, Input::Restored(_)) {
                    effects.push(Effect::Thaw);
                }
                effects
            }
            Self::SourceDestroysEarly => {
                let commits = |effect: &Effect| matches!(effect, Effect::Send(message) if matches!(message.body, Body::Commit { .. }));
                if effects.iter().any(commits) {
                    effects.push(Effect::Destroy);
                }
                effects
            }
            Self::PagesDroppedAtRunning => {
                if matches!(input, Input::Message(message) if message.body == Body::Running) {
                    effects.push(Effect::Destroy);
                }
                effects
            }
            _ => effects,
        }
    }
}

fn effects_entry(key: ferry_model::handover::Key, step: Step) -> Effect {
    Effect::Journal(Entry::Step { key, boot_id: ferry_model::ids::BootId([0; 16]), step })
}
