//! `ferry attach`: this terminal becomes the workload's.

use crate::client::Client;
use crate::context::Context;
use crate::stream::{End, relay};
use crate::verbs::workload_path;
use ferry_model::api::{Workload, WorkloadState};
use ferry_model::error::Result;
use ferry_sys::say::say;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a move may take to say where its workload is, after it has let go of the terminal.
const MOVED_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a record may lag behind what has become of its workload.
const RECORD_TIME_MAX: Duration = Duration::from_secs(3);

/// Connect this terminal to a workload's
///
/// Ctrl-P Ctrl-Q leaves it; the workload goes on. A workload without a terminal shows what it writes. When it moves to another
/// host the connection ends, and you are told where to attach to it again: its terminal moves with it.
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
    match relay(&client, &path, &serde_json::json!({}), terminal, true)? {
        End::Exit(code) => Ok(ExitCode::from(code)),
        End::Detached => Ok(ExitCode::SUCCESS),
        End::Closed => {
            say_where(&client, &args.workload);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The connection ended, and not the program: says where it is now and how to come back to it.
pub fn say_where(client: &Client, workload: &str) {
    let begin = Instant::now();
    let found = loop {
        let listed: Vec<Workload> = client.get("/v1/workloads").unwrap_or_default();
        let is_it = |one: &Workload| one.name == workload || one.id.to_string().starts_with(workload);
        let found = listed.into_iter().find(is_it);
        let patience = found.as_ref().map_or(Duration::ZERO, |one| match one.state {
            WorkloadState::Moving | WorkloadState::InDoubt => MOVED_TIME_MAX,
            // The record follows the terminal's end by a moment, in which its shim is missed; only one that died leaves it so.
            WorkloadState::Running | WorkloadState::Starting | WorkloadState::Lost => RECORD_TIME_MAX,
            _ => Duration::ZERO,
        });
        if begin.elapsed() >= patience {
            break found;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    match found {
        Some(one) if one.state == WorkloadState::Gone => {
            say(format_args!(
                "\n{0} moved to {1} with its terminal; come back on {1} with: ferry attach {0}",
                one.name, one.host
            ));
        }
        Some(one) if one.state == WorkloadState::Lost => {
            say(format_args!("\nThe shim of {0} is gone; what can be done: ferry recover {0}", one.name));
        }
        Some(one) => say(format_args!("\n{0} goes on; come back with: ferry attach {0}", one.name)),
        None => say(format_args!("\n{workload} is not here any more; `ferry ps --all` shows what is")),
    }
}
