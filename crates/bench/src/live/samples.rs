//! What is read off the moves of one sort, one sample for each move, and the rows that it gives.

use super::stage::Outage;
use crate::report::Row;
use ferry_model::api::Move;
use ferry_model::event::{Cause, What};

/// What a client outage is on a machine that runs all the time.
pub const OWN: &str = "client outage, without what the machine itself stood still";

/// Milliseconds but where said. A figure that the method does not have has no samples, and no row.
#[derive(Default)]
pub struct Samples {
    /// The longest that a client waited.
    pub outage: Vec<f64>,
    /// As that, without what the machine itself stood still.
    pub own_outage: Vec<f64>,
    alone_outage: Vec<f64>,
    downtime: Vec<f64>,
    beyond_memory: Vec<f64>,
    predicted: Vec<f64>,
    /// The whole move.
    pub total: Vec<f64>,
    rounds: Vec<f64>,
    /// MiB.
    in_pause: Vec<f64>,
    /// MiB in a second.
    pub first_round: Vec<f64>,
    predicted_total: Vec<f64>,
    /// Microseconds.
    fault_median: Vec<f64>,
    /// Microseconds.
    fault_p99: Vec<f64>,
}

impl Samples {
    /// Of these moves.
    #[must_use]
    pub fn of(moves: &[(Move, Outage)]) -> Self {
        let mut samples = Self::default();
        for (moved, outage) in moves {
            samples.add(moved);
            samples.own_outage.push(outage.own_us as f64 / 1e3);
            samples.alone_outage.push(outage.alone_us as f64 / 1e3);
        }
        samples
    }

    fn add(&mut self, moved: &Move) {
        let ms = |us: u64| us as f64 / 1e3;
        let sums = &moved.summary;
        let memory = sums.spent.iter().find(|spent| spent.cause == Cause::Memory).map_or(0, |spent| spent.us);
        self.outage.extend(sums.outage_us.map(ms));
        self.downtime.extend(sums.downtime_us.map(ms));
        self.beyond_memory.extend(sums.downtime_us.map(|us| ms(us.saturating_sub(memory))));
        self.predicted.extend(sums.predicted_downtime_us.map(ms));
        self.total.extend(sums.total_us.map(ms));
        self.in_pause.push(sums.sent_in_pause_bytes as f64 / f64::from(1 << 20));
        if sums.rounds > 0 {
            self.rounds.push(f64::from(sums.rounds));
        }
        let mut first = None;
        for event in &moved.events {
            match &event.what {
                What::Round(done) if first.is_none() => first = Some(done.round.bytes_per_s()),
                What::Method(chosen) => {
                    let own = chosen.predictions.iter().find(|one| one.method == chosen.method);
                    self.predicted_total.extend(own.map(|one| ms(one.total_us)));
                }
                _ => {}
            }
        }
        // Read as scripts read it: only moves whose pages follow have it.
        let told = serde_json::to_value(sums).unwrap_or_default();
        let follow = |name: &str| told["follow"][name].as_f64();
        if follow("faults").is_some_and(|faults| faults > 0.0) {
            self.fault_median.extend(follow("fault_us_median"));
            self.fault_p99.extend(follow("fault_us_p99"));
        }
        let first = first.flatten().map(|rate| rate as f64 / f64::from(1 << 20));
        self.first_round.extend(first);
    }

    /// The rows, with what the outage and the time beyond memory may be at most.
    #[must_use]
    pub fn rows(self, what: &str, outage_max: Option<f64>, beyond_max: Option<f64>) -> Vec<Row> {
        let bounded = |row: Row, most: Option<f64>| match most {
            Some(most) => row.at_most(most),
            None => row,
        };
        let all = [
            ("client outage", "ms", self.outage, outage_max),
            (OWN, "ms", self.own_outage, outage_max),
            ("client outage, without what any of its processors stood still", "ms", self.alone_outage, None),
            ("stood still", "ms", self.downtime, None),
            ("stood still beyond its memory", "ms", self.beyond_memory, beyond_max),
            ("total", "ms", self.total, None),
            ("sent while it stood still", "MiB", self.in_pause, None),
            ("stood still, as expected when it was frozen", "ms", self.predicted, None),
            ("total, as predicted at the beginning", "ms", self.predicted_total, None),
            ("rounds", "count", self.rounds, None),
            ("first round", "MiB/s", self.first_round, None),
            ("page served to a task that waits, median", "us", self.fault_median, Some(100.0)),
            ("page served to a task that waits, 99th percentile", "us", self.fault_p99, Some(1000.0)),
        ];
        let there = all.into_iter().filter(|(_, _, samples, _)| !samples.is_empty());
        there
            .map(|(name, unit, samples, most)| {
                bounded(Row::new(format!("{what}: {name}"), unit, samples), most)
            })
            .collect()
    }
}
