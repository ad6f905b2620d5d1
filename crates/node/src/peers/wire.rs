//! What nodes ask each other, apart from moves: one request, one reply, on a connection whose purpose is `Node`. Fields
//! and variants are numbered by hand; a variant that is not known is an error to its sender and nothing else.

use crate::trust::members::MembersRecord;
use ferry_model::api::MoveState;
use ferry_model::error::Error;
use ferry_model::event::Event;
use ferry_model::facts::HostFacts;
use ferry_model::handover::{Answer, Cas, Entry, Record};
use ferry_model::ids::{MoveId, WorkloadId};
use ferry_model::planning::Method;
use ferry_model::strategy::options::LiveOptions;
use minicbor::{Decode, Encode};

/// A question.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Request {
    /// Are you there?
    #[n(0)]
    Ping,
    /// To the authority: this is where I am reached; give me the list of members if it is newer than mine.
    #[n(1)]
    Members {
        /// Version that the asker has.
        #[n(0)]
        have: u64,
        /// Where the asker is reached; none: it listens to nobody.
        #[n(1)]
        address: Option<String>,
    },
    /// From the authority: this is the list of members now.
    #[n(2)]
    NewMembers {
        /// The list.
        #[n(0)]
        members: MembersRecord,
    },
    /// What are you, for a plan?
    #[n(3)]
    Facts,
    /// What have you written down about this workload?
    #[n(4)]
    Record {
        /// Which.
        #[n(0)]
        id: WorkloadId,
    },
    /// Decide about a workload that you own.
    #[n(5)]
    Cas {
        /// The change.
        #[n(0)]
        cas: Cas,
    },
    /// Send me this workload of yours.
    #[n(6)]
    Pull {
        /// Its name, id, or the beginning of an id.
        #[n(0)]
        workload: String,
        /// How.
        #[n(1)]
        method: Method,
        /// What is asked of a method that copies while the workload runs.
        #[n(2)]
        #[cbor(default)]
        live: LiveOptions,
    },
    /// What does your journal say about this workload?
    #[n(7)]
    Journal {
        /// Which.
        #[n(0)]
        id: WorkloadId,
    },
    /// How does this move between us stand?
    #[n(8)]
    Move {
        /// Which.
        #[n(0)]
        id: MoveId,
    },
}

/// A move, told by the node at its source.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct MoveReport {
    /// What moves.
    #[n(0)]
    pub workload: WorkloadId,
    /// Its name.
    #[n(1)]
    pub name: String,
    /// The original goes on.
    #[n(2)]
    pub clone: bool,
    /// How state travels.
    #[n(3)]
    pub method: Method,
    /// Where it stands.
    #[n(4)]
    pub state: MoveState,
    /// When it began, seconds since 1970.
    #[n(5)]
    pub began_unix: u64,
    /// Why it did not end well.
    #[n(6)]
    pub error: Option<Error>,
    /// Everything that happened so far.
    #[n(7)]
    pub events: Vec<Event>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Reply {
    /// Done; nothing to say.
    #[n(0)]
    Done,
    /// It failed, or was refused.
    #[n(1)]
    Failed {
        /// Why.
        #[n(0)]
        error: Error,
    },
    /// To `Members`.
    #[n(2)]
    Members {
        /// The list, if it is newer.
        #[n(0)]
        members: Option<MembersRecord>,
    },
    /// To `Facts`.
    #[n(3)]
    Facts {
        /// They.
        #[n(0)]
        facts: HostFacts,
    },
    /// To `Record`.
    #[n(4)]
    Record {
        /// What is written down; none: nothing.
        #[n(0)]
        record: Option<Record>,
    },
    /// To `Cas`.
    #[n(5)]
    Decided {
        /// How it was decided.
        #[n(0)]
        answer: Answer,
    },
    /// To `Pull`: the move has begun.
    #[n(6)]
    Moving {
        /// The move.
        #[n(0)]
        id: MoveId,
        /// The workload.
        #[n(1)]
        workload: WorkloadId,
    },
    /// To `Journal`.
    #[n(7)]
    Journal {
        /// Its newest entries, oldest first.
        #[n(0)]
        entries: Vec<Entry>,
        /// Whether a copy, running or frozen, is there; none: not known.
        #[n(1)]
        copy: Option<bool>,
    },
    /// To `Move`.
    #[n(8)]
    Move {
        /// How it stands.
        #[n(0)]
        report: MoveReport,
    },
}
