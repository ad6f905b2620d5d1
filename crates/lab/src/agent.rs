//! A host's pid 1: sets up its mounts and network, runs commands for the owner, reaps; ends when the owner hangs up.

use crate::error::{At, Error, Result};
use crate::link::{BRIDGE, HOST_END, Route};
use crate::spec::HostSpec;
use crate::wire::{Command as Wanted, FromAgent, ToAgent, receive, send};
use crate::{cgroup, root};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, set_parent_process_death_signal, wait,
    waitid,
};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The cgroup in which the agent stands, beneath the host's own.
pub(crate) const AGENT_GROUP: &str = "agent";
/// How often a reboot looks for processes that still live, a millisecond apart.
const REBOOT_ROUNDS_MAX: usize = 5_000;

/// Runs until the owner hangs up; everything else in the host's pid namespace dies with it.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let [text] = args else { return Err(Error::Usage) };
    set_parent_process_death_signal(Some(Signal::KILL)).at("Tying the agent to its door")?;
    let spec: HostSpec = serde_json::from_str(text).map_err(|error| Error::Message(error.to_string()))?;
    // Keep the control socket away from descriptor 0, which children inherit.
    let control =
        Arc::new(rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 10).at("Keeping the control socket")?);
    root::enter(&spec)?;
    let nothing = fs::File::open("/dev/null").at("Opening /dev/null")?;
    rustix::stdio::dup2_stdin(&nothing).at("Letting go of standard input")?;
    network(&spec)?;
    send(&*control, &FromAgent::Ready, &[])?;

    let children = Arc::new(Children::default());
    let reaper = (Arc::clone(&children), Arc::clone(&control));
    std::thread::spawn(move || reaper.0.reap(&reaper.1));
    while let Some((message, fds)) = receive::<ToAgent>(&*control)? {
        match message {
            ToAgent::Spawn(command) => children.spawn(&control, &command, fds)?,
            ToAgent::Kill { pid, signal } => {
                let done = kill(pid, signal).map_err(|error| error.to_string());
                send(&*control, &FromAgent::Done(done), &[])?;
            }
            ToAgent::Reboot => {
                let done = reboot().map_err(|error| error.to_string());
                send(&*control, &FromAgent::Done(done), &[])?;
            }
        }
    }
    Ok(())
}

fn network(spec: &HostSpec) -> Result<()> {
    let mut route = Route::open()?;
    route.set_up("lo", true)?;
    route.add_bridge(BRIDGE)?;
    route.plug(HOST_END, BRIDGE)?;
    route.set_up(HOST_END, true)?;
    route.add_address(BRIDGE, spec.address().into(), 24)
}

fn kill(pid: i32, signal: i32) -> Result<()> {
    let pid = Pid::from_raw(pid).ok_or(Error::Usage)?;
    let signal = Signal::from_named_raw(signal).ok_or(Error::Usage)?;
    kill_process(pid, signal).at("Sending a signal")
}

/// Everything but this process dies, memory-backed directories are emptied, cgroups go. /var/lib/ferry is the disk: it stays.
fn reboot() -> Result<()> {
    for _ in 0..REBOOT_ROUNDS_MAX {
        let mut others = 0;
        for entry in fs::read_dir("/proc").at("Listing processes")?.flatten() {
            let pid = entry.file_name().to_string_lossy().parse::<i32>().ok().and_then(Pid::from_raw);
            if let Some(pid) = pid.filter(|pid| *pid != Pid::INIT) {
                others += usize::from(kill_process(pid, Signal::KILL).is_ok());
            }
        }
        if others == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    for entry in fs::read_dir("/sys/fs/cgroup").at("Listing cgroups")?.flatten() {
        if entry.path().is_dir() && entry.file_name() != AGENT_GROUP {
            cgroup::remove(&entry.path());
        }
    }
    for entry in fs::read_dir(Path::new("/sys/fs/cgroup").join(AGENT_GROUP)).at("Listing cgroups")?.flatten()
    {
        if entry.path().is_dir() {
            cgroup::remove(&entry.path());
        }
    }
    root::reboot()
}

/// The agent's children. The lock keeps the reaper from taking a child that `spawn` is still speaking of.
#[derive(Default)]
struct Children {
    lock: Mutex<()>,
    more: Condvar,
}

impl Children {
    fn spawn(&self, control: &OwnedFd, wanted: &Wanted, fds: Vec<OwnedFd>) -> Result<()> {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let spawned = start(wanted, fds).map_err(|error| error.to_string());
        send(control, &FromAgent::Spawned(spawned), &[])?;
        self.more.notify_all();
        Ok(())
    }

    /// Waits for ends, for ever: of what was spawned, and of orphans.
    fn reap(&self, control: &OwnedFd) {
        loop {
            let peek = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(peek, Err(rustix::io::Errno::CHILD)) {
                // No child at all, so no orphan can come either, until the next spawn. A time-out covers a spawn between
                // the look and the lock.
                let pause = std::time::Duration::from_millis(20);
                drop(self.more.wait_timeout(guard, pause));
                continue;
            }
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                let ended = FromAgent::Ended { pid: pid.as_raw_nonzero().get(), status: status.as_raw() };
                let _ = send(control, &ended, &[]);
            }
        }
    }
}

fn start(wanted: &Wanted, fds: Vec<OwnedFd>) -> std::io::Result<i32> {
    let Ok([input, output, errors]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(std::io::Error::other("three descriptors are expected beside a command"));
    };
    let Some((program, args)) = wanted.argv.split_first() else {
        return Err(std::io::Error::other("an empty command line"));
    };
    let child = Command::new(program)
        .args(args)
        .env_clear()
        .envs(wanted.env.iter().cloned())
        .current_dir(&wanted.cwd)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(errors))
        .process_group(0)
        .spawn()?;
    Ok(i32::try_from(child.id()).unwrap_or_default())
}
