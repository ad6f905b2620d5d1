//! What to do with a pre-copy that does not converge: what the user asked for, where it is possible, and why not where it is not.

use super::convergence::Stuck;
use super::measured::Measured;
use super::post_copy;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the user wants in that case (`--on-no-convergence`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Whichever of `switch` and `stop` is predicted to pause for less.
    #[default]
    #[n(4)]
    Shorter,
    /// Go over to post-copy.
    #[n(0)]
    Switch,
    /// Slow the workload down until it converges.
    #[n(1)]
    Throttle,
    /// Stop it and send the rest, however long that takes.
    #[n(2)]
    Stop,
    /// Give the move up: it goes on at the source.
    #[n(3)]
    GiveUp,
}

/// The least share of the processor that a throttled workload keeps, percent: below it, it would be stopped in all but name.
pub const SHARE_MIN_PERCENT: u32 = 10;

/// A throttled workload may dirty at most this many percent of what the link carries: rounds then halve.
pub const THROTTLED_PERCENT: u64 = 50;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// Post-copy from here on.
    #[n(0)]
    Switch,
    /// Rounds go on with this share of the processor, percent of what it uses now.
    #[n(1)]
    Throttle {
        /// From [`SHARE_MIN_PERCENT`] to 99.
        #[n(0)]
        share_percent: u32,
    },
    /// The rest travels in the pause.
    #[n(2)]
    Stop,
    /// The move ends, it goes on at the source.
    #[n(3)]
    GiveUp,
}

/// A remedy with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What is done.
    pub remedy: Remedy,
    /// Why rounds were not enough.
    pub stuck: Stuck,
    /// Why it is not what was wished for, if so.
    pub instead: Option<Instead>,
}

/// Why a wish is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// Post-copy is not possible here.
    NoPostCopy,
    /// It is throttled as far as it may be.
    ThrottledEnough,
    /// It would stand still for longer.
    StopIsShorter,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; ", self.stuck)?;
        match self.instead {
            Some(Instead::NoPostCopy) => f.write_str("post-copy is not possible here, so ")?,
            Some(Instead::ThrottledEnough) => f.write_str("it cannot be slowed down further, so ")?,
            Some(Instead::StopIsShorter) => f.write_str("going over to post-copy would take longer, so ")?,
            None => {}
        }
        match self.remedy {
            Remedy::Switch => {
                f.write_str("the rest follows after the resume, and until it is there both hosts are needed")
            }
            Remedy::Throttle { share_percent } => write!(f, "it is slowed down to {share_percent} %"),
            Remedy::Stop => f.write_str("the rest travels while it stands still"),
            Remedy::GiveUp => f.write_str("the move is given up and it goes on at the source"),
        }
    }
}

/// What is possible at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Possible {
    /// Whether both hosts can do post-copy for this workload.
    pub post_copy: bool,
    /// The share of the processor that it has now, percent; 100: not throttled.
    pub share_percent: u32,
}

impl Wish {
    /// Whether pages may follow after the resume.
    #[must_use]
    pub fn may_switch(self) -> bool {
        matches!(self, Self::Shorter | Self::Switch)
    }
}

/// Chooses; `dirty_bytes` are expected to be left. A wish that cannot be followed ends in a longer pause, never in a lost move: only who asked for it gives up.
#[must_use]
pub fn choose(wish: Wish, stuck: Stuck, measured: &Measured, dirty_bytes: u64, possible: Possible) -> Choice {
    let (remedy, instead) = match wish {
        // What is common to both cancels out.
        Wish::Shorter if measured.time_us(dirty_bytes) <= post_copy::RESUME_US => {
            (Remedy::Stop, possible.post_copy.then_some(Instead::StopIsShorter))
        }
        Wish::Switch | Wish::Shorter if possible.post_copy => (Remedy::Switch, None),
        Wish::Switch | Wish::Shorter => (Remedy::Stop, Some(Instead::NoPostCopy)),
        Wish::Throttle => match share(measured, possible.share_percent) {
            Some(share_percent) => (Remedy::Throttle { share_percent }, None),
            None => (Remedy::Stop, Some(Instead::ThrottledEnough)),
        },
        Wish::Stop => (Remedy::Stop, None),
        Wish::GiveUp => (Remedy::GiveUp, None),
    };
    Choice { remedy, stuck, instead }
}

/// The share with which it would dirty [`THROTTLED_PERCENT`] of the bandwidth, supposing that it dirties in proportion; at most
/// three quarters of what it has now, so that each try helps. None when it has the least already.
fn share(measured: &Measured, now: u32) -> Option<u32> {
    if now <= SHARE_MIN_PERCENT {
        return None;
    }
    let wanted = u128::from(measured.bandwidth_bytes_per_s) * u128::from(THROTTLED_PERCENT) * u128::from(now)
        / 100
        / u128::from(measured.dirty_bytes_per_s.max(1));
    let most = (now.min(100) * 3 / 4).max(SHARE_MIN_PERCENT);
    Some(u32::try_from(wanted).unwrap_or(u32::MAX).clamp(SHARE_MIN_PERCENT, most))
}
