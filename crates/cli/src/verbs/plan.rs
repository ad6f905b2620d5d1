//! `ferry plan`: what a move would do. Changes nothing.

use crate::context::Context;
use crate::output::{Style, bytes, table};
use crate::values;
use crate::verbs::workload_path;
use clap::ValueEnum;
use ferry_model::api::{PlanRequest, With};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::HostName;
use ferry_model::plan::Plan;
use ferry_model::planning::Method;
use ferry_model::resource::{Action, Attachment, Binding};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Say what a move would do, resource by resource; changes nothing
///
/// For each resource: how the workload is bound to it (by identifier, value or type), how it is attached to its host,
/// the action (MV move, CP copy, GR global reference, RB rebind) with the reason and the bytes; and every blocker with
/// what lifts it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry plan web --to beta
  ferry plan web --to beta -o plan.json && ferry move web --to beta --plan plan.json

Exit codes: 0 a move can be made; 1 cannot ask; 2 no such workload or host; 3 there are blockers.")]
pub struct Args {
    /// Where it would go
    #[arg(long, value_name = "HOST")]
    to: HostName,
    /// How state would travel
    #[arg(long, value_enum, default_value = "auto")]
    method: MethodArg,
    /// As of `ferry move`
    #[arg(long)]
    end_connections: bool,
    /// As of `ferry move`, and not noted
    #[arg(long, value_name = "PATH[:BINDING]", value_parser = values::with)]
    with: Vec<With>,
    /// Write the plan to this file, for `ferry move --plan`
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name, id, or the beginning of an id
    workload: String,
}

/// How state travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MethodArg {
    /// Stop, move code and files, start anew: what it held in memory is lost
    Cold,
    /// Suspend to an image, copy the image, resume
    Warm,
    /// As warm, streamed, with no image on disk
    StopAndCopy,
    /// All of it in the pause where that fits, else as pre-copy
    Auto,
    /// Memory in rounds while it runs, the rest in the pause
    PreCopy,
    /// Resumed first; memory follows on demand. Until the last page both hosts are needed
    PostCopy,
    /// One round of pre-copy, then post-copy of what was written meanwhile
    Hybrid,
}

impl From<MethodArg> for Method {
    fn from(method: MethodArg) -> Self {
        match method {
            MethodArg::Cold => Self::Cold,
            MethodArg::Warm => Self::Warm,
            MethodArg::StopAndCopy => Self::StopAndCopy,
            MethodArg::Auto => Self::Auto,
            MethodArg::PreCopy => Self::PreCopy,
            MethodArg::PostCopy => Self::PostCopy,
            MethodArg::Hybrid => Self::Hybrid,
        }
    }
}

/// Makes the plan and prints it.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let request = PlanRequest {
        to: args.to,
        method: args.method.into(),
        end_connections: args.end_connections,
        with: args.with,
    };
    let plan: Plan = context.client()?.post(&workload_path(&args.workload, "/plan"), &request)?;
    if let Some(path) = &args.output {
        let text = serde_json::to_vec_pretty(&plan).map_err(|cause| crate::failure::bug(&cause))?;
        std::fs::write(path, text).map_err(|cause| {
            Error::from_source(Kind::Unable, &cause)
                .context(format!("The plan could not be written to {}", path.display()))
        })?;
    }
    context.show(&plan, |plan, out| print(context, plan, out))?;
    Ok(if plan.blockers.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(Kind::Refused.exit_code()) })
}

/// A plan for people.
pub fn print(context: &Context, plan: &Plan, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{} from {} to {}", plan.workload, plan.source, plan.target)?;
    let rows: Vec<Vec<String>> = plan
        .items
        .iter()
        .map(|item| {
            vec![
                action(item.action).to_owned(),
                item.resource.sort.clone(),
                item.resource.name.clone(),
                format!("{} {}", binding(item.resource.binding), attachment(item.resource.attachment)),
                bytes(item.bytes),
                item.reason.clone(),
            ]
        })
        .collect();
    table(out, &["DO", "SORT", "NAME", "BOUND, ATTACHED", "BYTES", "REASON"], &rows)?;
    let total = plan.items.iter().map(|item| item.bytes).sum();
    writeln!(out, "{} resources, {} to transfer", plan.items.len(), bytes(total))?;
    for exception in &plan.exceptions {
        writeln!(out, "note: {exception}")?;
    }
    for blocker in &plan.blockers {
        writeln!(out, "{} {}", context.out.paint(Style::Bad, "blocker:"), blocker.what)?;
        writeln!(out, "         {}", blocker.lifted_by)?;
    }
    Ok(())
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Move => "MV",
        Action::Copy => "CP",
        Action::Reference => "GR",
        Action::Rebind => "RB",
    }
}

fn binding(binding: Binding) -> &'static str {
    match binding {
        Binding::Identifier => "identifier",
        Binding::Value => "value",
        Binding::Type => "type",
    }
}

fn attachment(attachment: Attachment) -> &'static str {
    match attachment {
        Attachment::Unattached => "unattached",
        Attachment::Fastened => "fastened",
        Attachment::Fixed => "fixed",
    }
}
