//! `ferry moves`: list, show, report, follow, cancel.

use crate::client::segment;
use crate::context::Context;
use crate::failure::usage;
use crate::output::{Style, bytes, span_us, table};
use crate::progress::phase_name;
use crate::report::{self, Story};
use crate::verbs::follow;
use clap::Subcommand;
use ferry_model::api::{Move, TimedEvent};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Event, What};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// List, show, report, follow and cancel moves
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry moves ls
  ferry moves show m-3f2a...          a timeline of its phases
  ferry moves report m-3f2a...        rounds, bytes, and what the pause went to
  ferry moves report m-3f2a... --html move.html
                                      the same as a page with its timeline drawn
  ferry moves report --of move.json --html move.html
                                      of what `ferry moves show --json` printed, without a node
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
    /// Say what a move did: rounds, bytes, what the pause went to, what was predicted
    Report {
        /// Its id, or the beginning of it
        #[arg(required_unless_present = "of")]
        id: Option<String>,
        /// Write a page with a drawn timeline to this file; it needs nothing but itself
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Read the move from this file (from `ferry moves show --json`) instead of asking a node
        #[arg(long, value_name = "FILE", conflicts_with = "id")]
        of: Option<PathBuf>,
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

/// Longest file that is read as a move, bytes: 10,000 events and more.
const MOVE_BYTES_MAX: u64 = 64 << 20;

/// Does what was asked.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let path = |id: &str| format!("/v1/moves/{}", segment(id));
    match args.command {
        Command::Report { html, of: Some(file), .. } => report(context, &read(&file)?, html.as_deref())?,
        Command::Report { id, html, .. } => {
            let one: Move = context.client()?.get(&path(&id.unwrap_or_default()))?;
            report(context, &one, html.as_deref())?;
        }
        Command::Ls => {
            let client = context.client()?;
            let moves: Vec<Move> = client.get("/v1/moves")?;
            context.show(&moves, |moves, out| {
                let rows: Vec<Vec<String>> = moves.iter().map(row).collect();
                table(out, &["MOVE", "WORKLOAD", "FROM", "TO", "STATE", "STOOD STILL"], &rows)
            })?;
        }
        Command::Show { id } => {
            let one: Move = context.client()?.get(&path(&id))?;
            context.show(&one, |one, out| print(context, one, out))?;
        }
        Command::Follow { id } => {
            let client = context.client()?;
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
            let one: Move =
                context.client()?.post(&format!("{}/cancel", path(&id)), &serde_json::json!({}))?;
            context.show(&one, |one, out| writeln!(out, "{}", follow::summary(one)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<Move> {
    let fail = |cause: &(dyn std::error::Error + 'static)| {
        Error::from_source(Kind::Usage, cause)
            .context(format!("{} could not be read as a move", file.display()))
    };
    let size = std::fs::metadata(file).map_err(|cause| fail(&cause))?.len();
    if size > MOVE_BYTES_MAX {
        return Err(usage(format!("{} is too long to be a move", file.display())));
    }
    let text = std::fs::read(file).map_err(|cause| fail(&cause))?;
    serde_json::from_slice(&text).map_err(|cause| fail(&cause))
}

/// Prints the report, or writes the page and says where it is.
fn report(context: &Context, one: &Move, html: Option<&Path>) -> Result<()> {
    let story = Story::of(one);
    if let Some(path) = html {
        report::write_page(one, path)?;
        if !context.json() {
            return context.out.write(format!("{}\n", path.display()).as_bytes());
        }
    }
    context.show(&story, |story, out| report::text::print(story, out))
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
        What::Spent { cause, us } => format!("{}: {}", report::cause_name(*cause), span_us(*us)),
        What::Round(done) => crate::progress::round(done),
        What::Method(chosen) => chosen.reason.clone(),
        What::Remedy(chosen) => chosen.reason.clone(),
        What::Follow(pages) => crate::progress::follow(pages),
        What::Exited { exit } => crate::progress::exited(*exit),
        What::Outage { us } => format!("a client waited {}", span_us(*us)),
    };
    format!("{:>10}  {what}", span_us(event.at_us))
}
