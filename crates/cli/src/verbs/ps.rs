//! `ferry ps`: the workloads of this host.

use crate::context::Context;
use crate::output::table;
use ferry_model::api::{Workload, WorkloadState};
use ferry_model::error::Result;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// List workloads
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry ps
  ferry ps --all --json | jq -r '.[].id'

Exit codes: 0 done; 1 no node answers.")]
pub struct Args {
    /// Also those that moved away
    #[arg(short, long)]
    all: bool,
}

/// Lists them.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let mut workloads: Vec<Workload> = context.client()?.get("/v1/workloads")?;
    workloads.retain(|workload| args.all || workload.state != WorkloadState::Gone);
    context.show(&workloads, |workloads, out| {
        let rows: Vec<Vec<String>> = workloads.iter().map(row).collect();
        table(out, &["NAME", "STATE", "HOST", "PID", "AGE", "COMMAND"], &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(workload: &Workload) -> Vec<String> {
    vec![
        workload.name.clone(),
        state(workload),
        workload.host.to_string(),
        workload.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        age(workload.created_unix),
        workload.command.join(" ").chars().take(60).collect(),
    ]
}

/// The state in words, with the exit code where there is one.
pub fn state(workload: &Workload) -> String {
    match (workload.state, workload.exit) {
        (_, Some(exit)) => exit.to_string(),
        (WorkloadState::Starting, None) => "starting".to_owned(),
        (WorkloadState::Running, None) => "running".to_owned(),
        (WorkloadState::Moving, None) => "moving".to_owned(),
        (WorkloadState::Draining, None) => "draining".to_owned(),
        (WorkloadState::Paused, None) => "paused".to_owned(),
        (WorkloadState::InDoubt, None) => "in doubt".to_owned(),
        (WorkloadState::Suspended, None) => match &workload.image {
            Some(image) => format!("suspended to {image}"),
            None => "suspended".to_owned(),
        },
        (WorkloadState::Exited, None) => "exited".to_owned(),
        (WorkloadState::Gone, None) => "gone".to_owned(),
        (WorkloadState::Lost, None) => "lost".to_owned(),
        (WorkloadState::LostPages, None) => "lost(pages)".to_owned(),
    }
}

fn age(created_unix: u64) -> String {
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(created_unix);
    match since.elapsed().unwrap_or_default().as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}
