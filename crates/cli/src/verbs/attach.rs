//! `ferry attach`: this terminal becomes the workload's.

use crate::context::Context;
use crate::stream::{End, relay};
use crate::verbs::workload_path;
use ferry_model::error::Result;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Connect this terminal to a workload's
///
/// Ctrl-P Ctrl-Q leaves it; the workload goes on. A workload without a terminal shows what it writes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  ferry attach shell

Exit codes: the program's own if it ends meanwhile; 0 detached; 1 no node answers; 2 no such workload.")]
pub struct Args {
    /// Name, id, or the beginning of an id
    workload: String,
}

/// Connects until the program ends, the user leaves or the workload moves away.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    let path = workload_path(&args.workload, "/attach");
    let terminal = std::io::stdin().is_terminal();
    match relay(client.socket(), &path, &serde_json::json!({}), terminal, true)? {
        End::Exit(code) => Ok(ExitCode::from(code)),
        End::Detached | End::Closed => Ok(ExitCode::SUCCESS),
    }
}
