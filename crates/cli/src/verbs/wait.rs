//! `ferry wait`: until a workload ends.

use crate::context::Context;
use crate::verbs::workload_path;
use ferry_model::api::{Exit, Waited};
use ferry_model::error::Result;
use std::process::ExitCode;

/// Wait until a workload ends
///
/// Prints how it ended, and exits with its exit code (128 and the signal, if a signal ended it).
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  ferry wait job && echo well done

Exit codes: the workload's own; 1 no node answers; 2 no such workload; 6 it moved away.")]
pub struct Args {
    /// Name, id, or the beginning of an id
    workload: String,
}

/// Waits.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let waited: Waited = context.client()?.get(&workload_path(&args.workload, "/wait"))?;
    context.show(&waited, |waited, out| match waited.exit {
        Exit::Code(code) => writeln!(out, "{code}"),
        Exit::Signal(signal) => writeln!(out, "ended by signal {signal}"),
    })?;
    Ok(ExitCode::from(waited.exit.shell_code()))
}
