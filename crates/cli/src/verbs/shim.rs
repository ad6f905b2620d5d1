//! `ferry shim`: the process that outlives the node and keeps one workload. Started by the node, never by a person.

use crate::context::Context;
use ferry_model::error::Result;
use std::path::PathBuf;
use std::process::ExitCode;

/// The process that outlives the node and keeps one workload
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  ferry shim --dir /var/lib/ferry/workloads/w-..

Exit codes: 0 it has detached; 1 it could not be started.")]
pub struct Args {
    /// The workload's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Take over what a shim that died left
    #[arg(long)]
    recover: bool,
}

/// Detaches, and serves until the workload is destroyed. This process has one thread, as the shim needs it.
pub fn run(_: &Context, args: &Args) -> Result<ExitCode> {
    ferry_session::shim::run(&args.dir, args.recover)?;
    Ok(ExitCode::SUCCESS)
}
