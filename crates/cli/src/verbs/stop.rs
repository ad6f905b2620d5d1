//! `ferry stop`: SIGTERM, and SIGKILL when the time is over.

use crate::context::Context;
use crate::values;
use crate::verbs::{ps, workload_path};
use ferry_model::api::{StopRequest, Workload};
use ferry_model::error::Result;
use std::process::ExitCode;
use std::time::Duration;

/// Ask a workload to end, and make it after a while
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  ferry stop web --grace 30s

Exit codes: 0 it has ended; 1 no node answers; 2 no such workload; 3 it is on a move.")]
pub struct Args {
    /// How long it may take before it is killed
    #[arg(long, value_name = "SPAN", value_parser = values::span, default_value = "10s")]
    grace: Duration,
    /// Name, id, or the beginning of an id
    #[arg(required = true)]
    workloads: Vec<String>,
}

/// Stops them, one after another.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    let request = StopRequest { grace_ms: u64::try_from(args.grace.as_millis()).unwrap_or(u64::MAX) };
    for workload in &args.workloads {
        let ended: Workload = client.post(&workload_path(workload, "/stop"), &request)?;
        context.show_line(&ended, |ended| format!("{}: {}", ended.name, ps::state(ended)))?;
    }
    Ok(ExitCode::SUCCESS)
}
