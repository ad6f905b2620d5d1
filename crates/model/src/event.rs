//! Phases and events of a move. Progress bar, timeline, report, metrics and bench all read this one stream.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A phase of a move, in the order in which they come.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Encode,
    Decode,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Inventory, facts of the target, decision.
    #[n(0)]
    Plan,
    /// The target reserves, stages, makes namespaces and puppets.
    #[n(1)]
    Prepare,
    /// Rounds while the workload runs.
    #[n(2)]
    PreCopy,
    /// All tasks stop; the network is locked.
    #[n(3)]
    Freeze,
    /// Registers, descriptors, what is left of memory.
    #[n(4)]
    State,
    /// The target is whole and frozen, and has said so.
    #[n(5)]
    Prepared,
    /// The decider has decided.
    #[n(6)]
    Commit,
    /// Network up, announced, thawed.
    #[n(7)]
    Resume,
    /// Pages that were left behind.
    #[n(8)]
    PostCopy,
    /// The source's copy is destroyed.
    #[n(9)]
    Finish,
}

/// One thing that happened in a move. Times are microseconds of the reporting host's CLOCK_MONOTONIC since the move began.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// When, in microseconds since the move began.
    #[n(0)]
    pub at_us: u64,
    /// What.
    #[n(1)]
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// A phase began.
    #[n(0)]
    PhaseStart {
        /// Which.
        #[n(0)]
        phase: Phase,
    },
    /// A phase ended.
    #[n(1)]
    PhaseEnd {
        /// Which.
        #[n(0)]
        phase: Phase,
    },
    /// Bytes went over, cumulative within the phase.
    #[n(2)]
    Progress {
        /// Phase that they belong to.
        #[n(0)]
        phase: Phase,
        /// Bytes so far.
        #[n(1)]
        bytes: u64,
        /// Bytes expected.
        #[n(2)]
        bytes_total: u64,
    },
    /// A sentence for a person.
    #[n(3)]
    Note {
        /// The sentence.
        #[n(0)]
        text: String,
    },
    /// A part of the time in which the workload stood still.
    #[n(5)]
    Spent {
        /// What it went to.
        #[n(0)]
        cause: Cause,
        /// How long.
        #[n(1)]
        us: u64,
    },
    /// The move ended.
    #[n(4)]
    End {
        /// None: it succeeded.
        #[n(0)]
        error: Option<crate::error::Error>,
    },
}

/// What the time in which a workload stands still goes to.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Encode,
    Decode,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Stopping all tasks and locking the network.
    #[n(0)]
    Freeze,
    /// Reading the execution state.
    #[n(1)]
    Capture,
    /// Files that changed while they were being staged.
    #[n(2)]
    Files,
    /// Building what will become the workload.
    #[n(3)]
    Restore,
    /// Memory.
    #[n(4)]
    Memory,
    /// Descriptors, threads and registers: what can only follow the memory.
    #[n(5)]
    Complete,
    /// The decision.
    #[n(6)]
    Commit,
    /// Network up, announced, thawed.
    #[n(7)]
    Resume,
}

/// How long the workload stood still, from the events of its source: from the beginning of the freeze to the end of the resume.
/// None while one of them is missing. Microseconds.
#[must_use]
pub fn downtime_us(events: &[Event]) -> Option<u64> {
    let at = |wanted: &What| events.iter().find(|event| event.what == *wanted).map(|event| event.at_us);
    let begin = at(&What::PhaseStart { phase: Phase::Freeze })?;
    let end = at(&What::PhaseEnd { phase: Phase::Resume })?;
    Some(end.saturating_sub(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downtime_is_from_freeze_to_resume() {
        let event = |at_us, what| Event { at_us, what };
        let mut events = vec![
            event(10, What::PhaseStart { phase: Phase::Plan }),
            event(200, What::PhaseStart { phase: Phase::Freeze }),
            event(300, What::PhaseEnd { phase: Phase::Freeze }),
        ];
        assert_eq!(downtime_us(&events), None);
        events.push(event(900, What::PhaseEnd { phase: Phase::Resume }));
        assert_eq!(downtime_us(&events), Some(700));
    }
}
