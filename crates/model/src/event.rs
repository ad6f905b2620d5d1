//! Phases and events of a move. Progress bar, timeline, report, metrics and bench all read this one stream.

mod live;
mod summary;

pub use live::{MethodChosen, PagesFollow, RemedyChosen, RoundDone};
pub use summary::{Spent, Summary, summary};

use crate::api::Exit;
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
    /// A round of a pre-copy is over: the target has all that was sent in it.
    #[n(6)]
    Round(#[n(0)] RoundDone),
    /// How memory travels, with what each method was predicted to cost.
    #[n(7)]
    Method(#[n(0)] MethodChosen),
    /// Rounds alone do not get there, and this is done about it.
    #[n(8)]
    Remedy(#[n(0)] RemedyChosen),
    /// How far the pages are that follow after the resume.
    #[n(10)]
    Follow(#[n(0)] PagesFollow),
    /// The workload has ended at the target like any program, after it had been started there and before the move was over: nothing of
    /// it is needed any more.
    #[n(11)]
    Exited {
        /// How its first program ended.
        #[n(0)]
        exit: Exit,
    },
    /// The longest time for which somebody outside waited for a reply that was due. Known only where clients were watched.
    #[n(9)]
    Outage {
        /// How long.
        #[n(0)]
        us: u64,
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
    let (begin, end) = pause(events)?;
    end?.checked_sub(begin)
}

/// When the workload stopped and when it ran again, microseconds since the move began. None before the freeze.
#[must_use]
pub fn pause(events: &[Event]) -> Option<(u64, Option<u64>)> {
    let begins = What::PhaseStart { phase: Phase::Freeze };
    let ends = What::PhaseEnd { phase: Phase::Resume };
    let begin = events.iter().find(|event| event.what == begins)?.at_us;
    Some((begin, events.iter().rev().find(|event| event.what == ends).map(|event| event.at_us)))
}

/// How the workload came to its own end at the target before the move was over, if it did.
#[must_use]
pub fn exit(events: &[Event]) -> Option<Exit> {
    events.iter().find_map(|event| match event.what {
        What::Exited { exit } => Some(exit),
        _ => None,
    })
}

/// How long the move took, once it has ended. Microseconds.
#[must_use]
pub fn total_us(events: &[Event]) -> Option<u64> {
    events.iter().find(|event| matches!(event.what, What::End { .. })).map(|event| event.at_us)
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
        assert_eq!((downtime_us(&events), total_us(&events)), (Some(700), None));
        events.push(event(950, What::End { error: None }));
        assert_eq!(total_us(&events), Some(950));
    }

    /// What a version before rounds has written down or sends.
    #[test]
    fn events_of_before_can_be_read() {
        let wanted = Event { at_us: 7, what: What::Spent { cause: Cause::Commit, us: 9 } };
        // [7, [5, [6 as an index, 9]]]
        let cbor = [0x82, 0x07, 0x82, 0x05, 0x82, 0x82, 0x06, 0x80, 0x09];
        assert_eq!(minicbor::decode::<Event>(&cbor).unwrap(), wanted);
    }

    #[test]
    fn events_of_rounds_come_back_as_they_were() {
        use crate::strategy::{measured::Round, prediction::Method, remedy::Remedy};
        let round = Round { number: 3, dirty_bytes: u64::MAX, sent_bytes: 8192, ..Round::default() };
        for what in [
            What::Round(RoundDone { predicted_downtime_us: Some(1), streams: 2, ..round.into() }),
            What::Method(MethodChosen {
                method: Method::PreCopy,
                reason: "<it> converges".into(),
                predictions: vec![],
            }),
            What::Remedy(RemedyChosen { remedy: Remedy::Throttle { share_percent: 40 }, reason: "x".into() }),
            What::Outage { us: 12 },
            What::Follow(PagesFollow {
                placed_bytes: 4096,
                faults: 3,
                connected: true,
                ..PagesFollow::default()
            }),
        ] {
            let event = Event { at_us: 1, what };
            let bytes = minicbor::to_vec(&event).unwrap();
            assert_eq!(minicbor::decode::<Event>(&bytes).unwrap(), event);
        }
    }
}
