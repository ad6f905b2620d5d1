//! What a method is predicted to cost, in the same terms for all.

use std::fmt;

/// A way to move memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Everything in the pause.
    StopAndCopy,
    /// Rounds while it runs, the rest in the pause.
    PreCopy,
    /// Resumed first; pages follow on demand and in the background.
    PostCopy,
    /// One round of pre-copy, then post-copy of what was dirtied in it.
    Hybrid,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The method has no rounds, or a fixed number of them.
    NotAsked,
    /// Rounds become shorter until the rest fits into the pause that was asked for. Only where the link carries more than is dirtied.
    Converges,
    /// All that it ever writes to fits into the pause, so that its rate does not matter.
    Fits,
    /// The rest does not fit, however many rounds were allowed.
    Diverges,
}

/// What a method costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// The method.
    pub method: Method,
    /// How its rounds end.
    pub ending: Ending,
    /// Rounds while it runs; the one in the pause is not counted.
    pub rounds: u32,
    /// From the beginning until the source is not needed any more, microseconds.
    pub total_us: u64,
    /// How long it stands still, at most, microseconds.
    pub downtime_us: u64,
    /// How long it waits for pages after the resume, all faults together, microseconds.
    pub degraded_us: u64,
    /// Bytes over the link.
    pub sent_bytes: u64,
}
