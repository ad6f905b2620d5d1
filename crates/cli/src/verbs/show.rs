//! `ferry show`: a workload in full, by its three segments.

use crate::context::Context;
use crate::output::{Style, bytes};
use crate::verbs::{ps, workload_path};
use ferry_model::api::WorkloadDetail;
use ferry_model::error::Result;
use ferry_model::plan::Resource;
use std::io::Write;
use std::process::ExitCode;

/// Show a workload: code, resource and execution segment
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  ferry show web

Exit codes: 0 done; 1 no node answers; 2 no such workload.")]
pub struct Args {
    /// Name, id, or the beginning of an id
    workload: String,
}

/// Shows it.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let detail: WorkloadDetail = context.client()?.get(&workload_path(&args.workload, ""))?;
    context.show(&detail, |detail, out| print(context, detail, out))?;
    Ok(ExitCode::SUCCESS)
}

fn print(context: &Context, detail: &WorkloadDetail, out: &mut dyn Write) -> std::io::Result<()> {
    let workload = &detail.workload;
    let heading = |text: &str| context.out.paint(Style::Bold, text);
    writeln!(
        out,
        "{}  {}  on {}, epoch {}",
        workload.name,
        ps::state(workload),
        workload.host,
        workload.epoch.0
    )?;
    writeln!(out, "id       {}", workload.id)?;
    writeln!(out, "command  {}", workload.command.join(" "))?;
    if let Some(image) = &workload.image {
        writeln!(out, "image    {image}")?;
    }
    if let Some(net) = &workload.net {
        writeln!(out, "address  {net}")?;
    }
    if let Some(moving) = &workload.moving {
        writeln!(out, "move     {moving}")?;
    }
    if let Some(reason) = &detail.segments.unread {
        return writeln!(out, "The segments cannot be read: {reason}");
    }
    writeln!(out, "\n{}", heading("code segment"))?;
    resources(&detail.segments.code, out)?;
    writeln!(out, "\n{}", heading("resource segment"))?;
    resources(&detail.segments.resource, out)?;
    writeln!(out, "\n{}", heading("execution segment"))?;
    detail.segments.execution.iter().try_for_each(|line| writeln!(out, "  {line}"))
}

fn resources(list: &[Resource], out: &mut dyn Write) -> std::io::Result<()> {
    for resource in list {
        let holder = resource.holder.map_or_else(String::new, |holder| match holder.fd {
            Some(fd) => format!("  (pid {}, fd {fd})", holder.pid),
            None => format!("  (pid {})", holder.pid),
        });
        let size = if resource.bytes > 0 { format!("  {}", bytes(resource.bytes)) } else { String::new() };
        writeln!(out, "  {:<18} {}{size}{holder}", resource.sort, resource.name)?;
        if let Some(blocker) = &resource.unsupported {
            writeln!(out, "  {:<18} cannot move: {}", "", blocker.what)?;
        }
    }
    Ok(())
}
