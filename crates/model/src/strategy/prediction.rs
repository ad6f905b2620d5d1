//! What a method is predicted to cost, in the same terms for all.

use crate::planning;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A way to move memory.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
#[schema(as = MemoryMethod)]
pub enum Method {
    /// Everything in the pause.
    #[n(0)]
    StopAndCopy,
    /// Rounds while it runs, the rest in the pause.
    #[n(1)]
    PreCopy,
    /// Resumed first; pages follow on demand and in the background.
    #[n(2)]
    PostCopy,
    /// One round of pre-copy, then post-copy of what was dirtied in it.
    #[n(3)]
    Hybrid,
}

impl Method {
    /// The way in which the memory of a move by `asked` travels; none where that is for `auto` to say, or where there is no memory to move.
    #[must_use]
    pub fn of(asked: planning::Method) -> Option<Self> {
        match asked {
            planning::Method::StopAndCopy => Some(Self::StopAndCopy),
            planning::Method::PreCopy => Some(Self::PreCopy),
            planning::Method::PostCopy => Some(Self::PostCopy),
            planning::Method::Hybrid => Some(Self::Hybrid),
            planning::Method::Auto | planning::Method::Cold | planning::Method::Warm => None,
        }
    }

    /// Whether pages follow after the resume in any case, so that both hosts are needed for longer than the pause.
    #[must_use]
    pub fn leaves_pages(self) -> bool {
        matches!(self, Self::PostCopy | Self::Hybrid)
    }
}

impl From<Method> for planning::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::StopAndCopy => Self::StopAndCopy,
            Method::PreCopy => Self::PreCopy,
            Method::PostCopy => Self::PostCopy,
            Method::Hybrid => Self::Hybrid,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StopAndCopy => "stop-and-copy",
            Self::PreCopy => "pre-copy",
            Self::PostCopy => "post-copy",
            Self::Hybrid => "hybrid",
        })
    }
}

/// How a pre-copy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The method has no rounds, or a fixed number of them.
    #[n(0)]
    NotAsked,
    /// Rounds become shorter until the rest fits into the pause that was asked for. Only where the link carries more than is dirtied.
    #[n(1)]
    Converges,
    /// All that it ever writes to fits into the pause, so that its rate does not matter.
    #[n(2)]
    Fits,
    /// The rest does not fit, however many rounds were allowed.
    #[n(3)]
    Diverges,
}

/// What a method costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Prediction {
    /// The method.
    #[n(0)]
    pub method: Method,
    /// How its rounds end.
    #[n(1)]
    pub ending: Ending,
    /// Rounds while it runs; the one in the pause is not counted.
    #[n(2)]
    pub rounds: u32,
    /// From the beginning until the source is not needed any more, microseconds.
    #[n(3)]
    pub total_us: u64,
    /// How long it stands still, at most, microseconds.
    #[n(4)]
    pub downtime_us: u64,
    /// How long it waits for pages after the resume, all faults together, microseconds.
    #[n(5)]
    pub degraded_us: u64,
    /// Bytes over the link.
    #[n(6)]
    pub sent_bytes: u64,
}
