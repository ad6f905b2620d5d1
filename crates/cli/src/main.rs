//! The binary `ferry`: one file per verb, progress, rendering, errors. A client of the node's API, and of `session`
//! for the verbs that need no node.

// Who says something must not die when nobody can hear it: `ferry_sys::say`.
#![cfg_attr(not(test), warn(clippy::print_stderr))]

mod cli;
mod client;
mod context;
mod demo;
mod failure;
mod output;
mod progress;
mod report;
mod stream;
mod values;
mod verbs;

use clap::Parser;
use ferry_model::error::{Error, Kind};
use std::process::ExitCode;

fn main() -> ExitCode {
    // The lab's helpers are this program again; their arguments are no verb's.
    if std::env::args().nth(1).is_some_and(|verb| verb == "lab-agent") {
        let rest: Vec<String> = std::env::args().skip(2).collect();
        return ferry_lab::agent_main(&rest);
    }
    let cli = cli::Cli::parse();
    let json = cli.common.json;
    // A panic is a bug, and has its own exit code; the message itself goes to standard error by the default hook.
    let outcome = std::panic::catch_unwind(|| verbs::dispatch(cli));
    match outcome {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => failure::report(&error, json),
        Err(_) => {
            let error = Error::new(Kind::Bug, "Ferry stopped at a state that should be impossible");
            failure::report(&error.hint("report it with the lines above and the command that you gave"), json)
        }
    }
}
