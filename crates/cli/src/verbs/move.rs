//! `ferry move`: moves workloads, begun by the sender; with `--from`, by the receiver.

use crate::client::Client;
use crate::context::Context;
use crate::failure::usage;
use crate::values;
use crate::verbs::{follow, live, plan, workload_path};
use ferry_model::api::{Move, MoveRequest, PlanRequest, With};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use ferry_model::plan::Plan;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Move workloads to another host
///
/// The workload goes on there where it was, with its memory, files and connections; the original ends. If anything
/// fails before the point of no return, it goes on here. Ctrl-C ends only the looking-on: the move goes on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry move web --to beta
  ferry move web db --to beta --detach          prints the moves' ids at once
  ferry move web --to alpha --from beta         on alpha: fetch it (the same as `ferry pull`)
  ferry move web --to beta --plan plan.json     exactly this plan, or refuse because something changed

Exit codes: 0 it runs at the target; 1 cannot; 2 no such workload or host; 3 refused, nothing was touched; 4 failed
and rolled back, it runs at the source; 5 in doubt: see `ferry recover`; 6 done, with a named remainder.")]
pub struct Args {
    /// Where to
    #[arg(long, value_name = "HOST")]
    to: HostName,
    /// Fetch from this host instead of sending from the one asked
    #[arg(long, value_name = "HOST")]
    from: Option<HostName>,
    /// How state travels
    #[arg(long, value_enum, default_value = "auto")]
    method: plan::MethodArg,
    #[command(flatten)]
    live: live::Args,
    /// Do exactly what this file says (from `ferry plan -o`), or refuse
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// End TCP connections of the host's own address, which cannot move: their peers get a reset
    #[arg(long)]
    end_connections: bool,
    /// Path that the workload needs beside those named when it began, with all that is beneath; as in `ferry run`, and noted for it
    #[arg(long, value_name = "PATH[:BINDING]", value_parser = values::with)]
    with: Vec<With>,
    /// Print the ids of the moves and do not wait
    #[arg(long)]
    detach: bool,
    /// Do not ask, even where something will be lost
    #[arg(long)]
    yes: bool,
    /// Names, ids, or beginnings of ids
    #[arg(required = true)]
    workloads: Vec<String>,
}

/// Longest plan file, bytes.
const PLAN_BYTES_MAX: u64 = 64 << 20;

/// Asks where something will be lost, begins the moves, and follows them.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    let plan = args.plan.as_ref().map(read_plan).transpose()?;
    if plan.is_some() && args.workloads.len() > 1 {
        return Err(usage("A plan is for one workload, and several are named"));
    }
    if args.method == plan::MethodArg::Cold && !args.yes {
        if args.from.is_none() {
            show_plans(context, &client, &args)?;
        }
        confirm(context, "A cold move ends the workload and starts it anew: what it held in memory is lost")?;
    }
    let request = MoveRequest {
        workloads: args.workloads,
        to: args.to,
        from: args.from,
        method: args.method.into(),
        live: args.live.into(),
        plan,
        end_connections: args.end_connections,
        with: args.with,
    };
    let moves: Vec<Move> = client.post("/v1/moves", &request)?;
    follow::all(context, &client, &moves, args.detach)
}

fn read_plan(path: &PathBuf) -> Result<Plan> {
    let fail = |cause: &(dyn std::error::Error + 'static)| {
        Error::from_source(Kind::Usage, cause)
            .context(format!("{} could not be read as a plan", path.display()))
    };
    let size = std::fs::metadata(path).map_err(|cause| fail(&cause))?.len();
    if size > PLAN_BYTES_MAX {
        return Err(usage(format!("{} is too long to be a plan", path.display())));
    }
    let text = std::fs::read(path).map_err(|cause| fail(&cause))?;
    serde_json::from_slice(&text).map_err(|cause| fail(&cause))
}

fn show_plans(context: &Context, client: &Client, args: &Args) -> Result<()> {
    for workload in &args.workloads {
        let request = PlanRequest {
            to: args.to.clone(),
            method: args.method.into(),
            end_connections: args.end_connections,
            with: args.with.clone(),
        };
        let plan: Plan = client.post(&workload_path(workload, "/plan"), &request)?;
        let mut text = Vec::new();
        plan::print(context, &plan, &mut text).map_err(|cause| crate::failure::bug(&cause))?;
        let _ = std::io::stderr().write_all(&text);
    }
    Ok(())
}

fn confirm(context: &Context, what: &str) -> Result<()> {
    let ask = std::io::stdin().is_terminal() && !context.json();
    if ask {
        let _ = write!(std::io::stderr(), "{what}. Go on? [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
    }
    Err(Error::new(Kind::Refused, what).hint("say --yes if that is what you want"))
}
