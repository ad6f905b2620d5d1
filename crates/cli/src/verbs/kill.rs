//! `ferry kill`: a signal to a workload.

use crate::context::Context;
use crate::values;
use crate::verbs::workload_path;
use ferry_model::api::{KillRequest, Workload};
use ferry_model::error::Result;
use std::process::ExitCode;

/// Send a signal to a workload
///
/// It goes to the workload's first process; KILL goes to all of them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry kill web
  ferry kill --signal HUP web

Exit codes: 0 sent; 1 no node answers; 2 no such workload; 3 it is on a move.")]
pub struct Args {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", value_parser = values::signal, default_value = "KILL")]
    signal: i32,
    /// Name, id, or the beginning of an id
    #[arg(required = true)]
    workloads: Vec<String>,
}

/// Sends it.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    for workload in &args.workloads {
        let request = KillRequest { signal: args.signal };
        let told: Workload = client.post(&workload_path(workload, "/kill"), &request)?;
        context.show_line(&told, |told| told.name.clone())?;
    }
    Ok(ExitCode::SUCCESS)
}
