//! `ferry restore`: an image goes on where it stood.

use crate::context::Context;
use crate::output::{bytes, span_us};
use ferry_model::error::{Error, Kind, Result};
use ferry_session::imaging::restore::{self, Request};
use std::path::PathBuf;
use std::process::ExitCode;

/// Let an image run again
///
/// Everything in the image is verified before it is used: who signed it, and the hash of every part. The processes get the
/// ids that they had if all of those are free here, and a pid namespace of their own otherwise. An image whose
/// checkpoint ended the program can be restored once; --as-clone makes another copy on purpose.
///
/// Without --detach the command waits, and ends as the program ends.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry restore /var/tmp/job
  ferry restore --detach --pidfile /run/job.pid /var/tmp/job

Exit codes: 0 done (with --detach), else that of the program; 1 this host cannot; 2 no image there; 3 the image is not trusted,
altered, restored before, or does not fit this host; 255 a bug in Ferry.")]
pub struct Args {
    /// The image
    dir: PathBuf,
    /// Do not wait for the program
    #[arg(long)]
    detach: bool,
    /// Write the process id of the program's first process to this file
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Fail if a process id is taken, rather than use a new pid namespace
    #[arg(long)]
    same_pids: bool,
    /// Make a second copy, with an identity of its own
    #[arg(long)]
    as_clone: bool,
    /// Accept an image that a host signed whose key is not listed
    #[arg(long)]
    trust_image: bool,
    /// Threads that copy memory
    #[arg(long, value_name = "N", default_value_t = 2)]
    threads: usize,
}

/// Restores, and waits.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let request = Request {
        dir: args.dir.clone(),
        state: context.state().to_owned(),
        same_pids: args.same_pids,
        as_clone: args.as_clone,
        trust_image: args.trust_image,
        threads: args.threads,
        detach: args.detach,
        pidfile: args.pidfile,
    };
    let running = restore::restore(&request)?;
    let report = &running.report;
    for warning in &report.warnings {
        eprintln!("Note: {warning}");
    }
    let told = |report: &restore::Report, out: &mut dyn std::io::Write| {
        let place = if report.new_pid_namespace {
            format!(", in a new pid namespace, where it is {}", report.pid_inside)
        } else {
            String::new()
        };
        let size = bytes(report.memory_bytes);
        writeln!(
            out,
            "{}: process {}{place}; {} processes, {size}, in {}",
            args.dir.display(),
            report.pid,
            report.processes,
            span_us(report.restored_us)
        )
    };
    if args.detach {
        context.show(report, told)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Standard output is the program's now.
    if context.json() {
        eprintln!("{}", serde_json::to_string(report).map_err(|cause| crate::failure::bug(&cause))?);
    } else {
        let _ = told(report, &mut std::io::stderr());
    }
    let code = running.wait().map_err(|cause| {
        Error::from_source(Kind::Unable, &cause).context("The program runs, but its end cannot be waited for")
    })?;
    Ok(ExitCode::from(code))
}
