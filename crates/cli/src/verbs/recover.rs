//! `ferry recover`: where a workload stands after trouble, and the safe actions.

use crate::context::Context;
use crate::verbs::workload_path;
use ferry_model::api::{Recovery, RecoveryChoice};
use ferry_model::error::{Kind, Result};
use ferry_model::ids::HostName;
use std::io::Write;
use std::process::ExitCode;

/// After trouble: say where a workload stands and what can safely be done
///
/// Reads the journals of both sides and asks the decider, says in words what they mean, and offers only what cannot
/// make two running copies or none, each with its command. What is not safe is refused, with the reason.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry recover web
  ferry recover web --fence               in doubt: take it back here, unless the target has won
  ferry recover web --commit-to beta      the host was restarted in a move: beta has the only whole copy
  ferry recover web --do restart-shim

Exit codes: 0 done; 1 no node answers; 2 no such workload or action; 3 not safe now, nothing was touched; 5 in doubt.")]
pub struct Args {
    /// Do this action of those offered
    #[arg(long = "do", value_name = "ACTION", group = "chosen")]
    action: Option<String>,
    /// In doubt, at the source: take it back through the decider
    #[arg(long, group = "chosen")]
    fence: bool,
    /// At the source, whose copy is gone: have the decider give it to this host now
    #[arg(long, value_name = "HOST", group = "chosen")]
    commit_to: Option<HostName>,
    /// At the target: stop waiting for pages of a host that never comes back
    #[arg(long, group = "chosen")]
    give_up: bool,
    /// Name, id, or the beginning of an id
    workload: String,
}

/// Says it, or does it.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    let path = workload_path(&args.workload, "/recovery");
    let recovery: Recovery = match choice(args) {
        None => client.get(&path)?,
        Some(choice) => client.post(&path, &choice)?,
    };
    context.show(&recovery, print)?;
    Ok(if recovery.in_doubt { ExitCode::from(Kind::NotFinal.exit_code()) } else { ExitCode::SUCCESS })
}

fn choice(args: Args) -> Option<RecoveryChoice> {
    let named = |action: &str, to| Some(RecoveryChoice { action: action.to_owned(), to });
    match (args.action, args.commit_to) {
        (Some(action), _) => named(&action, None),
        (None, Some(host)) => named("commit-to", Some(host)),
        (None, None) if args.fence => named("fence", None),
        (None, None) if args.give_up => named("give-up", None),
        (None, None) => None,
    }
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
        writeln!(out, "  {}", action.command)?;
        writeln!(out, "      {}", action.about)?;
    }
    Ok(())
}
