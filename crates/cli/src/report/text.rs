//! The report for a terminal.

use super::{Story, pause_rows};
use crate::output::{bytes, span_us, table};
use crate::progress::phase_name;
use std::io::{self, Write};

/// Prints it: sums, phases, rounds, the pause by its causes, predictions beside what came, notes.
pub fn print(story: &Story, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", story.headline())?;
    writeln!(out, "by {}, {}", story.method_name(), story.id)?;
    if let Some(error) = &story.error {
        writeln!(out, "{error}")?;
    }
    writeln!(out)?;
    for (name, value) in figures(story) {
        writeln!(out, "  {name:<24} {value}")?;
    }
    if let Some(chosen) = &story.chosen {
        writeln!(out, "\nwhy: {}", chosen.reason)?;
    }
    for remedy in &story.remedies {
        writeln!(out, "after {}: {}", span_us(remedy.at_us), remedy.what.reason)?;
    }
    if !story.phases.is_empty() {
        writeln!(out, "\nphases")?;
        let row = |phase: &super::Stretch<_>| {
            vec![phase_name(phase.what).to_owned(), span_us(phase.begin_us), span_us(phase.us())]
        };
        indented(out, &["PHASE", "FROM", "TOOK"], story.phases.iter().map(row).collect())?;
    }
    if !story.rounds.is_empty() {
        writeln!(out, "\nrounds")?;
        let head = ["ROUND", "TOOK", "DIRTY", "SENT", "ZERO", "DIRTIED/S", "SENT/S", "PAUSE EXPECTED"];
        indented(out, &head, rounds(story))?;
    }
    if let Some(pause) = &story.pause {
        writeln!(out, "\npause of {}", span_us(pause.us()))?;
        indented(out, &["CAUSE", "FROM", "TOOK"], pause_rows(pause))?;
    }
    if let Some(chosen) = story.chosen.as_ref().filter(|chosen| !chosen.predictions.is_empty()) {
        writeln!(out, "\npredicted")?;
        indented(out, &PREDICTED, predictions(&chosen.predictions))?;
    }
    if !story.notes.is_empty() {
        writeln!(out, "\nnotes")?;
        for note in &story.notes {
            writeln!(out, "  {:>10}  {}", span_us(note.at_us), note.what)?;
        }
    }
    Ok(())
}

/// The sums that are known, with their names.
pub fn figures(story: &Story) -> Vec<(&'static str, String)> {
    let sums = &story.summary;
    let mut figures = Vec::new();
    let mut time = |name, us: Option<u64>| {
        if let Some(us) = us {
            figures.push((name, span_us(us)));
        }
    };
    time("stood still", sums.downtime_us);
    time("expected to stand still", sums.predicted_downtime_us);
    time("clients waited at most", sums.outage_us);
    time("in all", sums.total_us);
    if sums.rounds > 0 {
        figures.push(("rounds while it ran", sums.rounds.to_string()));
    }
    if sums.sent_bytes > 0 {
        figures.push(("content sent", bytes(sums.sent_bytes)));
        figures.push((".. while it stood still", bytes(sums.sent_in_pause_bytes)));
    }
    if sums.rounds > 0 {
        figures.push(("zero, not sent", bytes(sums.zero_bytes)));
        if sums.reused_bytes > 0 {
            figures.push(("there from an earlier visit", bytes(sums.reused_bytes)));
        }
        figures.push(("on the wire", bytes(sums.wire_bytes)));
    }
    if let Some(pages) = &sums.follow {
        figures.push(("followed after the resume", bytes(pages.placed_bytes)));
        if let Some(us) = sums.follow_us {
            figures.push((".. until all was in", span_us(us)));
        }
        figures.push((".. waits for a page", pages.faults.to_string()));
        if pages.faults > 0 {
            figures.push((".. of which half took less", span_us(pages.fault_us_median)));
            figures.push((".. and 99 of 100 less", span_us(pages.fault_us_p99)));
        }
    }
    figures
}

/// Head of a table of [`predictions`].
pub const PREDICTED: [&str; 6] = ["METHOD", "STANDS STILL", "WAITS AFTERWARDS", "IN ALL", "ROUNDS", "SENT"];

/// One row for each method.
pub fn predictions(list: &[ferry_model::strategy::prediction::Prediction]) -> Vec<Vec<String>> {
    let row = |one: &ferry_model::strategy::prediction::Prediction| {
        vec![
            one.method.to_string(),
            span_us(one.downtime_us),
            span_us(one.degraded_us),
            span_us(one.total_us),
            one.rounds.to_string(),
            bytes(one.sent_bytes),
        ]
    };
    list.iter().map(row).collect()
}

/// One row for each round.
pub fn rounds(story: &Story) -> Vec<Vec<String>> {
    let rate = |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), bytes);
    let row = |round: &super::Stretch<ferry_model::event::RoundDone>| {
        let one = &round.what.round;
        let number = if one.last { "in the pause".to_owned() } else { one.number.to_string() };
        vec![
            number,
            span_us(one.duration_us),
            bytes(one.dirty_bytes),
            bytes(one.sent_bytes),
            bytes(one.zero_bytes),
            rate(one.dirty_bytes_per_s()),
            rate(one.bytes_per_s()),
            round.what.predicted_downtime_us.map_or_else(|| "-".to_owned(), span_us),
        ]
    };
    story.rounds.iter().map(row).collect()
}

/// A table, two spaces in.
pub fn indented(out: &mut dyn Write, head: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
    let mut text = Vec::new();
    table(&mut text, head, &rows)?;
    let text = String::from_utf8_lossy(&text);
    text.lines().try_for_each(|line| writeln!(out, "  {line}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{live, moved};
    use super::*;

    fn text(one: &ferry_model::api::Move) -> String {
        let mut out = Vec::new();
        print(&Story::of(one), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_tells_rounds_causes_and_predictions_beside_what_came() {
        let text = text(&live("web"));
        for wanted in [
            "web moved from alpha to beta",
            "by pre-copy",
            "stood still              14.2 ms",
            "expected to stand still  9.0 ms",
            "clients waited at most   15.3 ms",
            "rounds while it ran      5",
            "  in the pause  5.2 ms",
            "not accounted for",
            "the link carries more than is dirtied",
            "  stop-and-copy  1.90 s",
        ] {
            assert!(text.contains(wanted), "{wanted:?} is missing:\n{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let text = text(&moved("web", vec![]));
        for unwanted in ["rounds", "pause", "stood still  ", "predicted", "expected", "clients"] {
            assert!(!text.contains(unwanted), "{unwanted:?}:\n{text}");
        }
    }
}
