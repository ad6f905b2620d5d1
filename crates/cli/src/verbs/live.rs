//! Options of moves that copy while the workload runs: what `move` and `pull` share.

use crate::values;
use ferry_model::strategy::options::{Compress, LiveOptions, ROUNDS_MAX, STREAMS_MAX};
use ferry_model::strategy::remedy::Wish;
use std::time::Duration;

/// What is asked of the method.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Longest standstill that is wanted, as 10ms or 1s [default: 10ms]
    #[arg(long, value_name = "SPAN", value_parser = values::span)]
    downtime_max: Option<Duration>,
    /// Most rounds while it runs [default: 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(ROUNDS_MAX)))]
    rounds_max: Option<u32>,
    /// Most that all page streams carry together, as 1Gbit or 128MiB/s
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    bandwidth: Option<u64>,
    /// What to do when it writes faster than rounds carry it [default: shorter]
    #[arg(long, value_enum, value_name = "WHAT")]
    on_no_convergence: Option<WishArg>,
    /// Number of page streams [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(STREAMS_MAX)))]
    streams: Option<u32>,
    /// Whether pages are compressed [default: auto]
    #[arg(long, value_enum, value_name = "WHEN")]
    compress: Option<CompressArg>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum WishArg {
    /// 'switch' or 'stop', whichever pauses for less
    Shorter,
    /// Go over to post-copy: it runs at the target, the rest follows, and until all is in both hosts are needed. With it 'auto' may also
    /// begin so
    Switch,
    /// Slow the workload down until it converges
    Throttle,
    /// Stop it and send the rest, however long that takes
    Stop,
    /// Give the move up: it goes on where it is
    GiveUp,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CompressArg {
    /// Where it is measured to pay
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

impl From<Args> for LiveOptions {
    fn from(args: Args) -> Self {
        let default = Self::default();
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self {
            downtime_us_max: args.downtime_max.map_or(default.downtime_us_max, micros),
            rounds_max: args.rounds_max.unwrap_or(default.rounds_max),
            bandwidth_bytes_per_s_max: args.bandwidth,
            on_no_convergence: args.on_no_convergence.map_or(default.on_no_convergence, |wish| match wish {
                WishArg::Shorter => Wish::Shorter,
                WishArg::Switch => Wish::Switch,
                WishArg::Throttle => Wish::Throttle,
                WishArg::Stop => Wish::Stop,
                WishArg::GiveUp => Wish::GiveUp,
            }),
            streams: args.streams.unwrap_or(default.streams),
            compress: args.compress.map_or(default.compress, |when| match when {
                CompressArg::Auto => Compress::Auto,
                CompressArg::On => Compress::On,
                CompressArg::Off => Compress::Off,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        live: Args,
    }

    fn options(line: &str) -> Result<LiveOptions, clap::Error> {
        Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).map(|line| line.live.into())
    }

    #[test]
    fn nothing_said_is_the_default_and_everything_said_is_heard() {
        assert_eq!(options("").unwrap(), LiveOptions::default());
        let all = "--downtime-max 25ms --rounds-max 7 --bandwidth 1Gbit --on-no-convergence give-up --streams 4 --compress off";
        let wanted = LiveOptions {
            downtime_us_max: 25_000,
            rounds_max: 7,
            bandwidth_bytes_per_s_max: Some(125_000_000),
            on_no_convergence: Wish::GiveUp,
            streams: 4,
            compress: Compress::Off,
        };
        assert_eq!(options(all).unwrap(), wanted);
        for bad in
            ["--rounds-max 0", "--streams 17", "--bandwidth 1G", "--downtime-max 3fn", "--compress lz4"]
        {
            assert!(options(bad).is_err(), "{bad}");
        }
    }
}
