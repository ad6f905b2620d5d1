//! The verbs, one file each: its arguments with their help, and what it does. `dispatch` is the only place that
//! knows all of them.

pub mod adopt;
pub mod attach;
pub mod check;
pub mod checkpoint;
pub mod clone;
pub mod completions;
pub mod doctor;
pub mod estimate;
pub mod exec;
mod follow;
pub mod host;
pub mod kill;
mod live;
pub mod logs;
pub mod man;
pub mod r#move;
pub mod moves;
pub mod node;
pub mod plan;
pub mod ps;
pub mod pull;
pub mod recover;
pub mod restore;
pub mod rm;
pub mod run;
pub mod shim;
pub mod show;
pub mod stop;
pub mod wait;

pub use follow::state_name;

use crate::cli::{Cli, Verb};
use crate::client::segment;
use crate::context::Context;
use ferry_model::error::Result;
use std::process::ExitCode;

/// Runs the verb that was given.
pub fn dispatch(cli: Cli) -> Result<ExitCode> {
    let context = Context::new(cli.common);
    match &cli.verb {
        Verb::Check(_) => context.only_here("check")?,
        Verb::Doctor(_) => context.only_here("doctor")?,
        Verb::Checkpoint(_) => context.only_here("checkpoint")?,
        Verb::Restore(_) => context.only_here("restore")?,
        _ => {}
    }
    match cli.verb {
        Verb::Check(args) => check::run(&context, args),
        Verb::Node(args) => node::run(&context, args),
        Verb::Doctor(args) => doctor::run(&context, args),
        Verb::Host(args) => host::run(&context, args),
        Verb::Run(args) => run::run(&context, args),
        Verb::Adopt(args) => adopt::run(&context, args),
        Verb::Ps(args) => ps::run(&context, args),
        Verb::Show(args) => show::run(&context, args),
        Verb::Logs(args) => logs::run(&context, args),
        Verb::Attach(args) => attach::run(&context, args),
        Verb::Exec(args) => exec::run(&context, args),
        Verb::Wait(args) => wait::run(&context, args),
        Verb::Stop(args) => stop::run(&context, args),
        Verb::Kill(args) => kill::run(&context, args),
        Verb::Rm(args) => rm::run(&context, args),
        Verb::Plan(args) => plan::run(&context, args),
        Verb::Estimate(args) => estimate::run(&context, args),
        Verb::Move(args) => r#move::run(&context, args),
        Verb::Pull(args) => pull::run(&context, args),
        Verb::Moves(args) => moves::run(&context, args),
        Verb::Clone(args) => clone::run(&context, args),
        Verb::Checkpoint(args) => checkpoint::run(&context, args),
        Verb::Restore(args) => restore::run(&context, args),
        Verb::Recover(args) => recover::run(&context, args),
        Verb::Shim(args) => shim::run(&context, &args),
        Verb::Completions(args) => completions::run(&context, args),
        Verb::Man(args) => man::run(&context, args),
        Verb::Demo(args) => crate::demo::run(&context, &args),
        Verb::KvServer(args) => crate::demo::kv::server::run(args),
        Verb::KvClient(args) => crate::demo::kv::client::run(args),
    }
}

/// A path as the node needs it, which has a working directory of its own.
fn absolute(path: &std::path::Path) -> Result<String> {
    let absolute = std::path::absolute(path).ok();
    let text = absolute.and_then(|path| path.to_str().map(str::to_owned));
    text.ok_or_else(|| crate::failure::usage(format!("{} cannot be named to the node", path.display())))
}

/// Path of a workload in the API.
fn workload_path(workload: &str, rest: &str) -> String {
    format!("/v1/workloads/{}{rest}", segment(workload))
}
