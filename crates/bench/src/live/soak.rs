//! Many moves of one loaded redis, back and forth, each with options that a seed draws: what happens once in a hundred moves is only seen so.
//!
//! Every reply is verified by the clients, all keys at the end. What came of each move is added to a tally, which is kept in a file when
//! one is named: a soak that was interrupted goes on with the next move.

use super::counters::{self, Counters};
use super::samples::OWN;
use super::stage::{Failure, Outage, Stage, Subject};
use crate::report::{Row, median};
use ferry_model::api::Move;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Failed moves after which nothing new is learnt.
const FAILURES_MAX: usize = 20;

/// The shortest and the longest that it works undisturbed before and after a move, milliseconds.
const CALM_MS: (u64, u64) = (50, 350);

/// Whoever waits so much longer than the workload stood still waited for something else, too: what TCP has counted is told.
const LONGER_MS: f64 = 100.0;

/// One move in so many has redis write its data base to disk meanwhile, in a child that it forks.
const BGSAVE_EVERY: u64 = 8;

/// What came of the moves so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Moves that went well, by method.
    pub methods: BTreeMap<String, Sums>,
    /// Those that did not: number, command and what was said.
    pub failures: Vec<String>,
}

/// The figures of one method's moves, one of each for every move, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// How long clients waited at most, milliseconds.
    pub outage_ms: Vec<f64>,
    /// As that, without what the machine itself stood still.
    #[serde(default)]
    pub own_outage_ms: Vec<f64>,
    /// How long it stood still, milliseconds.
    pub downtime_ms: Vec<f64>,
    /// The whole move, milliseconds.
    pub total_ms: Vec<f64>,
    /// Rounds while it ran.
    pub rounds: Vec<f64>,
    /// Sent in the pause, MiB.
    pub in_pause_mib: Vec<f64>,
}

impl Sums {
    fn add(&mut self, moved: &Move, outage: Outage) {
        let ms = |us: Option<u64>| us.unwrap_or(0) as f64 / 1e3;
        let sums = &moved.summary;
        self.outage_ms.push(ms(sums.outage_us));
        self.own_outage_ms.push(ms(Some(outage.own_us)));
        self.downtime_ms.push(ms(sums.downtime_us));
        self.total_ms.push(ms(sums.total_us));
        self.rounds.push(f64::from(sums.rounds));
        self.in_pause_mib.push(sums.sent_in_pause_bytes as f64 / f64::from(1 << 20));
    }
}

impl Tally {
    /// As kept in `path`; empty where there is none yet.
    ///
    /// # Errors
    /// It cannot be read, or is of something else.
    pub fn load(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Keeps it: the whole file or the one before.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, serde_json::to_vec(self)?)?;
        std::fs::rename(fresh, path)
    }

    /// Moves so far, whatever came of them.
    #[must_use]
    pub fn moves(&self) -> usize {
        self.methods.values().map(|sums| sums.outage_ms.len()).sum::<usize>() + self.failures.len()
    }

    /// One row for each method and figure, with what is to be reached.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = vec![
            Row::new("redis, moves", "count", vec![self.moves() as f64]),
            Row::new("redis, moves that failed", "count", vec![self.failures.len() as f64]).at_most(0.0),
        ];
        for (method, sums) in &self.methods {
            let name = |what: &str| format!("redis, {method}: {what}");
            let one = |what: &str, value: f64| Row::new(name(what), "ms", vec![value]);
            rows.push(Row::new(name("moves"), "count", vec![sums.outage_ms.len() as f64]));
            rows.push(one("client outage, median", median(&sums.outage_ms)));
            rows.push(one("client outage, 99th percentile", percentile(&sums.outage_ms, 99)).at_most(100.0));
            rows.push(one("client outage, longest", percentile(&sums.outage_ms, 100)));
            rows.push(one(&format!("{OWN}, median"), median(&sums.own_outage_ms)));
            let own = percentile(&sums.own_outage_ms, 99);
            rows.push(one(&format!("{OWN}, 99th percentile"), own).at_most(100.0));
            rows.push(one("stood still, median", median(&sums.downtime_ms)));
            rows.push(one("stood still, 99th percentile", percentile(&sums.downtime_ms, 99)));
            rows.push(one("total, median", median(&sums.total_ms)));
            rows.push(Row::new(name("rounds, median"), "count", vec![median(&sums.rounds)]));
            let in_pause = vec![median(&sums.in_pause_mib)];
            rows.push(Row::new(name("sent while it stood still, median"), "MiB", in_pause));
        }
        rows
    }
}

/// The smallest of `samples` that is at least as large as `percent` of them; 0 if there are none.
#[must_use]
pub fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// What is moved, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Moves in all.
    pub moves: usize,
    /// The values of redis, MiB.
    pub mib: u64,
    /// Drawn from.
    pub methods: Vec<String>,
    /// Draws.
    pub seed: String,
}

/// Moves until `plan.moves` are in the tally. The tally is handed to `after` after each of them, with a line about it.
///
/// # Errors
/// The clients saw a fault, something is left behind, or too many moves failed: the tally has the moves until then.
pub fn run(
    plan: &Plan,
    tally: &mut Tally,
    mut after: impl FnMut(&Tally, &str) -> io::Result<()>,
) -> Result<(), Failure> {
    if tally.moves() >= plan.moves {
        return Ok(());
    }
    let mut stage = Stage::set(&Subject::Redis { mib: plan.mib })?;
    while tally.moves() < plan.moves {
        let number = tally.moves();
        let draw = Draw::new(&plan.seed, number, &plan.methods);
        stage.calm = draw.calm;
        let (from, options) = (stage.host().name().to_owned(), draw.options.join(" "));
        let before = stage.counters();
        let saving = if draw.bgsave { Some(stage.bgsave()?) } else { None };
        let told =
            format!("move {number} from {from}, {options}{}", if draw.bgsave { ", BGSAVE" } else { "" });
        match stage.carry(&draw.options) {
            Ok(moved) => {
                tally.methods.entry(draw.method).or_default().add(&moved, stage.outage());
                let sums = &moved.summary;
                let ms = |us: Option<u64>| us.unwrap_or(0) as f64 / 1e3;
                let (outage, downtime) = (ms(sums.outage_us), ms(sums.downtime_us));
                let own = ms(Some(stage.outage().own_us));
                let mut line = format!(
                    "{told}: waited {outage:.1} ms ({own:.1} without the machine's own), stood still {downtime:.1} ms"
                );
                if outage > downtime + LONGER_MS {
                    let [clients, inside] = stage.counters();
                    let clients = counters::since(&before[0], &clients);
                    let inside = counters::since(&Counters::new(), &inside);
                    line.push_str(&format!(
                        "\n  the clients' TCP: {clients}\n  the workload's TCP since it arrived: {inside}"
                    ));
                }
                after(tally, &line)?;
            }
            Err(failure) => {
                let told = format!("{told}: {failure}");
                tally.failures.push(told.clone());
                after(tally, &format!("{told}\n{}", stage.logs()))?;
                // It runs somewhere, unharmed, or this is the end.
                stage.find()?;
                if tally.failures.len() >= FAILURES_MAX {
                    return Err(Failure::Failed(io::Error::other(format!("{FAILURES_MAX} moves failed"))));
                }
            }
        }
        drop(saving);
    }
    stage.end()
}

/// What a seed draws for one move.
struct Draw {
    method: String,
    options: Vec<String>,
    calm: Duration,
    bgsave: bool,
}

impl Draw {
    fn new(seed: &str, number: usize, methods: &[String]) -> Self {
        let mut hasher = DefaultHasher::new();
        (seed, number).hash(&mut hasher);
        let mut state = hasher.finish() | 1;
        let mut draw = |of: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % of
        };
        let method = methods.get(draw(methods.len().max(1) as u64) as usize);
        let method = method.cloned().unwrap_or_else(|| "pre-copy".to_owned());
        let mut options = vec!["--method".to_owned(), method.clone()];
        options.extend(["--streams".to_owned(), (draw(3) + 1).to_string()]);
        if method != "stop-and-copy" {
            let compress = ["auto", "auto", "on", "off"][draw(4) as usize];
            let downtime = ["2ms", "10ms", "10ms", "30ms"][draw(4) as usize];
            options.extend(["--compress", compress, "--downtime-max", downtime].map(str::to_owned));
        }
        let calm = Duration::from_millis(CALM_MS.0 + draw(CALM_MS.1 - CALM_MS.0));
        Self { method, options, calm, bgsave: draw(BGSAVE_EVERY) == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((percentile(&samples, 99), percentile(&samples, 100)), (198.0, 200.0));
        assert_eq!((percentile(&[7.0], 99), percentile(&[], 99)), (7.0, 0.0));
    }

    #[test]
    fn a_seed_draws_the_same_again_and_every_sort_of_move() {
        let methods = ["pre-copy".to_owned(), "stop-and-copy".to_owned()];
        let draws: Vec<Draw> = (0..200).map(|number| Draw::new("a", number, &methods)).collect();
        assert_eq!(draws[17].options, Draw::new("a", 17, &methods).options);
        assert!(methods.iter().all(|method| draws.iter().any(|draw| draw.method == *method)));
        assert!(draws.iter().any(|draw| draw.bgsave) && draws.iter().any(|draw| !draw.bgsave));
        let stopped = draws.iter().find(|draw| draw.method == "stop-and-copy").unwrap();
        assert!(!stopped.options.iter().any(|option| option == "--downtime-max"));
    }

    #[test]
    fn a_tally_is_kept_and_goes_on() {
        let dir = std::env::temp_dir().join(format!("ferry-tally-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("tally.json");
        let mut tally = Tally::load(&path).unwrap();
        assert_eq!(tally.moves(), 0);
        tally.methods.entry("pre-copy".into()).or_default().outage_ms.push(3.5);
        tally.failures.push("a cause".into());
        tally.save(&path).unwrap();
        let again = Tally::load(&path).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((again.moves(), &again), (2, &tally));
        let failed = again.rows().into_iter().find(|row| row.name.contains("failed")).unwrap();
        assert_eq!(failed.reached, Some(false));
    }
}
