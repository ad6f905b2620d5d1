//! The keeper: lives in the lab's network namespace, starts the doors, and clears away when the owner is gone.

use crate::error::{At, Error, Result};
use crate::link::{BRIDGE, Route, switch_end};
use crate::spec::HostSpec;
use crate::wire::{FromKeeper, ToKeeper, receive, send};
use crate::{cgroup, leftovers};
use ferry_sys::unshare::{UnshareFlags, unshare};
use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the hosts may take to go before their doors are killed.
const HOSTS_END_MAX: Duration = Duration::from_secs(10);

/// Runs until the owner is gone. `args`: the lab's cgroup and its scratch directory.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let [cgroup, scratch] = args else { return Err(Error::Usage) };
    let mut keeper =
        Keeper { cgroup: cgroup.into(), scratch: scratch.into(), doors: Vec::new(), route: None };
    let result = keeper.serve();
    keeper.clear_away();
    result
}

struct Keeper {
    cgroup: PathBuf,
    scratch: PathBuf,
    doors: Vec<Child>,
    route: Option<Route>,
}

impl Keeper {
    fn serve(&mut self) -> Result<()> {
        // A session of its own: the terminal's Ctrl-C is for the owner, who tells us by hanging up.
        let _ = rustix::process::setsid();
        // What the owner's own starter left open is not for the hosts: a program there would hold the machine's files.
        ferry_sys::close_range::close_on_exec_from(3).at("Closing what was inherited")?;
        let owner = std::io::stdin();
        unshare(UnshareFlags::NEWNET).at("Making the lab's network namespace")?;
        let mut route = Route::open()?;
        route.set_up("lo", true)?;
        route.add_bridge(BRIDGE)?;
        self.route = Some(route);
        send(&owner, &FromKeeper::Done(None), &[])?;
        while let Some((message, fds)) = receive::<ToKeeper>(&owner)? {
            let answer = match self.answer(message, fds) {
                Ok(pid) => FromKeeper::Done(pid),
                Err(error) => FromKeeper::Failed(error.to_string()),
            };
            if send(&owner, &answer, &[]).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn answer(&mut self, message: ToKeeper, fds: Vec<OwnedFd>) -> Result<Option<i32>> {
        let route = self.route.as_mut().ok_or(Error::Usage)?;
        match message {
            ToKeeper::Host(spec) => return self.start_host(&spec, fds).map(Some),
            ToKeeper::Link { number, up } => route.set_up(&switch_end(number), up)?,
            ToKeeper::Rate { number, bytes_per_s } => route.limit(&switch_end(number), bytes_per_s)?,
        }
        Ok(None)
    }

    fn start_host(&mut self, spec: &HostSpec, mut fds: Vec<OwnedFd>) -> Result<i32> {
        let control = fds.pop().ok_or_else(|| Error::Message("the control socket is missing".into()))?;
        let spec = serde_json::to_string(spec).map_err(|error| Error::Message(error.to_string()))?;
        let exe = fs::read_link("/proc/self/exe").at("Finding the lab's own program")?;
        let door = Command::new("/proc/self/exe")
            .arg0(exe)
            .args(["lab-agent", "door", &spec])
            .stdin(Stdio::from(control))
            .stdout(Stdio::null())
            .spawn()
            .at("Starting a host")?;
        let pid = i32::try_from(door.id()).unwrap_or_default();
        self.doors.push(door);
        Ok(pid)
    }

    /// The agents have read end-of-file as well, so the doors end by themselves; whatever does not is killed.
    fn clear_away(&mut self) {
        let deadline = Instant::now() + HOSTS_END_MAX;
        for door in &mut self.doors {
            while matches!(door.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = door.kill();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        cgroup::remove(&self.cgroup);
        let _ = fs::remove_dir_all(&self.scratch);
        for left in leftovers::at(&self.cgroup, &self.scratch) {
            let _ = writeln!(std::io::stderr(), "lab: left behind: {left}");
        }
    }
}
