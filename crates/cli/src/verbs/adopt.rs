//! `ferry adopt`: a process tree that already runs becomes a workload.

use crate::context::Context;
use ferry_model::api::{AdoptRequest, Workload};
use ferry_model::error::Result;
use std::process::ExitCode;

/// Make a workload of a process tree that already runs
///
/// Nothing in the tree is touched; only its cgroup changes. `ferry plan` then says what stands in the way of a move.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  ferry adopt 4711 --name legacy

Exit codes: 0 done; 1 this host cannot; 2 no such process; 3 refused.")]
pub struct Args {
    /// Process id of the root of the tree
    pid: i32,
    /// Name of the workload; without it, one is made up
    #[arg(long, value_name = "N")]
    name: Option<String>,
}

/// Adopts it.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let request = AdoptRequest { pid: args.pid, name: args.name };
    let workload: Workload = context.client()?.post("/v1/workloads/adopt", &request)?;
    context.show(&workload, |workload, out| writeln!(out, "{}", workload.name))?;
    Ok(ExitCode::SUCCESS)
}
