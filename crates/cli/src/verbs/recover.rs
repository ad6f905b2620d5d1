//! `ferry recover`: where a workload stands after trouble, and the safe actions.

use crate::context::Context;
use crate::verbs::workload_path;
use ferry_model::api::{Recovery, RecoveryChoice};
use ferry_model::error::Result;
use std::io::Write;
use std::process::ExitCode;

/// After trouble: say where a workload stands and what can safely be done
///
/// Reads the journals of both sides and asks the decider, says in words what they mean, and offers only what cannot
/// make two running copies or none.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry recover web
  ferry recover web --do restart-shim

Exit codes: 0 done; 1 no node answers; 2 no such workload or action; 5 still in doubt.")]
pub struct Args {
    /// Do this action of those offered
    #[arg(long = "do", value_name = "ACTION")]
    action: Option<String>,
    /// Name, id, or the beginning of an id
    workload: String,
}

/// Says it, or does it.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    let path = workload_path(&args.workload, "/recovery");
    let recovery: Recovery = match args.action {
        None => client.get(&path)?,
        Some(action) => client.post(&path, &RecoveryChoice { action })?,
    };
    context.show(&recovery, print)?;
    Ok(ExitCode::SUCCESS)
}

fn print(recovery: &Recovery, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}  {}", recovery.name, recovery.workload)?;
    writeln!(out, "journal here:")?;
    recovery.here.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    if let Some(name) = &recovery.peer_name {
        writeln!(out, "journal of {name}:")?;
        match &recovery.peer {
            Some(lines) => lines.iter().try_for_each(|line| writeln!(out, "  {line}"))?,
            None => writeln!(out, "  it does not answer")?,
        }
    }
    writeln!(out, "decider: {}", recovery.decider)?;
    writeln!(out, "{}", recovery.conclusion)?;
    for action in &recovery.actions {
        writeln!(out, "  ferry recover {} --do {:<16} {}", recovery.name, action.name, action.about)?;
    }
    Ok(())
}
