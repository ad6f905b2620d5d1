//! `--method auto`: the predictions are compared, and the reason is part of the answer.
//!
//! The order is that of what a user risks: the method that needs both hosts for the shortest time, among those that keep the pause
//! that was asked for; where none keeps it, the shortest pause.

use super::convergence::Limits;
use super::measured::Measured;
use super::prediction::{Ending, Method, Prediction};
use super::{hybrid, post_copy, pre_copy, stop_and_copy};
use std::fmt;

/// What the two hosts can do for this workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Writes can be tracked at the source.
    pub tracking: bool,
    /// The workload can run at the target while pages of it are missing, and the user has not ruled it out (`--on-no-convergence`).
    pub post_copy: bool,
}

/// Why a method was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is small: even all of it in the pause takes no longer than asked for.
    Small,
    /// Rounds get the rest small enough in time.
    Converges,
    /// Whatever it writes to fits into the pause.
    Fits,
    /// It dirties memory faster than the rounds carry it; one round leaves little enough to be worth it.
    DirtiesTooFast,
    /// As above, and most of it would be dirty again after a round.
    DirtiesNearlyAll,
    /// Writes cannot be tracked here.
    NoTracking,
    /// Neither rounds nor post-copy keep the pause: this one has the shortest.
    ShortestPause,
}

/// A method with what it is predicted to cost, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The method and its costs.
    pub prediction: Prediction,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.prediction.downtime_us as f64 / 1000.0;
        write!(f, "{}, at most {ms:.1} ms of standstill: ", self.prediction.method)?;
        f.write_str(match self.reason {
            Reason::Small => "all of it fits into the pause",
            Reason::Converges => "the link carries more than is dirtied",
            Reason::Fits => "what it writes to fits into the pause",
            Reason::DirtiesTooFast => "it dirties memory faster than rounds could carry it",
            Reason::DirtiesNearlyAll => "most of its memory would be dirty again after a round",
            Reason::NoTracking => "writes cannot be tracked here",
            Reason::ShortestPause => "no method keeps the pause that was asked for; this one comes nearest",
        })
    }
}

/// Chooses.
#[must_use]
pub fn choose(measured: &Measured, limits: &Limits, can: Abilities) -> Choice {
    let keeps = |prediction: &Prediction| prediction.downtime_us <= limits.downtime_us_max;
    let choice = |prediction, reason| Choice { prediction, reason };
    let stop = stop_and_copy::predict(measured);
    if keeps(&stop) {
        return choice(stop, Reason::Small);
    }
    let pre = can.tracking.then(|| pre_copy::predict(measured, limits));
    let reason = |pre: &Prediction| {
        if pre.ending == Ending::Fits { Reason::Fits } else { Reason::Converges }
    };
    if let Some(pre) = pre.filter(keeps) {
        return choice(pre, reason(&pre));
    }
    if can.post_copy {
        let post = post_copy::predict(measured);
        if !can.tracking && post.downtime_us < stop.downtime_us {
            return choice(post, Reason::NoTracking);
        }
        let hybrid = hybrid::predict(measured);
        if can.tracking && pre.is_none_or(|pre| post.downtime_us < pre.downtime_us) {
            // One round is worth it when it leaves less than half of the faults: the pause is the same.
            return if hybrid.degraded_us.saturating_mul(2) >= post.degraded_us {
                choice(post, Reason::DirtiesNearlyAll)
            } else {
                choice(hybrid, Reason::DirtiesTooFast)
            };
        }
    }
    match pre {
        Some(pre) if pre.downtime_us < stop.downtime_us => choice(pre, Reason::ShortestPause),
        Some(_) => choice(stop, Reason::ShortestPause),
        None => choice(stop, Reason::NoTracking),
    }
}

/// All methods beside each other, for `ferry estimate`.
#[must_use]
pub fn all(measured: &Measured, limits: &Limits) -> [(Method, Prediction); 4] {
    [
        (Method::StopAndCopy, stop_and_copy::predict(measured)),
        (Method::PreCopy, pre_copy::predict(measured, limits)),
        (Method::PostCopy, post_copy::predict(measured)),
        (Method::Hybrid, hybrid::predict(measured)),
    ]
}
