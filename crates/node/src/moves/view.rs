//! A move of `session` as the API and other nodes see it.

use crate::peers::wire::MoveReport;
use ferry_model::api::{Move, MoveRole, MoveState};
use ferry_model::error::{Error, Kind};
use ferry_model::event::{Event, Phase, What, downtime_us, exit, summary as sums, total_us};
use ferry_model::handover::Outcome;
use ferry_model::ids::{HostName, MoveId};
use ferry_session::movement::{self, Role, Standing};

/// A move without its events, for lists.
pub fn summary(here: &HostName, one: &movement::Move) -> Move {
    let mut whole = whole(here, one);
    whole.events.clear();
    whole
}

/// A move with its events.
pub fn whole(here: &HostName, one: &movement::Move) -> Move {
    let events = one.recorder.events();
    let (state, error) = standing(&one.standing, &events);
    let (source, target, role) = match one.role {
        Role::Source => (here.clone(), one.peer.clone(), MoveRole::Source),
        Role::Target => (one.peer.clone(), here.clone(), MoveRole::Target),
    };
    Move {
        id: one.id,
        workload: one.workload,
        name: one.name.clone(),
        source,
        target,
        role,
        clone: one.clone,
        method: one.method,
        state,
        began_unix: one.began_unix,
        downtime_us: downtime_us(&events),
        total_us: total_us(&events),
        summary: sums(&events),
        error,
        events,
    }
}

/// What the other node of a move is told of it.
pub fn report(one: &movement::Move) -> MoveReport {
    let events = one.recorder.events();
    let (state, error) = standing(&one.standing, &events);
    MoveReport {
        workload: one.workload,
        name: one.name.clone(),
        clone: one.clone,
        method: one.method,
        state,
        began_unix: one.began_unix,
        error,
        events,
    }
}

/// A move as the node at its source told it.
pub fn from_report(id: MoveId, source: &HostName, target: &HostName, report: MoveReport) -> Move {
    Move {
        id,
        workload: report.workload,
        name: report.name,
        source: source.clone(),
        target: target.clone(),
        role: MoveRole::Target,
        clone: report.clone,
        method: report.method,
        state: report.state,
        began_unix: report.began_unix,
        downtime_us: downtime_us(&report.events),
        total_us: total_us(&report.events),
        summary: sums(&report.events),
        error: report.error,
        events: report.events,
    }
}

/// Where a move stands that has not ended.
fn under_way(events: &[Event]) -> MoveState {
    let follows = What::PhaseStart { phase: Phase::PostCopy };
    if !events.iter().any(|event| event.what == follows) {
        return MoveState::Running;
    }
    let last = events.iter().rev().find_map(|event| match &event.what {
        What::Follow(pages) => Some(pages.connected),
        _ => None,
    });
    if last == Some(false) { MoveState::Paused } else { MoveState::Draining }
}

fn standing(standing: &Standing, events: &[Event]) -> (MoveState, Option<Error>) {
    let said = events.iter().rev().find_map(|event| match &event.what {
        What::End { error } => Some(error.clone()),
        _ => None,
    });
    let said = said.flatten();
    match standing {
        Standing::Running => (under_way(events), None),
        Standing::Ended(Outcome::Moved) => (MoveState::Done, said),
        // It came to its own end, as it would have without a move.
        Standing::Ended(Outcome::Died) if exit(events).is_some() => (MoveState::Done, said),
        Standing::Ended(outcome) => {
            let what = match outcome {
                Outcome::HandedBack => "The target could not start it and gave it back",
                Outcome::Died => "It ended at the target after it had been started there",
                Outcome::Lost => {
                    "Pages of it were in the memory of hosts that restarted or are gone: what is left of it never runs again"
                }
                _ => "The move was given up",
            };
            let kind = if *outcome == Outcome::Lost || *outcome == Outcome::Died {
                Kind::Unable
            } else {
                Kind::RolledBack
            };
            (MoveState::RolledBack, Some(said.unwrap_or_else(|| Error::new(kind, what))))
        }
        Standing::Failed(error) => {
            let state = match error.kind {
                Kind::Refused | Kind::Usage => MoveState::Refused,
                Kind::NotFinal => MoveState::InDoubt,
                Kind::Remainder => MoveState::Done,
                _ => MoveState::RolledBack,
            };
            (state, Some(error.clone()))
        }
    }
}
