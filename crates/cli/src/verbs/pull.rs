//! `ferry pull`: the receiver fetches; `ferry move --from` by a shorter name.

use crate::context::Context;
use crate::verbs::{follow, live, plan};
use ferry_model::api::{Move, MoveRequest, NodeStatus};
use ferry_model::error::Result;
use ferry_model::ids::HostName;
use std::process::ExitCode;

/// Fetch workloads from another host
///
/// The receiver begins the move. The other host's policy says who may pull.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  ferry pull web --from beta

Exit codes: as of `ferry move`.")]
pub struct Args {
    /// Where from
    #[arg(long, value_name = "HOST")]
    from: HostName,
    /// How state travels
    #[arg(long, value_enum, default_value = "auto")]
    method: plan::MethodArg,
    #[command(flatten)]
    live: live::Args,
    /// Print the ids of the moves and do not wait
    #[arg(long)]
    detach: bool,
    /// Names, ids, or beginnings of ids, as the other host knows them
    #[arg(required = true)]
    workloads: Vec<String>,
}

/// Begins the moves and follows them.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    let here: NodeStatus = client.get("/v1/node")?;
    let request = MoveRequest {
        workloads: args.workloads,
        to: here.name,
        from: Some(args.from),
        method: args.method.into(),
        live: args.live.into(),
        plan: None,
        end_connections: false,
        with: Vec::new(),
    };
    let moves: Vec<Move> = client.post("/v1/moves", &request)?;
    follow::all(context, &client, &moves, args.detach)
}
