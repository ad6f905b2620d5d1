//! Following moves: what `move`, `pull`, `clone` and `moves follow` share. The move lives in the node; when the one who
//! looks goes away, by Ctrl-C or else, nothing happens to it.

use crate::client::Client;
use crate::context::Context;
use crate::output::span_us;
use crate::progress::Progress;
use ferry_model::api::{Move, MoveState, TimedEvent};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::What;
use ferry_model::ids::MoveId;
use ferry_sys::say::say;
use std::ops::ControlFlow;
use std::process::ExitCode;

/// Follows each of `moves` to its end and says how it ended. With `detach` only names them.
pub fn all(context: &Context, client: &Client, moves: &[Move], detach: bool) -> Result<ExitCode> {
    if detach {
        context.show(&moves, |moves, out| moves.iter().try_for_each(|one| writeln!(out, "{}", one.id)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut worst = ExitCode::SUCCESS;
    let mut failed: Option<Error> = None;
    for one in moves {
        let mut progress = Progress::new(&one.name, !context.json());
        let ended = follow(client, one.id, |event| {
            progress.event(&event.event);
            Ok(())
        })?;
        progress.finish();
        if !ended {
            say(format_args!("The move goes on. Follow it again: ferry moves follow {}", one.id));
            return Ok(ExitCode::from(130));
        }
        let last: Move = client.get(&format!("/v1/moves/{}", one.id))?;
        context.show_line(&last, summary)?;
        if let Some(error) = &last.error {
            worst = ExitCode::from(error.kind.exit_code());
            if let Some(earlier) = failed.replace(error.clone()) {
                crate::failure::report(&earlier, context.json());
            }
        }
    }
    match failed {
        Some(error) if !context.json() => Err(error),
        _ => Ok(worst),
    }
}

/// Hands over every event of a move until it ends. `Ok(false)`: the user stopped looking.
pub fn follow(client: &Client, id: MoveId, mut each: impl FnMut(TimedEvent) -> Result<()>) -> Result<bool> {
    let mut over = false;
    let heard = client.events(&format!("/v1/moves/{id}/events"), |event: TimedEvent| {
        over = matches!(event.event.what, What::End { .. });
        each(event)?;
        Ok(if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    let unheard = |error: Error| {
        error
            .context("The node stopped telling before the move had ended")
            .hint(format!("it goes on, or is taken up again when the node is back: ferry moves show {id}"))
    };
    match heard {
        Ok(true) if !over => Err(unheard(Error::new(Kind::NotFinal, "The connection was closed"))),
        // Nobody knows how the move ends: that is not the same as a host that cannot.
        Err(error) if error.kind == Kind::Unable && !over => {
            Err(unheard(Error { kind: Kind::NotFinal, ..error }))
        }
        heard => heard,
    }
}

/// A move in one line.
pub fn summary(one: &Move) -> String {
    let what = if one.clone { "cloned" } else { "moved" };
    let times = match (one.downtime_us, one.total_us) {
        (Some(down), Some(total)) => format!(", stood still {}, {} in all", span_us(down), span_us(total)),
        (None, Some(total)) => format!(", {} in all", span_us(total)),
        _ => String::new(),
    };
    match one.state {
        MoveState::Done => format!("{} {what} from {} to {}{times}", one.name, one.source, one.target),
        state => format!("{} from {} to {}: {}{times}", one.name, one.source, one.target, state_name(state)),
    }
}

/// The state of a move in words.
pub fn state_name(state: MoveState) -> &'static str {
    match state {
        MoveState::Running => "under way",
        MoveState::Draining => "draining",
        MoveState::Paused => "paused",
        MoveState::Done => "done",
        MoveState::RolledBack => "rolled back",
        MoveState::Refused => "refused",
        MoveState::InDoubt => "in doubt",
    }
}
