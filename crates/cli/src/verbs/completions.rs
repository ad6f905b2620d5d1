//! `ferry completions`: generated from the same definitions that parse the command line.

use crate::cli::Cli;
use crate::context::Context;
use clap::CommandFactory;
use ferry_model::error::Result;
use std::process::ExitCode;

/// Print shell completions
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  ferry completions bash > /etc/bash_completion.d/ferry

Exit codes: 0 done; 2 unknown shell.")]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints them.
pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ferry", &mut text);
    context.out.write(&text)?;
    Ok(ExitCode::SUCCESS)
}
