//! `ferry doctor`: damage and leftovers, by owner. Needs no node running.

use crate::context::Context;
use crate::output::Style;
use ferry_model::api::Doctor;
use ferry_model::error::{Kind, Result};
use std::io::Write;
use std::process::ExitCode;

/// Look for damage and leftovers, by owner
///
/// Checks the audit log's chain, the permissions of what is secret, and looks for processes, cgroups, devices and
/// directories that Ferry made and nobody owns any more. Needs no node running.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry doctor
  ferry doctor --clean          removes leftovers that certainly belong to nobody

Exit codes: 0 all is well (or cleaned); 6 something was found.")]
pub struct Args {
    /// Remove leftovers that certainly belong to nobody
    #[arg(long)]
    clean: bool,
}

/// Looks.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let doctor = ferry_node::doctor::examine(context.state(), context.run_dir(), args.clean)?;
    context.show(&doctor, |doctor, out| print(context, doctor, out))?;
    let left = doctor.findings.iter().any(|finding| !finding.cleaned);
    Ok(if left { ExitCode::from(Kind::Remainder.exit_code()) } else { ExitCode::SUCCESS })
}

fn print(context: &Context, doctor: &Doctor, out: &mut dyn Write) -> std::io::Result<()> {
    for checked in &doctor.checked {
        writeln!(out, "{} {checked}", context.out.paint(Style::Dim, "checked"))?;
    }
    for finding in &doctor.findings {
        let what = if finding.cleaned { "removed" } else { "found" };
        writeln!(out, "{what} {} {}: {} (of {})", finding.sort, finding.name, finding.detail, finding.owner)?;
    }
    if doctor.findings.is_empty() {
        writeln!(out, "All is well")?;
    } else if doctor.findings.iter().any(|finding| finding.cleanable && !finding.cleaned) {
        writeln!(out, "ferry doctor --clean removes what belongs to nobody")?;
    }
    Ok(())
}
