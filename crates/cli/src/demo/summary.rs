//! What the demo found: a timeline and sums for people, one object for programs.

use super::kv::report::Report;
use crate::output::{bytes, span_us};
use crate::progress::{self, phase_name};
use crate::report::{Story, cause_name};
use ferry_model::api::Move;
use serde::Serialize;
use std::io::{self, Write};

/// The result of a demo. Serialized, it is the object that scripts judge by.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Moves that were made.
    pub moves: usize,
    /// Longest time for which a client waited for a reply that was due, in milliseconds.
    pub outage_ms_max: f64,
    /// Longest time for which the server stood still, in milliseconds.
    pub downtime_ms_max: f64,
    /// Time of all moves, from command to end, in milliseconds.
    pub total_ms: f64,
    /// Replies that arrived and were right.
    pub replies: u64,
    /// Requests that were never answered.
    pub replies_lost: u64,
    /// Replies with a content that cannot be.
    pub replies_wrong: u64,
    /// Replies that came twice.
    pub replies_doubled: u64,
    /// Connections that ended or failed.
    pub connections_broken: u64,
    /// What is still there of the demo.
    pub leftovers: Vec<String>,
    /// Each move with what the clients saw during it.
    #[serde(skip)]
    pub legs: Vec<Leg>,
    /// Open connections.
    #[serde(skip)]
    pub connections: u64,
    /// Faults in words.
    #[serde(skip)]
    pub faults: Vec<String>,
}

/// One move.
#[derive(Clone, Debug)]
pub struct Leg {
    /// As the node tells it.
    pub moved: Move,
    /// What the clients saw while it was under way.
    pub seen: Report,
}

impl Summary {
    /// From the moves and the clients' sums.
    pub fn new(legs: Vec<Leg>, all: &Report) -> Self {
        let ms = |us: Option<u64>| us.unwrap_or(0) as f64 / 1e3;
        Self {
            moves: legs.len(),
            outage_ms_max: legs.iter().map(|leg| leg.seen.outage_ms).fold(0.0, f64::max),
            downtime_ms_max: legs.iter().map(|leg| ms(leg.moved.downtime_us)).fold(0.0, f64::max),
            total_ms: legs.iter().map(|leg| ms(leg.moved.total_us)).sum(),
            replies: all.replies,
            replies_lost: all.replies_lost,
            replies_wrong: all.replies_wrong,
            replies_doubled: all.replies_doubled,
            connections_broken: all.connections_broken,
            leftovers: Vec::new(),
            legs,
            connections: all.connections,
            faults: all.faults.clone(),
        }
    }

    /// Moved, nothing lost, wrong, doubled, broken or left behind.
    pub fn is_clean(&self) -> bool {
        let faults = [self.replies_lost, self.replies_wrong, self.replies_doubled, self.connections_broken];
        self.moves > 0 && faults == [0; 4] && self.replies > 0 && self.leftovers.is_empty()
    }

    /// For people.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        for leg in &self.legs {
            let moved = &leg.moved;
            writeln!(out, "\n{} moved from {} to {}", moved.name, moved.source, moved.target)?;
            let story = Story::of(moved);
            for phase in &story.phases {
                let (from, took) = (span_us(phase.begin_us), span_us(phase.us()));
                writeln!(out, "  {from:>10}  {:<10} {took:>10}", phase_name(phase.what))?;
            }
            for round in &story.rounds {
                writeln!(out, "  {}", progress::round(&round.what))?;
            }
            let [down, total] = [moved.downtime_us, moved.total_us].map(|us| us.map_or("?".into(), span_us));
            writeln!(
                out,
                "  stood still {down}, {total} in all; the clients waited at most {:.1} ms",
                leg.seen.outage_ms
            )?;
            let sums = &story.summary;
            let causes: Vec<String> = sums
                .spent
                .iter()
                .map(|spent| format!("{} {}", cause_name(spent.cause), span_us(spent.us)))
                .collect();
            writeln!(out, "  of that: {}", causes.join(", "))?;
            let (sent, still) = (bytes(sums.sent_bytes), bytes(sums.sent_in_pause_bytes));
            writeln!(out, "  {sent} of content sent, {still} of it while it stood still")?;
        }
        writeln!(out, "\n{} replies over {} connections:", self.replies, self.connections)?;
        let (lost, wrong, doubled) = (self.replies_lost, self.replies_wrong, self.replies_doubled);
        writeln!(
            out,
            "  {lost} lost, {wrong} wrong, {doubled} doubled, {} connections broken",
            self.connections_broken
        )?;
        writeln!(out, "  longest outage that a client saw: {:.1} ms", self.outage_ms_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_names_that_scripts_judge_by() {
        let value = serde_json::to_value(Summary::default()).unwrap();
        let mut names: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let wanted = [
            "connections_broken",
            "downtime_ms_max",
            "leftovers",
            "moves",
            "outage_ms_max",
            "replies",
            "replies_doubled",
            "replies_lost",
            "replies_wrong",
            "total_ms",
        ];
        assert_eq!(names, wanted);
    }

    #[test]
    fn a_demo_without_moves_or_with_a_fault_is_not_clean() {
        let good = Summary { moves: 2, replies: 10, ..Summary::default() };
        assert!(good.is_clean());
        for bad in [
            Summary::default(),
            Summary { moves: 0, ..good.clone() },
            Summary { replies_lost: 1, ..good.clone() },
            Summary { replies_wrong: 1, ..good.clone() },
            Summary { replies_doubled: 1, ..good.clone() },
            Summary { connections_broken: 1, ..good.clone() },
            Summary { leftovers: vec!["file x".into()], ..good.clone() },
        ] {
            assert!(!bad.is_clean(), "{bad:?}");
        }
    }
}
