//! The sums of a move, computed from its events and nothing else: what lists, reports and benches tell.

use super::{Cause, Event, PagesFollow, Phase, RoundDone, What, downtime_us, total_us};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A move in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Summary {
    /// From its begin to its end, microseconds.
    pub total_us: Option<u64>,
    /// How long the workload stood still, microseconds.
    pub downtime_us: Option<u64>,
    /// What that went to, in order of the reports. The parts may overlap, since two hosts work at the same time.
    pub spent: Vec<Spent>,
    /// How long the pause was expected to be when it began, microseconds.
    pub predicted_downtime_us: Option<u64>,
    /// The longest time that somebody outside waited for a reply that was due, where clients were watched, microseconds.
    pub outage_us: Option<u64>,
    /// Rounds while it ran; the one in the pause is not counted.
    pub rounds: u32,
    /// Bytes of memory whose content was sent, in all rounds and the pause.
    pub sent_bytes: u64,
    /// Of these, those that were sent while it stood still.
    pub sent_in_pause_bytes: u64,
    /// Bytes of memory that were all zero: told, not sent.
    pub zero_bytes: u64,
    /// Bytes of memory that the target had of an earlier visit: told, not sent.
    #[serde(default)]
    pub reused_bytes: u64,
    /// Bytes that the page streams carried, after compression. 0 where there were no rounds: then it is not counted.
    pub wire_bytes: u64,
    /// Pages that followed after the resume, where some did.
    pub follow: Option<PagesFollow>,
    /// How long that took, from the resume until the last page was in, microseconds.
    pub follow_us: Option<u64>,
}

/// A part of the pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Spent {
    /// What it went to.
    pub cause: Cause,
    /// How long, microseconds.
    pub us: u64,
}

/// Sums `events` up.
#[must_use]
pub fn summary(events: &[Event]) -> Summary {
    let mut sums =
        Summary { total_us: total_us(events), downtime_us: downtime_us(events), ..Summary::default() };
    // Progress is cumulative within its phase.
    let mut progress: BTreeMap<Phase, u64> = BTreeMap::new();
    let mut rounds: Vec<RoundDone> = Vec::new();
    for event in events {
        match &event.what {
            What::Spent { cause, us } => spend(&mut sums.spent, *cause, *us),
            What::Progress { phase, bytes, .. } => {
                let most = progress.entry(*phase).or_default();
                *most = (*most).max(*bytes);
            }
            What::Round(done) => rounds.push(*done),
            What::Follow(pages) => sums.follow = Some(*pages),
            What::Outage { us } => sums.outage_us = sums.outage_us.max(Some(*us)),
            _ => {}
        }
    }
    sums.follow_us = phase_us(events, Phase::PostCopy);
    let sum = |of: fn(&RoundDone) -> u64| rounds.iter().map(of).fold(0, u64::saturating_add);
    let mut running = rounds.iter().filter(|done| !done.round.last);
    sums.rounds = u32::try_from(running.clone().count()).unwrap_or(u32::MAX);
    sums.predicted_downtime_us = running.next_back().and_then(|done| done.predicted_downtime_us);
    sums.zero_bytes = sum(|done| done.round.zero_bytes);
    sums.reused_bytes = sum(|done| done.reused_bytes);
    sums.wire_bytes = sum(|done| done.wire_bytes);
    if rounds.is_empty() {
        sums.sent_bytes = progress.values().copied().fold(0, u64::saturating_add);
        sums.sent_in_pause_bytes = progress
            .range(Phase::Freeze..=Phase::Resume)
            .map(|(_, bytes)| *bytes)
            .fold(0, u64::saturating_add);
    } else {
        sums.sent_bytes = sum(|done| done.round.sent_bytes);
        sums.sent_in_pause_bytes = sum(|done| if done.round.last { done.round.sent_bytes } else { 0 });
    }
    sums
}

/// How long a phase took that is over.
fn phase_us(events: &[Event], phase: Phase) -> Option<u64> {
    let at = |wanted: What| events.iter().find(|event| event.what == wanted).map(|event| event.at_us);
    at(What::PhaseEnd { phase })?.checked_sub(at(What::PhaseStart { phase })?)
}

/// Adds to a cause that was named before, or names it.
fn spend(spent: &mut Vec<Spent>, cause: Cause, us: u64) {
    match spent.iter_mut().find(|one| one.cause == cause) {
        Some(one) => one.us = one.us.saturating_add(us),
        None => spent.push(Spent { cause, us }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::measured::Round;

    fn events(list: Vec<(u64, What)>) -> Vec<Event> {
        list.into_iter().map(|(at_us, what)| Event { at_us, what }).collect()
    }

    fn round(number: u32, last: bool, sent_bytes: u64, predicted_downtime_us: Option<u64>) -> What {
        let round = Round { number, last, sent_bytes, zero_bytes: 10, ..Round::default() };
        let reused_bytes = if number == 0 { 7 } else { 0 };
        What::Round(RoundDone {
            predicted_downtime_us,
            reused_bytes,
            wire_bytes: sent_bytes / 2,
            ..round.into()
        })
    }

    #[test]
    fn rounds_are_summed_and_the_one_in_the_pause_told_apart() {
        let sums = summary(&events(vec![
            (0, What::PhaseStart { phase: Phase::PreCopy }),
            (5, What::Progress { phase: Phase::PreCopy, bytes: 3, bytes_total: 9 }),
            (10, round(0, false, 1000, Some(900))),
            (20, round(1, false, 100, Some(80))),
            (20, What::PhaseStart { phase: Phase::Freeze }),
            (30, round(2, true, 50, None)),
            (40, What::Spent { cause: Cause::Memory, us: 4 }),
            (41, What::Spent { cause: Cause::Resume, us: 1 }),
            (42, What::Spent { cause: Cause::Memory, us: 6 }),
            (50, What::PhaseEnd { phase: Phase::Resume }),
            (60, What::End { error: None }),
            (60, What::Outage { us: 33 }),
        ]));
        assert_eq!(
            sums,
            Summary {
                total_us: Some(60),
                downtime_us: Some(30),
                spent: vec![Spent { cause: Cause::Memory, us: 10 }, Spent { cause: Cause::Resume, us: 1 }],
                predicted_downtime_us: Some(80),
                reused_bytes: 7,
                outage_us: Some(33),
                rounds: 2,
                sent_bytes: 1150,
                sent_in_pause_bytes: 50,
                zero_bytes: 30,
                wire_bytes: 575,
                follow: None,
                follow_us: None,
            }
        );
    }

    #[test]
    fn pages_that_follow_are_told_as_they_were_last() {
        let pages = |placed_bytes| PagesFollow { placed_bytes, faults: 3, ..PagesFollow::default() };
        let sums = summary(&events(vec![
            (50, What::PhaseStart { phase: Phase::PostCopy }),
            (60, What::Progress { phase: Phase::PostCopy, bytes: 1, bytes_total: 9 }),
            (60, What::Follow(pages(1))),
            (80, What::Follow(pages(9))),
            (90, What::PhaseEnd { phase: Phase::PostCopy }),
        ]));
        assert_eq!((sums.follow, sums.follow_us), (Some(pages(9)), Some(40)));
    }

    #[test]
    fn a_move_without_rounds_is_summed_by_its_progress() {
        let progress = |phase, bytes| What::Progress { phase, bytes, bytes_total: 100 };
        let sums = summary(&events(vec![
            (1, progress(Phase::Prepare, 7)),
            (2, progress(Phase::Prepared, 40)),
            (3, progress(Phase::Prepared, 100)),
        ]));
        assert_eq!((sums.sent_bytes, sums.sent_in_pause_bytes, sums.rounds), (107, 100, 0));
        assert_eq!((sums.total_us, sums.downtime_us, sums.predicted_downtime_us), (None, None, None));
    }
}
