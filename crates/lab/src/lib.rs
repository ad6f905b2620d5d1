//! Test hosts on one machine: each has namespaces of every kind, a root and a state of its own.
//!
//! A network namespace alone would share root, pids, /dev/shm, /run, IPC and clocks with its neighbours: a file that was
//! never moved is then found by accident, and the test passes. A [`Host`] here shares nothing with another but the
//! kernel and a bridge between them.
//!
//! Three kinds of helper process make a lab. They are re-executions of one program (the `ferry` binary itself, or
//! `lab-agent`), because namespaces want single-threaded processes and tests have many threads:
//!
//! - the *keeper*, one per lab: lives in the lab's own network namespace with the bridge, and clears away what the kernel
//!   does not (cgroups, scratch files) when the lab's owner is gone, however it went;
//! - the *door*, one per host: makes the namespaces, waits for the host's end, removes its cgroups;
//! - the *agent*, pid 1 of a host: sets its mounts up, runs commands for the owner, reaps.
//!
//! The life line is a socket: when the owner ends (even by SIGKILL), the agents and the keeper read end-of-file and go.

mod agent;
mod cgroup;
mod dialogue;
mod door;
mod error;
mod fleet;
mod host;
mod keeper;
mod lab;
pub mod leftovers;
mod link;
mod root;
mod spec;
pub mod sweep;
mod wire;

pub use dialogue::Dialogue;
pub use error::{Error, Result};
pub use fleet::{FERRY, Fleet};
pub use host::{Host, Output, Process, built_beside};
pub use lab::{Closer, Lab};
pub use spec::{HostSpec, Shared};

/// Entry point of the helper processes: `args` are what follows `lab-agent` on the command line.
#[must_use]
pub fn agent_main(args: &[String]) -> std::process::ExitCode {
    let result = match args.first().map(String::as_str) {
        Some("keeper") => keeper::run(&args[1..]),
        Some("door") => door::run(&args[1..]),
        Some("agent") => agent::run(&args[1..]),
        _ => Err(Error::Usage),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
