//! `ferry checkpoint`: a process tree or a workload into an image, in a directory.

use crate::context::Context;
use crate::output::{bytes, span_us};
use ferry_model::error::{Error, Kind, Result};
use ferry_session::imaging::checkpoint::{self, Request};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a workload's state into an image
///
/// The image is a directory that only its owner can read: it holds everything that the program had in memory, secrets
/// included. It is signed by this host's key, which is made on first use. Unless --leave-running is given, the program is
/// ended once the image is whole and durable; until then a failure lets it run on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry checkpoint 4711 /var/tmp/job
  ferry checkpoint --leave-running 4711 /dev/shm/before-upgrade

Exit codes: 0 done; 1 this host cannot; 2 no such process, or the directory exists; 3 the tree holds something that cannot
be saved, which is named; 4 failed, and the program runs on; 6 the image is whole, but the program could not be ended.")]
pub struct Args {
    /// Process id of the root of a tree
    #[arg(value_name = "PID")]
    what: String,
    /// Directory of the image; it must not exist
    dir: PathBuf,
    /// Let the program go on afterwards
    #[arg(long)]
    leave_running: bool,
    /// Threads that copy memory
    #[arg(long, value_name = "N", default_value_t = 2)]
    threads: usize,
}

/// Makes it.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let pid: i32 = args.what.parse().map_err(|_| {
        Error::new(Kind::Usage, format!("{} is not a process id", args.what))
            .hint("ferry show NAME prints the process id of a workload")
    })?;
    let request = Request {
        pid,
        dir: args.dir.clone(),
        state: context.state().to_owned(),
        leave_running: args.leave_running,
        threads: args.threads,
    };
    let report = checkpoint::checkpoint(&request)?;
    context.show(&report, |report, out| {
        let end = if args.leave_running { "goes on" } else { "ended" };
        writeln!(
            out,
            "{}: {} processes, {} threads, {}; stood still for {}, {end}",
            args.dir.display(),
            report.processes,
            report.threads,
            bytes(report.memory_bytes),
            span_us(report.frozen_us)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
