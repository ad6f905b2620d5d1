//! `ferry checkpoint`: a process tree or a workload into an image, in a directory.

use crate::context::Context;
use crate::output::{bytes, span_us};
use crate::verbs::{absolute, workload_path};
use ferry_model::api::{CheckpointReport, CheckpointRequest};
use ferry_model::error::Result;
use ferry_session::imaging::checkpoint::{self, Request};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a workload's state into an image
///
/// The image is a directory that only its owner can read: it holds everything that the program had in memory, secrets
/// included. It is signed by this host's key, which is made on first use. Unless --leave-running is given, the program is
/// ended once the image is whole and durable; until then a failure lets it run on.
///
/// A workload is suspended: from then on the image is the workload, and `ferry restore` takes it back, once. A process
/// tree that is no workload is named by its process id and needs no node. An image made with --leave-running can only be
/// restored as a new one (--as-clone), because what it shows went on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry checkpoint web /var/tmp/web
  ferry checkpoint 4711 /var/tmp/job
  ferry checkpoint --leave-running 4711 /dev/shm/before-upgrade

Exit codes: 0 done; 1 this host cannot; 2 no such workload or process, or the directory exists; 3 it holds something that
cannot be saved, which is named; 4 failed, and the program runs on; 5 it stays frozen until the decider answers; 6 the
image is whole, but the program could not be ended.")]
pub struct Args {
    /// Name or id of a workload, or process id of the root of a tree
    #[arg(value_name = "WORKLOAD|PID")]
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
    let Ok(pid) = args.what.parse::<i32>() else { return of_workload(context, args) };
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

/// Through the node, whose registry says from then on that the workload is an image.
fn of_workload(context: &Context, args: Args) -> Result<ExitCode> {
    let dir = absolute(&args.dir)?;
    let request = CheckpointRequest { dir, leave_running: args.leave_running, threads: args.threads };
    let report: CheckpointReport =
        context.client()?.post(&workload_path(&args.what, "/checkpoint"), &request)?;
    context.show(&report, |report, out| {
        let (processes, threads, size) = (report.processes, report.threads, bytes(report.memory_bytes));
        let end = if args.leave_running {
            format!("stood still for {}, goes on", span_us(report.frozen_us))
        } else {
            "suspended".to_owned()
        };
        writeln!(out, "{}: {processes} processes, {threads} threads, {size}; {end}", args.dir.display())
    })?;
    Ok(ExitCode::SUCCESS)
}
