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
    /// The move ended.
    #[n(4)]
    End {
        /// None: it succeeded.
        #[n(0)]
        error: Option<crate::error::Error>,
    },
}
