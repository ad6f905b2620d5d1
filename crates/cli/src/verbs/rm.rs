//! `ferry rm`: forget a workload, with its files.

use crate::context::Context;
use crate::verbs::workload_path;
use ferry_model::api::Workload;
use ferry_model::error::Result;
use std::process::ExitCode;

/// Forget a workload that has ended, with its files
///
/// An adopted tree that still runs is let go of: it runs on where it was before, and is no workload any more.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry rm job
  ferry rm --force web         kills it first
  ferry rm legacy              adopted: it runs on, without Ferry

Exit codes: 0 done; 1 no node answers; 2 no such workload; 3 it still runs, or is on a move.")]
pub struct Args {
    /// Kill it if it still runs
    #[arg(short, long)]
    force: bool,
    /// Name, id, or the beginning of an id
    #[arg(required = true)]
    workloads: Vec<String>,
}

/// Removes them.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    for workload in &args.workloads {
        let path = workload_path(workload, if args.force { "?force=true" } else { "" });
        let gone: Workload = client.delete(&path)?;
        context.show_line(&gone, |gone| gone.name.clone())?;
    }
    Ok(ExitCode::SUCCESS)
}
