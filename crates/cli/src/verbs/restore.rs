//! `ferry restore`: an image goes on where it stood.

use crate::context::Context;
use crate::output::{bytes, span_us};
use crate::verbs::{absolute, workload_path};
use ferry_model::api::{RestoreReport, RestoreRequest, Waited};
use ferry_model::error::{Error, Kind, Result};
use ferry_session::imaging::restore::{self, Request};
use ferry_sys::say::say;
use std::path::PathBuf;
use std::process::ExitCode;

/// Let an image run again
///
/// Everything in the image is verified before it is used: who signed it, and the hash of every part. The processes get the
/// ids that they had if all of those are free here, and a pid namespace of their own otherwise. An image whose
/// checkpoint ended the program can be restored once; --as-clone makes another copy on purpose, with an identity of its
/// own, without the connections to others that the first has.
///
/// The image of a workload is restored through the node, and taken back from the host that suspended it, which has to
/// answer. An image of a process tree needs no node.
///
/// Without --detach the command waits, and ends as the program ends.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry restore /var/tmp/job
  ferry restore --detach --pidfile /run/job.pid /var/tmp/job
  ferry restore --detach --as-clone --name twin --net 10.0.0.8/24 /var/tmp/web

Exit codes: 0 done (with --detach), else that of the program; 1 this host cannot; 2 no image there; 3 the image is not trusted,
altered, restored before, or does not fit this host; 5 the owner's decision is not known yet; 255 a bug in Ferry.")]
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
    /// Name of the clone of a workload; without it, one is made up
    #[arg(long, value_name = "N", requires = "as_clone")]
    name: Option<String>,
    /// Address of the clone of a workload, where the first has one
    #[arg(long, value_name = "ADDR/LEN", requires = "as_clone")]
    net: Option<String>,
    /// Accept an image that a host signed whose key is not listed
    #[arg(long)]
    trust_image: bool,
    /// Threads that copy memory
    #[arg(long, value_name = "N", default_value_t = 2)]
    threads: usize,
}

/// Restores, and waits.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    if ferry_session::movement::workload_in(&args.dir, context.state(), args.trust_image)?.is_some() {
        return of_workload(context, args);
    }
    if args.name.is_some() || args.net.is_some() {
        return Err(Error::new(Kind::Usage, "Only the clone of a workload has a name and an address"));
    }
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
        say(format_args!("Note: {warning}"));
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
        say(serde_json::to_string(report).map_err(|cause| crate::failure::bug(&cause))?);
    } else {
        let _ = told(report, &mut std::io::stderr());
    }
    let code = running.wait().map_err(|cause| {
        Error::from_source(Kind::Unable, &cause).context("The program runs, but its end cannot be waited for")
    })?;
    Ok(ExitCode::from(code))
}

/// Through the node, whose registry says whether the image still is the workload. In its capsule it has the ids that it had.
fn of_workload(context: &Context, args: Args) -> Result<ExitCode> {
    let client = context.client()?;
    let request = RestoreRequest {
        dir: absolute(&args.dir)?,
        as_clone: args.as_clone,
        name: args.name,
        net: args.net,
        trust_image: args.trust_image,
        threads: args.threads,
    };
    let report: RestoreReport = client.post("/v1/restore", &request)?;
    if let (Some(path), Some(pid)) = (&args.pidfile, report.workload.pid) {
        std::fs::write(path, format!("{pid}\n")).map_err(|cause| {
            Error::from_source(Kind::Remainder, &cause).context(format!(
                "{} runs, but {} cannot be written",
                report.workload.name,
                path.display()
            ))
        })?;
    }
    context.show(&report, |report, out| {
        let (size, time) = (bytes(report.memory_bytes), span_us(report.restored_us));
        writeln!(out, "{}: {} runs; {size}, in {time}", args.dir.display(), report.workload.name)
    })?;
    if args.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let id = report.workload.id.to_string();
    let waited: Waited = client.get(&workload_path(&id, "/wait"))?;
    Ok(ExitCode::from(waited.exit.shell_code()))
}
