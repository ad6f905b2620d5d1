//! The command line: what is said before the verb, and the list of verbs. Each verb is one file in `verbs/`.

use crate::verbs;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Exit codes, for the end of every help text.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    this host cannot; the reason is given
  2    the command was wrong
  3    refused by plan or policy; nothing was touched
  4    failed and rolled back; the workload still runs at the source
  5    the outcome is not final (in doubt, paused)
  6    done, with a named remainder
  255  a bug in Ferry";

/// Moves running work between machines
///
/// Ferry moves running programs between hosts, with what they hold (files, sockets, terminals), and without losing or
/// doubling any of it. A plan says before every move what will happen to each resource and why.
#[derive(Debug, Parser)]
#[command(name = "ferry", version, max_term_width = 110, after_long_help = EXIT_CODES)]
pub struct Cli {
    /// What is said before the verb.
    #[command(flatten)]
    pub common: Common,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options that every verb takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    /// Directory that holds what must outlive a reboot: identity, journals, workloads
    #[arg(long, global = true, value_name = "DIR", env = "FERRY_STATE", default_value = "/var/lib/ferry")]
    #[arg(display_order = 901)]
    pub state: PathBuf,
    /// Directory of the sockets
    #[arg(long, global = true, value_name = "DIR", env = "FERRY_RUN", default_value = "/run/ferry")]
    #[arg(display_order = 902)]
    pub run: PathBuf,
    /// Ask a node elsewhere: `https://[NODE@]HOST[:PORT]`. With NODE only that node may answer; without, any of the fleet
    #[arg(long, global = true, value_name = "URL", env = "FERRY_API", display_order = 903)]
    pub api: Option<String>,
    /// Directory with the key and certificate of an operator, for --api
    #[arg(long, global = true, value_name = "DIR", env = "FERRY_IDENTITY", display_order = 904)]
    pub identity: Option<PathBuf>,
}

/// Every verb. Help shows them in this order.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Say what this host can do, and what is lost where it cannot
    Check(verbs::check::Args),
    /// Make, start and join nodes
    Node(verbs::node::Args),
    /// List the hosts of the fleet
    Host(verbs::host::Args),
    /// Run a program as a workload in a capsule of its own
    Run(verbs::run::Args),
    /// Make a workload of a process tree that already runs
    Adopt(verbs::adopt::Args),
    /// List workloads
    Ps(verbs::ps::Args),
    /// Show a workload: code, resource and execution segment
    Show(verbs::show::Args),
    /// Print what a workload wrote
    Logs(verbs::logs::Args),
    /// Connect this terminal to a workload's
    Attach(verbs::attach::Args),
    /// Run another program inside of a workload's capsule
    Exec(verbs::exec::Args),
    /// Wait until a workload ends
    Wait(verbs::wait::Args),
    /// Ask a workload to end, and make it after a while
    Stop(verbs::stop::Args),
    /// Send a signal to a workload
    Kill(verbs::kill::Args),
    /// Forget a workload that has ended, with its files
    Rm(verbs::rm::Args),
    /// Say what a move would do, resource by resource; changes nothing
    Plan(verbs::plan::Args),
    /// Say what a move would cost, measured on the running workload; changes nothing
    Estimate(verbs::estimate::Args),
    /// Move workloads to another host
    Move(verbs::r#move::Args),
    /// Fetch workloads from another host
    Pull(verbs::pull::Args),
    /// List, show, follow and cancel moves
    Moves(verbs::moves::Args),
    /// Clone a workload to another host; the original goes on
    Clone(verbs::clone::Args),
    /// Write the state of a process tree into an image
    Checkpoint(verbs::checkpoint::Args),
    /// Let an image run again
    Restore(verbs::restore::Args),
    /// After trouble: say where a workload stands and what can safely be done
    Recover(verbs::recover::Args),
    /// Look for damage and leftovers, by owner
    Doctor(verbs::doctor::Args),
    /// Print shell completions
    Completions(verbs::completions::Args),
    /// Write man pages
    Man(verbs::man::Args),
    /// The process that outlives the node and keeps one workload
    #[command(hide = true)]
    Shim(verbs::shim::Args),
    /// See a running server move between two hosts and back
    Demo(crate::demo::Args),
    /// The demo's server
    #[command(hide = true)]
    KvServer(crate::demo::kv::server::Args),
    /// The demo's clients
    #[command(hide = true)]
    KvClient(crate::demo::kv::client::Args),
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{CommandFactory, Parser};

    /// The words of a line as a shell takes them: quotes, and nothing behind a pipe, a redirection or a wide gap.
    fn words(line: &str) -> Vec<String> {
        let line = line.trim();
        let line = ["   ", "  #", " | ", " > ", " < ", " && ", " &"]
            .iter()
            .fold(line, |line, end| line.split_once(end).map_or(line, |(command, _)| command));
        let mut words = vec![String::new()];
        let mut quoted = false;
        for character in line.chars() {
            match character {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                other => words.last_mut().unwrap().push(other),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn the_examples_of_every_verb_parse() {
        let command = Cli::command();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let help = verb.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<&str> = help.lines().filter(|line| line.starts_with("  ferry ")).collect();
            assert!(!examples.is_empty(), "ferry {} has no example", verb.get_name());
            for example in examples {
                if let Err(error) = Cli::try_parse_from(words(example)) {
                    panic!("ferry {}: {example}: {error}", verb.get_name());
                }
            }
        }
    }
}
