//! `ferry exec`: another program inside of a workload's capsule.

use crate::context::Context;
use crate::stream::{End, relay};
use crate::verbs::{run::environment, workload_path};
use ferry_model::api::ExecRequest;
use ferry_model::error::{Error, Kind, Result};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Run another program inside of a workload's capsule
///
/// It sees what the workload sees: processes, files, network. While it runs here the workload does not move: let it end, or end
/// this command; its program then moves along, without its streams.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry exec web -- ps ax
  ferry exec -it web -- bash

Exit codes: the program's own; 1 this host cannot; 2 no such workload.")]
pub struct Args {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short = 't', long = "tty")]
    terminal: bool,
    /// Environment variable; without a value, that of the caller
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// User, and group after a colon; names or numbers
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory
    #[arg(long, value_name = "PATH")]
    cwd: Option<String>,
    /// Name, id, or the beginning of an id
    workload: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs it with this process's standard streams, and ends with its code.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    let request = ExecRequest {
        command: args.command,
        terminal: args.terminal,
        env: environment(args.env, args.terminal)?,
        user: args.user,
        cwd: args.cwd,
    };
    let path = workload_path(&args.workload, "/exec");
    let terminal = args.terminal && std::io::stdin().is_terminal();
    match relay(&client, &path, &request, terminal, args.interactive)? {
        End::Exit(code) => Ok(ExitCode::from(code)),
        End::Detached => Ok(ExitCode::SUCCESS),
        End::Closed => {
            Err(Error::new(Kind::Unable, "The program's end was not reported: its capsule is gone"))
        }
    }
}
