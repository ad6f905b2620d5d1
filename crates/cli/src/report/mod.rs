//! The report of a move: what happened when, what the pause went to, and what was expected of it. [`Story`] is read off the events
//! and nothing else; it is printed as text, drawn as a page (`html`), or given to programs as JSON.

pub mod html;
pub mod text;

use crate::output::span_us;
use ferry_model::api::{Move, MoveState};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{
    Cause, MethodChosen, Phase, RemedyChosen, RoundDone, Summary, What, pause, summary,
};
use ferry_model::ids::{HostName, MoveId};
use ferry_model::planning::Method;
use serde::Serialize;
use std::path::Path;

/// A move as it is told: stretches of time, in microseconds since it began.
#[derive(Clone, Debug, Serialize)]
pub struct Story {
    /// Which move.
    #[serde(rename = "move")]
    pub id: MoveId,
    /// The workload's name.
    pub name: String,
    /// From here.
    pub source: HostName,
    /// To there.
    pub target: HostName,
    /// Whether the original went on.
    pub clone: bool,
    /// What was asked for.
    pub method: Method,
    /// How it ended.
    pub state: MoveState,
    /// Why it did not end well, in one sentence.
    pub error: Option<String>,
    /// When it began, seconds since 1970.
    pub began_unix: u64,
    /// When its last event was.
    pub end_us: u64,
    /// Its sums.
    pub summary: Summary,
    /// Its phases in order.
    pub phases: Vec<Stretch<Phase>>,
    /// Its rounds, the one in the pause last.
    pub rounds: Vec<Stretch<RoundDone>>,
    /// Standstill, with what it went to.
    pub pause: Option<Pause>,
    /// Why memory travelled as it did.
    pub chosen: Option<MethodChosen>,
    /// What was done about rounds that did not help.
    pub remedies: Vec<Moment<RemedyChosen>>,
    /// Sentences for people.
    pub notes: Vec<Moment<String>>,
}

/// Something that took time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stretch<T> {
    /// When it began.
    pub begin_us: u64,
    /// When it ended.
    pub end_us: u64,
    /// What.
    pub what: T,
}

impl<T> Stretch<T> {
    /// How long, microseconds.
    pub fn us(&self) -> u64 {
        self.end_us.saturating_sub(self.begin_us)
    }
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Moment<T> {
    /// When.
    pub at_us: u64,
    /// What.
    pub what: T,
}

/// The time in which the workload stood still.
#[derive(Clone, Debug, Serialize)]
pub struct Pause {
    /// When it stopped.
    pub begin_us: u64,
    /// When it ran again.
    pub end_us: u64,
    /// What it went to. Stretches overlap where both hosts worked at the same time.
    pub causes: Vec<Stretch<Cause>>,
    /// Time in which no cause was reported: messages on their way, and what nobody measures yet. Microseconds.
    pub unaccounted_us: u64,
}

impl Pause {
    /// How long, microseconds.
    pub fn us(&self) -> u64 {
        self.end_us.saturating_sub(self.begin_us)
    }
}

impl Story {
    /// Reads the events of a move. Those that are missing are missing in the story.
    pub fn of(one: &Move) -> Self {
        let mut story = Self {
            id: one.id,
            name: one.name.clone(),
            source: one.source.clone(),
            target: one.target.clone(),
            clone: one.clone,
            method: one.method,
            state: one.state,
            error: one.error.as_ref().map(ToString::to_string),
            began_unix: one.began_unix,
            end_us: one.events.iter().map(|event| event.at_us).max().unwrap_or(0),
            summary: summary(&one.events),
            phases: Vec::new(),
            rounds: Vec::new(),
            pause: None,
            chosen: None,
            remedies: Vec::new(),
            notes: Vec::new(),
        };
        let mut causes = Vec::new();
        for event in &one.events {
            let at_us = event.at_us;
            match &event.what {
                // Open until its end is told; else until the end of all.
                What::PhaseStart { phase } => {
                    story.phases.push(Stretch { begin_us: at_us, end_us: story.end_us, what: *phase });
                }
                What::PhaseEnd { phase } => {
                    if let Some(open) = story.phases.iter_mut().rev().find(|open| open.what == *phase) {
                        open.end_us = at_us;
                    }
                }
                What::Spent { cause, us } => causes.push(ending(at_us, *us, *cause)),
                What::Round(done) => story.rounds.push(ending(at_us, done.round.duration_us, *done)),
                What::Method(chosen) => story.chosen = Some(chosen.clone()),
                What::Remedy(chosen) => story.remedies.push(Moment { at_us, what: chosen.clone() }),
                What::Note { text } => story.notes.push(Moment { at_us, what: text.clone() }),
                What::Exited { exit } => {
                    story.notes.push(Moment { at_us, what: crate::progress::exited(*exit) });
                }
                What::Progress { .. } | What::Follow(_) | What::Outage { .. } | What::End { .. } => {}
            }
        }
        if let Some((begin_us, end_us)) = pause(&one.events) {
            let end_us = end_us.unwrap_or(story.end_us).max(begin_us);
            causes.sort_by_key(|cause| cause.begin_us);
            let unaccounted_us = uncovered(begin_us, end_us, &causes);
            story.pause = Some(Pause { begin_us, end_us, causes, unaccounted_us });
        }
        story
    }

    /// What happened to the workload, in a line.
    pub fn headline(&self) -> String {
        let verb = if self.clone { "cloned" } else { "moved" };
        match self.state {
            MoveState::Done => format!("{} {verb} from {} to {}", self.name, self.source, self.target),
            state => {
                let state = crate::verbs::state_name(state);
                format!("{} from {} to {}: {state}", self.name, self.source, self.target)
            }
        }
    }

    /// How memory travelled: as chosen, else as asked for.
    pub fn method_name(&self) -> String {
        self.chosen.as_ref().map_or_else(|| self.method.to_string(), |chosen| chosen.method.to_string())
    }
}

/// Writes the page about a move to a file.
///
/// # Errors
/// It cannot be written.
pub fn write_page(one: &Move, path: &Path) -> Result<()> {
    std::fs::write(path, html::page(&Story::of(one))).map_err(|cause| {
        Error::from_source(Kind::Unable, &cause)
            .context(format!("The page could not be written to {}", path.display()))
    })
}

fn ending<T>(at_us: u64, us: u64, what: T) -> Stretch<T> {
    Stretch { begin_us: at_us.saturating_sub(us), end_us: at_us, what }
}

/// How much of the time from `begin` to `end` none of `causes`, which are in order of their begin, covers.
fn uncovered(begin: u64, end: u64, causes: &[Stretch<Cause>]) -> u64 {
    let mut reached = begin;
    let mut open = 0;
    for cause in causes {
        let from = cause.begin_us.clamp(begin, end);
        open += from.saturating_sub(reached);
        reached = reached.max(cause.end_us.min(end));
    }
    open + end.saturating_sub(reached)
}

/// What a pause went to, a row for each cause: what, from when, how long; and what no cause accounts for.
pub fn pause_rows(pause: &Pause) -> Vec<Vec<String>> {
    let row = |cause: &Stretch<Cause>| {
        let from = cause.begin_us.saturating_sub(pause.begin_us);
        vec![cause_name(cause.what).to_owned(), span_us(from), span_us(cause.us())]
    };
    let rest = vec!["not accounted for".to_owned(), "-".to_owned(), span_us(pause.unaccounted_us)];
    pause.causes.iter().map(row).chain([rest]).collect()
}

/// A cause in a few words.
pub fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Freeze => "stop all tasks",
        Cause::Capture => "read the state",
        Cause::Files => "files that changed",
        Cause::Restore => "build it there",
        Cause::Memory => "memory",
        Cause::Complete => "descriptors and threads",
        Cause::Commit => "decide",
        Cause::Resume => "let it run",
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use ferry_model::event::Event;
    use ferry_model::strategy::measured::Round;
    use ferry_model::strategy::prediction::{Ending, Method as Way, Prediction};

    /// A move with the events `list`.
    pub fn moved(name: &str, list: Vec<(u64, What)>) -> Move {
        let events: Vec<Event> = list.into_iter().map(|(at_us, what)| Event { at_us, what }).collect();
        Move {
            id: MoveId([7; 16]),
            workload: ferry_model::ids::WorkloadId([8; 16]),
            name: name.to_owned(),
            source: "alpha".parse().unwrap(),
            target: "beta".parse().unwrap(),
            role: ferry_model::api::MoveRole::Source,
            clone: false,
            method: Method::PreCopy,
            state: MoveState::Done,
            began_unix: 1_795_000_000,
            downtime_us: None,
            total_us: None,
            error: None,
            summary: summary(&events),
            events,
        }
    }

    /// A pre-copy of a GiB in five rounds and a pause of 14 ms, with everything that a report can tell.
    pub fn live(name: &str) -> Move {
        let start = |phase| What::PhaseStart { phase };
        let end = |phase| What::PhaseEnd { phase };
        let prediction = |method, downtime_us, rounds| Prediction {
            method,
            ending: Ending::Converges,
            rounds,
            total_us: 2_400_000,
            downtime_us,
            degraded_us: 0,
            sent_bytes: 1_300_000_000,
        };
        let chosen = MethodChosen {
            method: Way::PreCopy,
            reason: "pre-copy, at most 10.0 ms of standstill: the link carries more than is dirtied".into(),
            predictions: vec![
                prediction(Way::StopAndCopy, 1_900_000, 0),
                prediction(Way::PreCopy, 10_000, 5),
            ],
        };
        let mut list = vec![
            (300, start(Phase::Plan)),
            (21_000, end(Phase::Plan)),
            (21_000, start(Phase::Prepare)),
            (160_000, end(Phase::Prepare)),
            (160_000, start(Phase::PreCopy)),
            (160_100, What::Method(chosen)),
        ];
        let mut at = 160_200;
        let found = [1_073_741_824_u64, 142_000_000, 22_000_000, 6_200_000, 2_400_000];
        let took = [1_830_000_u64, 252_000, 41_000, 13_000, 6_500];
        let mut scan_before = 0;
        for (number, (dirty_bytes, duration_us)) in (0..).zip(found.into_iter().zip(took)) {
            at += duration_us + 400;
            let zero_bytes = if number == 0 { 60_000_000 } else { 0 };
            let round = Round {
                number,
                dirty_bytes,
                sent_bytes: dirty_bytes - zero_bytes,
                zero_bytes,
                since_scan_us: scan_before,
                scan_us: 1_900,
                duration_us,
                ..Round::default()
            };
            scan_before = duration_us;
            let predicted_downtime_us = Some(5_000 + dirty_bytes / 600);
            list.push((at, What::Round(RoundDone { predicted_downtime_us, streams: 2, ..round.into() })));
        }
        list.push((at, end(Phase::PreCopy)));
        let freeze = at + 20;
        let last = Round {
            number: 5,
            last: true,
            dirty_bytes: 1_650_000,
            sent_bytes: 1_650_000,
            since_scan_us: 6_700,
            scan_us: 1_000,
            duration_us: 5_200,
            ..Round::default()
        };
        let spent = |cause, us| What::Spent { cause, us };
        for (after, what) in [
            (0, start(Phase::Freeze)),
            (1_100, spent(Cause::Freeze, 1_080)),
            (1_100, end(Phase::Freeze)),
            (1_100, start(Phase::State)),
            (3_400, spent(Cause::Capture, 2_250)),
            (4_000, spent(Cause::Files, 520)),
            (4_000, end(Phase::State)),
            (4_000, start(Phase::Prepared)),
            (7_300, spent(Cause::Restore, 3_100)),
            (9_300, spent(Cause::Memory, 5_200)),
            (9_300, What::Round(last.into())),
            (11_200, spent(Cause::Complete, 1_700)),
            (11_300, end(Phase::Prepared)),
            (11_300, start(Phase::Commit)),
            (12_700, spent(Cause::Commit, 1_390)),
            (12_700, end(Phase::Commit)),
            (12_700, start(Phase::Resume)),
            (14_100, spent(Cause::Resume, 1_200)),
            (14_200, end(Phase::Resume)),
            (14_200, start(Phase::Finish)),
            (41_000, end(Phase::Finish)),
            (41_000, What::End { error: None }),
            (41_000, What::Outage { us: 15_300 }),
        ] {
            list.push((freeze + after, what));
        }
        moved(name, list)
    }

    #[test]
    fn a_story_is_read_off_the_events() {
        let story = Story::of(&live("web"));
        assert_eq!((story.phases.len(), story.rounds.len(), story.summary.rounds), (9, 6, 5));
        let pause = story.pause.unwrap();
        assert_eq!((pause.us(), pause.causes.len()), (14_200, 8));
        // Sorted by their begin: the memory's began while it was being built.
        assert!(pause.causes.is_sorted_by_key(|cause| cause.begin_us));
        assert!(pause.unaccounted_us > 0 && pause.unaccounted_us < 1_000, "{}", pause.unaccounted_us);
    }

    #[test]
    fn what_no_cause_covers_is_told() {
        let cause = |begin_us, end_us| Stretch { begin_us, end_us, what: Cause::Memory };
        assert_eq!(uncovered(10, 20, &[]), 10);
        assert_eq!(uncovered(10, 20, &[cause(0, 12), cause(11, 15), cause(13, 14), cause(18, 30)]), 3);
        assert_eq!(uncovered(10, 20, &[cause(25, 30)]), 10);
        assert_eq!(uncovered(10, 20, &[cause(0, 40)]), 0);
    }

    #[test]
    fn a_move_that_never_stopped_has_no_pause() {
        let start = What::PhaseStart { phase: Phase::Plan };
        let story = Story::of(&moved("web", vec![(5, start), (90, What::Note { text: "x".into() })]));
        assert!(story.pause.is_none() && story.rounds.is_empty());
        assert_eq!((story.phases[0].end_us, story.end_us), (90, 90));
    }
}
