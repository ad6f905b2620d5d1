//! The rows that can be asked for, one group for each line of what live migration is to reach, and how many moves and how much memory each takes.

use super::samples::{OWN, Samples};
use super::stage::{Failure, Outage, Stage, Subject};
use super::{first_round, slowdown};
use crate::report::{Row, median};
use ferry_model::api::Move;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pages written in a second, usually.
pub const RATE: u64 = 20_000;
/// Pages written in a second over [`SLOW_LINK_BYTES_PER_S`].
const RATE_FAST: u64 = 60_000;
/// What the link carries that is slower than the writer, bytes in a second.
const SLOW_LINK_BYTES_PER_S: u64 = 128 << 20;
/// What an idle workload's own life writes in a second, pages.
const RATE_SLOW: u64 = 1000;
/// A usual link between hosts, bytes in a second: 1 Gbit/s.
const USUAL_LINK_BYTES_PER_S: u64 = 125_000_000;
/// How long a workload that comes back was away.
const AWAY: Duration = Duration::from_secs(5);
/// Beside twice the workload's memory: hosts, their files, what pages wait in. MiB.
const BESIDE_MIB: u64 = 1536;
/// What redis takes for a MiB of its values, percent.
const REDIS_PERCENT: u64 = 150;

/// A group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// What tracking alone costs the workload
    Slowdown,
    /// A first round beside a bare pipeline
    FirstRound,
    /// Moves by pre-copy of each size
    PreCopy,
    /// Moves by post-copy of each size
    PostCopy,
    /// Moves by hybrid of each size
    Hybrid,
    /// Moves by stop-and-copy of each size
    StopAndCopy,
    /// A writer that is faster than the link, moved by `auto`
    SlowLink,
    /// An idle workload of the largest size beside a bare pipeline
    Idle,
    /// redis under load
    Redis,
    /// A workload that comes back to a host that has kept what it was, or has not
    Return,
}

/// The groups that the table consists of.
pub const TABLE: [Group; 7] = [
    Group::Slowdown,
    Group::FirstRound,
    Group::PreCopy,
    Group::PostCopy,
    Group::SlowLink,
    Group::Idle,
    Group::Redis,
];

/// What is measured.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Moves of each sort; the median counts.
    pub rounds: usize,
    /// Sizes of the writer's memory, MiB.
    pub sizes: Vec<u64>,
    /// Pages that it writes in a second.
    pub rate: u64,
    /// Size of the first round that is compared with a bare pipeline, MiB.
    pub first_round_mib: u64,
    /// Size of the writer that is faster than the link, MiB.
    pub slow_link_mib: u64,
    /// The values of redis, MiB.
    pub redis_mib: u64,
    /// More options for every `ferry move`.
    pub options: Vec<String>,
    /// Where each move is written as JSON.
    pub moves: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Found {
    /// The rows.
    pub rows: Vec<Row>,
    /// What has none, and why.
    pub skipped: Vec<String>,
}

impl Bench {
    /// Measures one group and adds its rows.
    ///
    /// # Errors
    /// A move failed, or a client or the workload saw a fault. What is refused or has no room is told as skipped.
    pub fn measure(&self, group: Group, found: &mut Found) -> io::Result<()> {
        let began = Instant::now();
        match group {
            Group::Slowdown => {
                let samples = slowdown::measure(1 << 30, self.rate, self.rounds)?;
                let name = format!("{} pages/s, tracked and nothing sent: less work done", self.rate);
                found.rows.push(Row::new(name, "%", samples).at_most(5.0));
            }
            Group::FirstRound => {
                if self.has_room("first round", 2 * self.first_round_mib, found) {
                    found.rows.extend(first_round::measure(self.first_round_mib, self.rounds)?);
                }
            }
            Group::PreCopy => self.sizes("pre-copy", found)?,
            Group::PostCopy => self.sizes("post-copy", found)?,
            Group::Hybrid => self.sizes("hybrid", found)?,
            Group::StopAndCopy => self.sizes("stop-and-copy", found)?,
            Group::SlowLink => self.slow_link(found)?,
            Group::Idle => self.idle(found)?,
            Group::Redis => self.redis(found)?,
            Group::Return => self.come_back(found)?,
        }
        say(&format!("{group:?} took {:.0} s", began.elapsed().as_secs_f64()));
        Ok(())
    }

    fn sizes(&self, method: &str, found: &mut Found) -> io::Result<()> {
        let (mut outages, mut own) = (Vec::new(), Vec::new());
        for mib in &self.sizes {
            let what = format!("{method}, {mib} MiB, {} pages/s", self.rate);
            let subject = Subject::Writer { bytes: mib << 20, rate: self.rate };
            let Some(moves) = self.moves(&what, method, &subject, 2 * mib, found)? else { continue };
            let samples = Samples::of(&moves);
            outages.push(median(&samples.outage));
            own.push(median(&samples.own_outage));
            found.rows.extend(match method {
                "pre-copy" => samples.rows(&what, Some(15.0), Some(5.0)),
                "post-copy" => samples.rows(&what, Some(25.0), None),
                _ => samples.rows(&what, None, None),
            });
        }
        for (name, outages) in [("client outage", outages), (OWN, own)] {
            let most = outages.iter().copied().fold(0.0, f64::max);
            let least = outages.iter().copied().fold(f64::INFINITY, f64::min);
            if outages.len() > 1 && least > 0.0 {
                let name = format!("{method}: largest {name}, of any size to the smallest");
                let row = Row::new(name, "times", vec![most / least]);
                found.rows.push(if method == "stop-and-copy" { row } else { row.at_most(1.3) });
            }
        }
        Ok(())
    }

    fn slow_link(&self, found: &mut Found) -> io::Result<()> {
        let mib = self.slow_link_mib;
        let what = format!("auto, {mib} MiB, {RATE_FAST} pages/s over 128 MiB/s");
        let subject = Subject::Writer { bytes: mib << 20, rate: RATE_FAST };
        if let Some(moves) = self.moves(&what, "auto", &subject, 2 * mib, found)? {
            found.rows.extend(Samples::of(&moves).rows(&what, Some(100.0), None));
        }
        Ok(())
    }

    /// The bare pipeline in turns with the moves: while it runs, the workload is on one host only.
    fn idle(&self, found: &mut Found) -> io::Result<()> {
        let Some(mib) = self.sizes.iter().copied().max() else { return Ok(()) };
        let what = format!("idle {mib} MiB, pre-copy");
        // Beside the workload the pipeline has a target as large, and what it reads from.
        if !self.has_room(&what, 2 * mib + self.first_round_mib.min(mib), found) {
            return Ok(());
        }
        let times = mib.div_ceil(self.first_round_mib).max(1);
        let pipeline = first_round::Pipeline::new((mib / times).max(1), times)?;
        let subject = Subject::Writer { bytes: mib << 20, rate: 0 };
        let mut limits = Vec::new();
        let turn = || {
            let took = pipeline.run()?;
            limits.push(took.as_secs_f64() * 1e3);
            Ok(())
        };
        let Some(moves) = self.moves_with(&what, "pre-copy", &subject, 2 * mib, found, turn)? else {
            return Ok(());
        };
        let samples = Samples::of(&moves);
        let bytes = (pipeline.bytes() >> 20) as f64;
        let bare: Vec<f64> = limits.iter().map(|ms| bytes / ms * 1e3).collect();
        let (total, first) = (samples.total.clone(), samples.first_round.clone());
        found.rows.push(Row::new(format!("{what}: total"), "ms", total).within(&limits, 1.2, 0.0));
        let round = Row::new(format!("{what}: first round"), "MiB/s", first);
        found.rows.push(round.at_least_share(&bare, 0.8));
        found.rows.push(Row::new(format!("{what}: client outage"), "ms", samples.outage));
        Ok(())
    }

    fn redis(&self, found: &mut Found) -> io::Result<()> {
        let mib = self.redis_mib;
        let what = format!("redis with {mib} MiB under load, pre-copy");
        let needs = 2 * mib * REDIS_PERCENT / 100;
        let subject = Subject::Redis { mib };
        if let Some(moves) = self.moves(&what, "pre-copy", &subject, needs, found)? {
            found.rows.extend(Samples::of(&moves).rows(&what, Some(50.0), None));
            // A reply that was lost, wrong or doubled, or a connection that broke, would have ended the bench.
            found.rows.push(Row::new(format!("{what}: errors"), "count", vec![0.0]).at_most(0.0));
        }
        Ok(())
    }

    /// Twice: as it is, and where both hosts keep what it was. There the first move finds nothing yet.
    fn come_back(&self, found: &mut Found) -> io::Result<()> {
        let Some(mib) = self.sizes.first().copied() else { return Ok(()) };
        for (kept, name) in [(false, "nothing"), (true, "what it was")] {
            let what = format!("back after {} s over 1 Gbit/s, {mib} MiB, host kept {name}", AWAY.as_secs());
            let subject = Subject::Returning { bytes: mib << 20, rate: RATE_SLOW, kept };
            let bench = Self { rounds: self.rounds + usize::from(kept), ..self.clone() };
            let Some(moves) = bench.moves(&what, "pre-copy", &subject, 4 * mib, found)? else { continue };
            found.rows.extend(Samples::of(&moves[usize::from(kept)..]).rows(&what, None, None));
        }
        Ok(())
    }

    fn moves(
        &self,
        what: &str,
        method: &str,
        subject: &Subject,
        needs_mib: u64,
        found: &mut Found,
    ) -> io::Result<Option<Vec<(Move, Outage)>>> {
        self.moves_with(what, method, subject, needs_mib, found, || Ok(()))
    }

    /// There and back, as often as asked, `before` before each; in the end every byte is looked at.
    fn moves_with(
        &self,
        what: &str,
        method: &str,
        subject: &Subject,
        needs_mib: u64,
        found: &mut Found,
        mut before: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Option<Vec<(Move, Outage)>>> {
        if !self.has_room(what, needs_mib, found) {
            return Ok(None);
        }
        say(&format!("{what}: hosts, workload and clients come up"));
        let failed = |failure: Failure| io::Error::other(format!("{what}: {failure}"));
        let mut stage = Stage::set(subject).map_err(failed)?;
        if matches!(subject, Subject::Writer { rate: RATE_FAST, .. }) {
            stage.limit_links(SLOW_LINK_BYTES_PER_S).map_err(failed)?;
        }
        if matches!(subject, Subject::Returning { .. }) {
            stage.limit_links(USUAL_LINK_BYTES_PER_S).map_err(failed)?;
            stage.calm = AWAY;
        }
        let mut options = vec!["--method".to_owned(), method.to_owned()];
        options.extend(self.options.iter().cloned());
        let mut moves = Vec::new();
        for number in 0..self.rounds {
            before()?;
            let moved = match stage.carry(&options) {
                Ok(moved) => moved,
                Err(Failure::Refused(why)) if moves.is_empty() => {
                    found.skip(format!("{what}: {}", why.lines().next().unwrap_or_default()));
                    return Ok(None);
                }
                Err(failure) => return Err(io::Error::other(format!("{what}: {failure}\n{}", stage.logs()))),
            };
            let sums = &moved.summary;
            let ms =
                |us: Option<u64>| us.map_or_else(|| "?".to_owned(), |us| format!("{:.1}", us as f64 / 1e3));
            let (outage, still, total) = (ms(sums.outage_us), ms(sums.downtime_us), ms(sums.total_us));
            let at = ms(Some(stage.longest_at_us()));
            let (own, alone) = (ms(Some(stage.outage().own_us)), ms(Some(stage.outage().alone_us)));
            say(&format!(
                "{what}: move {number}: waited {outage} ms ({own} without the machine's own, {alone} without a processor's), longest wait from {at} ms on, stood still {still} ms, total {total} ms"
            ));
            if let Some(dir) = &self.moves {
                std::fs::create_dir_all(dir)?;
                let name: String =
                    what.chars().map(|each| if each.is_ascii_alphanumeric() { each } else { '-' }).collect();
                std::fs::write(dir.join(format!("{name}-{number}.json")), serde_json::to_vec(&moved)?)?;
            }
            moves.push((moved, stage.outage()));
        }
        stage.end().map_err(failed)?;
        Ok(Some(moves))
    }

    /// Whether there is memory for `mib` MiB and what a lab takes. Says so if not.
    fn has_room(&self, what: &str, mib: u64, found: &mut Found) -> bool {
        let (needed, there) = (mib + BESIDE_MIB, crate::machine::available_mib());
        if needed > there {
            found.skip(format!("{what}: needs {needed} MiB of memory, and {there} are available"));
        }
        needed <= there
    }
}

impl Found {
    fn skip(&mut self, why: String) {
        say(&format!("no row for {why}"));
        self.skipped.push(why);
    }
}

/// How far it is, for whoever watches.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "bench: {line}");
}
