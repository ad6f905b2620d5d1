//! `ferry host`: the hosts of the fleet, and what each can do.

use crate::client::segment;
use crate::context::Context;
use crate::output::{bytes, table};
use clap::Subcommand;
use ferry_model::api::{Host, HostDetail};
use ferry_model::error::Result;
use ferry_model::ids::HostName;
use std::io::Write;
use std::process::ExitCode;

/// List the hosts of the fleet
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry host ls              names that every --to, --from and --node accepts
  ferry host show beta       what beta can do, as it says itself

Exit codes: 0 done; 1 no node answers; 2 no such host.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the hosts, and whether they answer
    Ls,
    /// Show one host and what it can do
    Show {
        /// Its name
        host: HostName,
    },
}

/// Does what was asked.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    match args.command {
        Command::Ls => {
            let hosts: Vec<Host> = client.get("/v1/hosts")?;
            context.show(&hosts, |hosts, out| {
                let rows: Vec<Vec<String>> = hosts.iter().map(row).collect();
                table(out, &["HOST", "ADDRESS", "STATE"], &rows)
            })?;
        }
        Command::Show { host } => {
            let detail: HostDetail = client.get(&format!("/v1/hosts/{}", segment(host.as_str())))?;
            context.show(&detail, print)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(host: &Host) -> Vec<String> {
    vec![
        host.name.to_string(),
        host.address.clone().unwrap_or_else(|| "-".to_owned()),
        state(host).to_owned(),
    ]
}

fn state(host: &Host) -> &'static str {
    match (host.removed, host.here, host.reachable) {
        (true, ..) => "removed",
        (_, true, _) => "here",
        (_, _, Some(true)) => "answers",
        (_, _, Some(false)) => "does not answer",
        (_, _, None) => "not asked",
    }
}

fn print(detail: &HostDetail, out: &mut dyn Write) -> std::io::Result<()> {
    let host = &detail.host;
    writeln!(out, "{}  {}  {}", host.name, host.address.as_deref().unwrap_or("-"), state(host))?;
    let Some(facts) = &detail.facts else { return Ok(()) };
    writeln!(out, "kernel    {} ({})", facts.kernel_release, facts.architecture)?;
    writeln!(out, "memory    {} can be had", bytes(facts.memory_available_bytes))?;
    writeln!(out, "disk      {} can be had", bytes(facts.disk_available_bytes))?;
    writeln!(
        out,
        "processor {} flags, extended registers of {} bytes",
        facts.cpu_flags.len(),
        facts.xsave_bytes
    )?;
    writeln!(out, "bridge    {}", facts.bridge.as_deref().unwrap_or("-"))?;
    writeln!(out, "features  {}", facts.kernel_features.join(" "))
}
