//! `ferry logs`: what a workload wrote to its standard output and error.

use crate::context::Context;
use crate::verbs::workload_path;
use ferry_model::error::Result;
use std::ops::ControlFlow;
use std::process::ExitCode;

/// Print what a workload wrote
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry logs web
  ferry logs -f web              goes on as the workload writes, until Ctrl-C

Exit codes: 0 done; 1 no node answers; 2 no such workload.")]
pub struct Args {
    /// Go on as the workload writes, until it ends
    #[arg(short, long)]
    follow: bool,
    /// Name, id, or the beginning of an id
    workload: String,
}

/// Prints it, byte by byte as it was written; with `--json` as lines of `{"text": ..}`.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let path = workload_path(&args.workload, &format!("/logs?follow={}", args.follow));
    context.client()?.pieces(&path, |piece| {
        if context.json() {
            let text = String::from_utf8_lossy(piece);
            context.show_line(&serde_json::json!({ "text": text }), |_| String::new())?;
        } else {
            context.out.write(piece)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(ExitCode::SUCCESS)
}
