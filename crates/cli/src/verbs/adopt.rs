//! `ferry adopt`: a process tree that already runs becomes a workload.

use crate::context::Context;
use crate::values;
use ferry_model::api::{AdoptRequest, With, Workload};
use ferry_model::error::{Error, Kind, Result};
use std::process::ExitCode;

/// Make a workload of a process tree that already runs
///
/// Nothing in the tree is touched; only its cgroup changes, and `ferry rm` puts it back. It stays among the host's processes, and its
/// output goes where it went, until its first move: at the target it lives in a capsule. `ferry plan` says what stands in the
/// way of that.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry adopt 4711 --name legacy --with /var/lib/legacy
  ferry plan legacy --to beta
  ferry rm legacy              it runs on, without Ferry

Files that it has open move with it. What else it needs of the host's files is named by --with, as in `ferry run`: a directory that
it writes to has to be (`ferry plan` gives the line), for what else is in it is open at some moments only.

Adopted are the process and all its descendants. Not adopted are: process 1, tasks of the kernel, Ferry's own processes, what
belongs to a workload already, what a debugger traces, and the tree from which the command is given.

Exit codes: 0 done; 1 this host cannot; 2 no such process; 3 refused, the tree is as it was.")]
pub struct Args {
    /// Process id of the root of the tree
    pid: i32,
    /// Name of the workload; without it, one is made up
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// Path of the host that it needs, with all that is beneath
    #[arg(long, value_name = "PATH[:BINDING]", value_parser = values::with)]
    with: Vec<With>,
}

/// Adopts it.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    refuse_own(args.pid)?;
    let request = AdoptRequest { pid: args.pid, name: args.name, with: args.with };
    let workload: Workload = context.client()?.post("/v1/workloads/adopt", &request)?;
    context.show(&workload, |workload, out| writeln!(out, "{}", workload.name))?;
    Ok(ExitCode::SUCCESS)
}

/// A tree that this command is in would be frozen with whoever waits for it.
fn refuse_own(root: i32) -> Result<()> {
    let mut pid = std::process::id().cast_signed();
    // The chain ends at a process without a parent here; a number that comes again would be a kernel's fault.
    for _ in 0..4096 {
        // Whoever names process 1 hears what is wrong with that.
        if pid == root && root != 1 {
            let what = format!("This very command is in the tree of process {root}");
            return Err(
                Error::new(Kind::Refused, what).hint("give it from another shell, outside of the tree")
            );
        }
        match ferry_sys::proc::stat::read(pid) {
            Ok(stat) if stat.parent > 0 => pid = stat.parent,
            _ => break,
        }
    }
    Ok(())
}
