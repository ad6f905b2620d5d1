//! `ferry run`: a program as a workload in a capsule of its own.

use crate::context::Context;
use crate::failure::usage;
use crate::stream::{End, relay};
use crate::values;
use crate::verbs::attach::say_where;
use crate::verbs::workload_path;
use ferry_model::api::{RunRequest, With, Workload};
use ferry_model::error::Result;
use ferry_sys::say::say;
use std::process::ExitCode;

/// Run a program as a workload in a capsule of its own
///
/// A capsule has its own pid, mount, ipc, uts and time namespace and cgroup. The workload sees the host's files; what it
/// writes stays in the capsule and moves with it. With --net it has also a network namespace, a MAC address and
/// an address on the bridge, which move too.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry run --name web --net 10.7.0.5/24 -- /usr/sbin/nginx -g 'daemon off;'
  ferry run -it -- bash                                   a shell on a terminal that can move
  ferry run --memory 512M --cpu 0.5 --with /srv/data:value -- /srv/job

The binding after --with says what the workload insists on: `identifier` (exactly this file, so it moves; the
default), `value` (a copy will do), `type` (anything of the kind, found anew at the target).

Exit codes: 0 started (with -it: the program's own); 1 this host cannot; 2 wrong command; 3 refused.")]
pub struct Args {
    /// Keep standard input open to the program (with -t)
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short = 't', long = "tty")]
    terminal: bool,
    /// Name of the workload; without it, one is made up
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// Own network: address and prefix length on the bridge
    #[arg(long, value_name = "ADDR/LEN")]
    net: Option<String>,
    /// Limit of memory
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    memory: Option<u64>,
    /// Limit of processors
    #[arg(long, value_name = "NUMBER", value_parser = values::processors)]
    cpu: Option<u64>,
    /// Environment variable; without a value, that of the caller
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// User, and group after a colon; names or numbers
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory; without it, the root
    #[arg(long, value_name = "PATH")]
    cwd: Option<String>,
    /// Path of the host that the workload needs
    #[arg(long, value_name = "PATH[:BINDING]", value_parser = values::with)]
    with: Vec<With>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Starts the workload; with `-it`, stays connected to it.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    if args.interactive && !args.terminal {
        return Err(usage("-i needs -t: without a terminal a workload reads from /dev/null").hint("say -it"));
    }
    let program = args.command.first().map_or("", String::as_str);
    if program.contains('/') && !program.starts_with('/') && args.cwd.is_none() {
        let here = std::env::current_dir().unwrap_or_default().join(program.trim_start_matches("./"));
        return Err(usage(format!("A workload begins in /, and '{program}' is not there"))
            .hint(format!("give the whole path ({}), or say with --cwd where it begins", here.display())));
    }
    let request = RunRequest {
        command: args.command,
        name: args.name,
        terminal: args.terminal,
        net: args.net,
        memory_bytes: args.memory,
        cpu_milli: args.cpu,
        env: environment(args.env, args.terminal)?,
        user: args.user,
        cwd: args.cwd,
        with: args.with,
    };
    let client = context.client()?;
    let workload: Workload = client.post("/v1/workloads", &request)?;
    if !(args.interactive && args.terminal) || context.json() {
        context.show(&workload, |workload, out| writeln!(out, "{}", workload.name))?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = workload_path(&workload.id.to_string(), "/attach");
    match relay(&client, &path, &serde_json::json!({}), true, true)? {
        End::Exit(code) => Ok(ExitCode::from(code)),
        End::Closed => {
            say_where(&client, &workload.id.to_string());
            Ok(ExitCode::SUCCESS)
        }
        End::Detached => {
            say(format_args!("\n{} goes on; come back with: ferry attach {}", workload.name, workload.name));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `NAME=VALUE` as it is, `NAME` with the caller's value; on a terminal also the caller's TERM.
pub fn environment(given: Vec<String>, terminal: bool) -> Result<Vec<String>> {
    let mut env = Vec::new();
    if terminal && let Ok(term) = std::env::var("TERM") {
        env.push(format!("TERM={term}"));
    }
    for entry in given {
        if entry.contains('=') {
            env.push(entry);
        } else {
            let value = std::env::var(&entry);
            let value =
                value.map_err(|_| usage(format!("The variable {entry} is not set here and has no value")))?;
            env.push(format!("{entry}={value}"));
        }
    }
    Ok(env)
}
