//! Events that only a move of running memory has: its rounds, the method that was chosen, what was done when rounds did not help.
//! They hold what the strategies decided by, so that a report can say what was expected beside what came.

use crate::strategy::auto::{self, Abilities};
use crate::strategy::convergence::Limits;
use crate::strategy::measured::{Measured, Round};
use crate::strategy::prediction::{Method, Prediction};
use crate::strategy::remedy::{self, Remedy};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A finished round, with what it left to be expected.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
pub struct RoundDone {
    /// What was found dirty, sent and left.
    #[n(0)]
    #[serde(flatten)]
    pub round: Round,
    /// Bytes that the page streams carried for it, after compression.
    #[n(1)]
    pub wire_bytes: u64,
    /// Page streams that it used.
    #[n(2)]
    pub streams: u32,
    /// Whether pages were compressed.
    #[n(3)]
    pub compressed: bool,
    /// How long the pause was expected to be, had it begun right after this round, microseconds.
    #[n(4)]
    pub predicted_downtime_us: Option<u64>,
    /// Bytes that the target had of an earlier visit: told, not sent.
    #[n(5)]
    #[cbor(default)]
    #[serde(default)]
    pub reused_bytes: u64,
}

impl From<Round> for RoundDone {
    /// A round by one stream, uncompressed, nothing predicted.
    fn from(round: Round) -> Self {
        Self { round, wire_bytes: round.sent_bytes, streams: 1, ..Self::default() }
    }
}

/// The method with its reason, and what all methods were predicted to cost.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MethodChosen {
    /// How memory travels.
    #[n(0)]
    pub method: Method,
    /// Why, in words.
    #[n(1)]
    pub reason: String,
    /// What each method that is possible here was predicted to cost.
    #[n(2)]
    pub predictions: Vec<Prediction>,
}

impl MethodChosen {
    /// As somebody asked for it: nothing was predicted.
    #[must_use]
    pub fn asked(method: Method) -> Self {
        Self {
            method,
            reason: with_exception(method, "it was asked for".to_owned()),
            predictions: Vec::new(),
        }
    }

    /// As `auto` chooses by what was measured, with the predictions of all methods.
    ///
    /// What every pause costs beside memory is for no method to shorten: the pause that was asked for bounds memory's part of it, and the
    /// rest is part of every prediction.
    #[must_use]
    pub fn predicted(measured: &Measured, limits: &Limits, can: Abilities) -> Self {
        let memory = Measured { fixed_us: 0, ..*measured };
        let whole = |one: Prediction| Prediction {
            total_us: one.total_us.saturating_add(measured.fixed_us),
            downtime_us: one.downtime_us.saturating_add(measured.fixed_us),
            ..one
        };
        let choice = auto::choose(&memory, limits, can);
        let choice = auto::Choice { prediction: whole(choice.prediction), ..choice };
        let mib = |bytes: u64| bytes >> 20;
        let reason = format!(
            "{choice} ({} MiB, of which it writes to {} MiB at {} MiB/s, over {} MiB/s)",
            mib(measured.bytes),
            mib(measured.working_set_bytes.min(measured.bytes)),
            mib(measured.dirty_bytes_per_s),
            mib(measured.bandwidth_bytes_per_s)
        );
        let predictions = auto::all(&memory, limits).into_iter().map(|(_, one)| whole(one)).collect();
        let method = choice.prediction.method;
        Self { method, reason: with_exception(method, reason), predictions }
    }
}

/// A reason, with what is risked by a method whose pages follow.
fn with_exception(method: Method, reason: String) -> String {
    if method.leaves_pages() {
        format!("{reason}; until the last page is in, both hosts are needed")
    } else {
        reason
    }
}

/// What is done with a pre-copy that does not converge.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RemedyChosen {
    /// What.
    #[n(0)]
    pub remedy: Remedy,
    /// Why, in words.
    #[n(1)]
    pub reason: String,
}

impl From<&remedy::Choice> for RemedyChosen {
    fn from(choice: &remedy::Choice) -> Self {
        Self { remedy: choice.remedy, reason: choice.to_string() }
    }
}

/// Pages that follow after the resume, as their target counts them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
pub struct PagesFollow {
    /// Bytes that are still missing.
    #[n(0)]
    pub missing_bytes: u64,
    /// Bytes that came and are in their places.
    #[n(1)]
    pub placed_bytes: u64,
    /// Times that the workload touched a page that was not there, and waited for it.
    #[n(2)]
    pub faults: u64,
    /// How long it waited, microseconds: half of the times shorter.
    #[n(3)]
    pub fault_us_median: u64,
    /// As above: 99 of 100 times shorter.
    #[n(4)]
    pub fault_us_p99: u64,
    /// There is a way to the source. Without one, whoever touches a page that is missing waits.
    #[n(5)]
    pub connected: bool,
}
