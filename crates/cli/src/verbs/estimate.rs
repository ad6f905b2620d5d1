//! `ferry estimate`: what a move would cost, measured on the running workload. Sends nothing.

use crate::context::Context;
use crate::output::{bytes, span_us};
use crate::report::text::{PREDICTED, indented, predictions};
use crate::verbs::{live, workload_path};
use ferry_model::api::{Estimate, EstimateRequest};
use ferry_model::error::Result;
use ferry_model::ids::HostName;
use std::io::{self, Write};
use std::process::ExitCode;

/// Say what a move would cost, measured on the running workload; changes nothing
///
/// Its writes are tracked for a second and a half: how fast it writes, and to how much of its memory. From that, and from what the
/// link carried in earlier moves, each method is predicted. Nothing is sent, and the workload goes on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry estimate web --to beta
  ferry estimate web --to beta --downtime-max 50ms --bandwidth 1Gbit

Exit codes: 0 estimated; 1 its writes cannot be tracked here; 2 no such workload or host; 3 it is being moved.")]
pub struct Args {
    /// Where it would go
    #[arg(long, value_name = "HOST")]
    to: HostName,
    #[command(flatten)]
    live: live::Args,
    /// Name, id, or the beginning of an id
    workload: String,
}

/// Asks and prints.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let request = EstimateRequest { to: args.to, live: args.live.into() };
    let estimate: Estimate = context.client()?.post(&workload_path(&args.workload, "/estimate"), &request)?;
    context.show(&estimate, print)?;
    Ok(ExitCode::SUCCESS)
}

fn print(estimate: &Estimate, out: &mut dyn Write) -> io::Result<()> {
    let measured = &estimate.measured;
    writeln!(out, "{} from {} to {}", estimate.workload, estimate.source, estimate.target)?;
    writeln!(out, "\nmeasured in {}", span_us(estimate.looked_us))?;
    for (name, value) in [
        ("memory with content", bytes(measured.bytes)),
        (".. that cannot be tracked", bytes(measured.bytes_in_pause)),
        ("written to in a second", bytes(measured.dirty_bytes_per_s)),
        ("written to at all", bytes(measured.working_set_bytes)),
    ] {
        writeln!(out, "  {name:<26} {value}")?;
    }
    writeln!(out, "\nnot measured now")?;
    for line in &estimate.assumed {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "\npredicted")?;
    indented(out, &PREDICTED, predictions(&estimate.chosen.predictions))?;
    writeln!(out, "\nauto: {}", estimate.chosen.reason)
}
