//! A host's door: makes its namespaces and its cable, starts its agent as pid 1, and clears its cgroup when that has ended.

use crate::agent::AGENT_GROUP;
use crate::cgroup;
use crate::error::{At, Error, Result};
use crate::link::{BRIDGE, HOST_END, Route, switch_end};
use crate::spec::HostSpec;
use ferry_sys::unshare::{UnshareFlags, unshare};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Runs until the host's agent has ended. Standard input is the host's control socket.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let [text] = args else { return Err(Error::Usage) };
    // The keeper is single-threaded, so this comes when the process dies, not when some thread does.
    set_parent_process_death_signal(Some(Signal::KILL)).at("Tying the host to its keeper")?;
    let spec: HostSpec = serde_json::from_str(text).map_err(|error| Error::Message(error.to_string()))?;
    let result = start(&spec, text).and_then(|mut agent| {
        // Only the agent may hold the control socket: the owner must see end-of-file when it ends.
        let nothing = fs::File::open("/dev/null").at("Opening /dev/null")?;
        rustix::stdio::dup2_stdin(&nothing).at("Letting go of the control socket")?;
        agent.wait().at("Waiting for a host")
    });
    cgroup::remove(&spec.cgroup);
    result.map(drop)
}

fn start(spec: &HostSpec, text: &str) -> Result<std::process::Child> {
    let mut switch = Route::open()?;
    let (inner, outer) = (format!("host{}", spec.number), switch_end(spec.number));
    switch.add_cable(&outer, &inner)?;
    switch.plug(&outer, BRIDGE)?;
    switch.set_up(&outer, true)?;

    // The cgroup namespace's root is where its maker stands; the agent then goes one down, so that the root stays free of
    // processes and may hand controllers on.
    let group = &spec.cgroup;
    fs::create_dir_all(group.join(AGENT_GROUP)).at("Making the host's cgroup")?;
    fs::write(group.join("cgroup.procs"), "0").at("Entering the host's cgroup")?;
    unshare(
        UnshareFlags::NEWNET
            | UnshareFlags::NEWNS
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP
            | UnshareFlags::NEWPID
            | UnshareFlags::NEWTIME,
    )
    .at("Making the host's namespaces")?;
    fs::write(group.join(AGENT_GROUP).join("cgroup.procs"), "0").at("Entering the agent's cgroup")?;
    let ahead = spec.clock_ahead_s;
    fs::write("/proc/self/timens_offsets", format!("monotonic {ahead} 0\nboottime {ahead} 0\n"))
        .at("Setting the host's clocks")?;
    switch.give(&inner, std::process::id(), HOST_END)?;

    Command::new("/proc/self/exe")
        .arg0("lab-agent")
        .args(["lab-agent", "agent", text])
        // Setting the user makes the standard library fork: a child of posix_spawn shares our memory until it executes, and
        // such a one enters a new time namespace only on newer kernels.
        .uid(0)
        .stdin(Stdio::inherit())
        .spawn()
        .at("Starting the host's agent")
}
