//! What a user may ask of a move of running memory: how long the pause may be, how hard to try, and by what means.

use super::convergence::Limits;
use super::remedy::Wish;
use crate::error::{Error, Kind, Result};
use crate::planning::Method;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Most page streams of one move.
pub const STREAMS_MAX: u32 = 16;

/// Most rounds that may be asked for: each costs a look at all memory, and beyond some dozens nothing is won.
pub const ROUNDS_MAX: u32 = 1000;

/// The longest pause that may be asked for, microseconds: an hour. Who can wait that long needs no rounds.
pub const DOWNTIME_US_MAX: u64 = 3_600_000_000;

/// The smallest cap of bandwidth, bytes in a second: below it a move's own messages would not get through in time.
pub const BANDWIDTH_BYTES_PER_S_MIN: u64 = 64 << 10;

/// Whether pages are compressed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Compress {
    /// Where it is measured to pay.
    #[default]
    #[n(0)]
    Auto,
    /// Always.
    #[n(1)]
    On,
    /// Never.
    #[n(2)]
    Off,
}

/// How memory is to be moved while the workload runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LiveOptions {
    /// The longest pause that is wanted, microseconds.
    #[n(0)]
    pub downtime_us_max: u64,
    /// Most rounds while it runs.
    #[n(1)]
    pub rounds_max: u32,
    /// Most bytes in a second for all page streams together; none: as fast as it goes.
    #[n(2)]
    pub bandwidth_bytes_per_s_max: Option<u64>,
    /// What to do when rounds do not get there.
    #[n(3)]
    pub on_no_convergence: Wish,
    /// Number of page streams.
    #[n(4)]
    pub streams: u32,
    /// Whether pages are compressed.
    #[n(5)]
    pub compress: Compress,
}

impl Default for LiveOptions {
    /// As [`Limits`]; two streams, since on two busy cores more do not help (measured).
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            downtime_us_max: limits.downtime_us_max,
            rounds_max: limits.rounds_max,
            bandwidth_bytes_per_s_max: None,
            on_no_convergence: Wish::default(),
            streams: 2,
            compress: Compress::default(),
        }
    }
}

impl LiveOptions {
    /// What rounds are held to.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { downtime_us_max: self.downtime_us_max, rounds_max: self.rounds_max, ..Limits::default() }
    }

    /// Refuses what cannot be meant, and what `method` would not follow: an option that is passed over in silence is a promise broken.
    ///
    /// # Errors
    /// [`Kind::Usage`], with the sentence.
    pub fn check(&self, method: Method) -> Result<()> {
        let wrong = |what: String| Err(Error::new(Kind::Usage, what));
        if !(1..=DOWNTIME_US_MAX).contains(&self.downtime_us_max) {
            return wrong("The longest pause (--downtime-max) is from a microsecond to an hour".into());
        }
        if !(1..=ROUNDS_MAX).contains(&self.rounds_max) {
            return wrong(format!("The number of rounds (--rounds-max) is 1 to {ROUNDS_MAX}"));
        }
        if !(1..=STREAMS_MAX).contains(&self.streams) {
            return wrong(format!("The number of page streams (--streams) is 1 to {STREAMS_MAX}"));
        }
        if self.bandwidth_bytes_per_s_max.is_some_and(|most| most < BANDWIDTH_BYTES_PER_S_MIN) {
            return wrong("The bandwidth (--bandwidth) is 64 KiB/s or more".into());
        }
        if !method.is_live() && (Self { streams: Self::default().streams, ..*self }) != Self::default() {
            let what = "--downtime-max, --rounds-max, --bandwidth, --on-no-convergence and --compress";
            let hint = "leave them out, or choose --method pre-copy";
            return wrong(format!(
                "{what} are of moves that copy while the workload runs, and {method} does not"
            ))
            .map_err(|error| error.hint(hint));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let good = LiveOptions::default();
        good.check(Method::PreCopy).unwrap();
        good.check(Method::Cold).unwrap();
        LiveOptions { streams: 4, ..good }.check(Method::StopAndCopy).unwrap();
        for bad in [
            LiveOptions { downtime_us_max: 0, ..good },
            LiveOptions { downtime_us_max: DOWNTIME_US_MAX + 1, ..good },
            LiveOptions { rounds_max: 0, ..good },
            LiveOptions { rounds_max: u32::MAX, ..good },
            LiveOptions { streams: 0, ..good },
            LiveOptions { streams: 17, ..good },
            LiveOptions { bandwidth_bytes_per_s_max: Some(1), ..good },
        ] {
            let error = bad.check(Method::PreCopy).unwrap_err();
            assert_eq!(error.kind, Kind::Usage, "{bad:?}");
        }
    }

    #[test]
    fn an_option_that_the_method_would_pass_over_is_refused() {
        let options = LiveOptions { downtime_us_max: 5_000, ..LiveOptions::default() };
        for method in [Method::Cold, Method::Warm, Method::StopAndCopy] {
            let error = options.check(method).unwrap_err();
            assert!(error.message.contains(&method.to_string()), "{error}");
        }
        for method in [Method::Auto, Method::PreCopy, Method::PostCopy, Method::Hybrid] {
            options.check(method).unwrap();
        }
    }
}
