//! `ferry clone`: remote cloning. The original goes on.

use crate::context::Context;
use crate::verbs::{follow, workload_path};
use ferry_model::api::{CloneRequest, Move};
use ferry_model::error::Result;
use ferry_model::ids::HostName;
use std::process::ExitCode;

/// Clone a workload to another host; the original goes on
///
/// The clone is a new workload: own id, MAC address, address and host name, set before it first runs. Its ends of
/// established connections are reset; its listeners stay.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry clone job --to beta
  ferry clone web --to beta --name web-2 --net 10.7.0.6/24

Exit codes: as of `ferry move`.")]
pub struct Args {
    /// Where the clone goes
    #[arg(long, value_name = "HOST")]
    to: HostName,
    /// Name of the clone; without it, one is made up
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// Address of the clone; needed when the original has one
    #[arg(long, value_name = "ADDR/LEN")]
    net: Option<String>,
    /// Print the id of the move and do not wait
    #[arg(long)]
    detach: bool,
    /// Name, id, or the beginning of an id
    workload: String,
}

/// Clones it.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    let request = CloneRequest { to: args.to, name: args.name, net: args.net };
    let one: Move = client.post(&workload_path(&args.workload, "/clone"), &request)?;
    follow::all(context, &client, &[one], args.detach)
}
