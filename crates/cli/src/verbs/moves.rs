//! `ferry moves`: list, show, follow, cancel.

use crate::client::segment;
use crate::context::Context;
use crate::output::{Style, bytes, span_us, table};
use crate::progress::phase_name;
use crate::verbs::follow;
use clap::Subcommand;
use ferry_model::api::{Move, TimedEvent};
use ferry_model::error::{Error, Result};
use ferry_model::event::{Event, What};
use std::io::Write;
use std::process::ExitCode;

/// List, show, follow and cancel moves
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry moves ls
  ferry moves show m-3f2a...          a timeline of its phases
  ferry moves follow m-3f2a...        as it happens; with --json one event a line
  ferry moves cancel m-3f2a...        as long as nothing is decided

Exit codes: 0 done; 1 no node answers; 2 no such move; 3 it can no longer be cancelled.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the moves that this host takes or took part in
    Ls,
    /// Show a move with a timeline of its phases
    Show {
        /// Its id, or the beginning of it
        id: String,
    },
    /// Print what happens in a move until it ends
    Follow {
        /// Its id, or the beginning of it
        id: String,
    },
    /// Give a move up; the workload goes on at the source
    Cancel {
        /// Its id, or the beginning of it
        id: String,
    },
}

/// Does what was asked.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    let path = |id: &str| format!("/v1/moves/{}", segment(id));
    match args.command {
        Command::Ls => {
            let moves: Vec<Move> = client.get("/v1/moves")?;
            context.show(&moves, |moves, out| {
                let rows: Vec<Vec<String>> = moves.iter().map(row).collect();
                table(out, &["MOVE", "WORKLOAD", "FROM", "TO", "STATE", "STOOD STILL"], &rows)
            })?;
        }
        Command::Show { id } => {
            let one: Move = client.get(&path(&id))?;
            context.show(&one, |one, out| print(context, one, out))?;
        }
        Command::Follow { id } => {
            let one: Move = client.get(&path(&id))?;
            let mut outcome = None;
            follow::follow(&client, one.id, |event: TimedEvent| {
                context.show_line(&event, |event| line(&event.event))?;
                if let What::End { error } = event.event.what {
                    outcome = error;
                }
                Ok(())
            })?;
            if let Some(error) = outcome {
                return Err(error);
            }
        }
        Command::Cancel { id } => {
            let one: Move = client.post(&format!("{}/cancel", path(&id)), &serde_json::json!({}))?;
            context.show(&one, |one, out| writeln!(out, "{}", follow::summary(one)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(one: &Move) -> Vec<String> {
    vec![
        one.id.to_string(),
        one.name.clone(),
        one.source.to_string(),
        one.target.to_string(),
        follow::state_name(one.state).to_owned(),
        one.downtime_us.map_or_else(|| "-".to_owned(), span_us),
    ]
}

fn print(context: &Context, one: &Move, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", context.out.paint(Style::Bold, &follow::summary(one)))?;
    for event in &one.events {
        writeln!(out, "  {}", line(event))?;
    }
    if let Some(error) = &one.error {
        writeln!(out, "{error}")?;
        (1..).zip(&error.causes).try_for_each(|(number, cause)| writeln!(out, "  {number}. {cause}"))?;
    }
    Ok(())
}

fn line(event: &Event) -> String {
    let what = match &event.what {
        What::PhaseStart { phase } => format!("{} begins", phase_name(*phase)),
        What::PhaseEnd { phase } => format!("{} ends", phase_name(*phase)),
        What::Progress { phase, bytes: done, bytes_total } => {
            format!("{}: {} of {}", phase_name(*phase), bytes(*done), bytes(*bytes_total))
        }
        What::Note { text } => text.clone(),
        What::End { error: None } => "done".to_owned(),
        What::End { error: Some(error) } => Error::to_string(error),
        #[allow(unreachable_patterns, reason = "the stream may grow")]
        other => format!("{other:?}"),
    };
    format!("{:>10}  {what}", span_us(event.at_us))
}
