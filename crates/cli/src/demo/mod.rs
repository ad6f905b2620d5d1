//! `ferry demo`: three hosts on this machine, a server with some hundreds of MiB in memory, clients that know what every reply
//! must be, and a move there and back between two replies.
//!
//! It uses the same commands as a user would, on hosts that share nothing but a bridge (`ferry_lab`), and leaves nothing behind.

pub mod kv;
mod stage;
mod summary;

use crate::context::Context;
use crate::report;
use crate::verbs::plan::MethodArg;
use ferry_model::error::{Error, Kind, Result};
use stage::Stage;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use summary::Summary;

/// Exit code of a program that a person has interrupted.
const INTERRUPTED: u8 = 130;

/// See a running server move between two hosts and back, under load
///
/// Makes three hosts on this machine, joined by a bridge: two with a node, one with clients. Starts a server, keeps clients
/// reading and writing over open connections, moves the server from one host to the other and back, and says what the clients
/// saw. Needs root, changes nothing of this machine, and leaves nothing behind.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ferry demo                        the key-value server that is part of this program
  ferry demo --workload redis       the same with redis-server
  ferry demo --report move.html     writes a page about the move there, with its timeline drawn
  ferry demo --keep                 leaves the hosts up until Ctrl-C, and says how to look around

Exit codes: 0 moved, and no reply was lost, wrong or doubled; 1 this host cannot, or the clients saw a fault; otherwise
the exit code of the move that failed.")]
pub struct Args {
    /// What is moved
    #[arg(long, value_enum, default_value = "kv")]
    workload: Workload,
    /// How its state travels, as of `ferry move`
    #[arg(long, value_enum, default_value = "auto")]
    method: MethodArg,
    /// Write a page about the move there, as of `ferry moves report --html`, with what the clients saw
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leave the hosts up until Ctrl-C, and print the commands to explore them
    #[arg(long)]
    keep: bool,
    /// Size of the server's data in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65536))]
    size: u64,
}

/// Servers that the demo knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// The multi-threaded key-value server in this program
    Kv,
    /// The redis-server that is installed here
    Redis,
}

/// Plays the demo. Whatever happens, ends by clearing away and saying what is left.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    // Signals are waited for in a thread of their own, so that Ctrl-C clears away in an orderly manner, and tells.
    let (sender, events) = channel();
    let on_signal = sender.clone();
    std::thread::spawn(move || {
        wait_for_signal();
        let _ = on_signal.send(None);
    });
    let mut stage = Stage::set(args, context.json())?;
    let closer = stage.closer();
    let (workload, method, keep) = (args.workload, args.method, args.keep);
    let play = std::thread::spawn(move || {
        // A panic must not keep the outcome from the waiting thread.
        let played =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.play(workload, method.into())));
        let played = played.unwrap_or_else(|_| Err(Error::new(Kind::Bug, "The demo panicked")));
        if keep && played.is_ok() {
            stage.invite();
            // Until the signal; the closer ends the lab under us.
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        let _ = sender.send(Some(played));
    });
    let outcome = loop {
        match events.recv_timeout(Duration::from_secs(60)) {
            Ok(outcome) => break outcome,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    drop(play);
    let leftovers = closer.close();
    say_what_is_left(&leftovers);
    match outcome {
        None => Ok(ExitCode::from(if keep { 0 } else { INTERRUPTED })),
        Some(Err(error)) => Err(error),
        Some(Ok(summary)) => {
            if let (Some(path), Some(leg)) = (&args.report, summary.legs.first()) {
                report::write_page(&leg.moved, path)?;
            }
            finish(context, Summary { leftovers, ..summary })
        }
    }
}

fn finish(context: &Context, summary: Summary) -> Result<ExitCode> {
    let good = summary.is_clean();
    let faults = summary.faults.join("; ");
    context.show(&summary, |summary, out| summary.print(out))?;
    if good {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Error::new(Kind::Unable, "The move was not clean").hint(faults))
}

fn say_what_is_left(leftovers: &[String]) {
    let mut err = std::io::stderr();
    let _ = if leftovers.is_empty() {
        writeln!(err, "Cleared away: no process, namespace, mount, cgroup, device or file is left.")
    } else {
        writeln!(err, "Left behind:\n  {}", leftovers.join("\n  "))
    };
}

/// Blocks until SIGINT or SIGTERM. Without a runtime for it, for ever: the kernel's default action then ends the program, and the
/// lab's keeper clears away.
fn wait_for_signal() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let kind = tokio::signal::unix::SignalKind::terminate();
        if let Ok(mut terminate) = tokio::signal::unix::signal(kind) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
    });
}
