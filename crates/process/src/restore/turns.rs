//! Puppets take turns with their tracer: a batch here, a stop there, dozens of times. For that time all are on one processor.
//!
//! Threads that were bound to processors bind themselves with their last batch; the others are let go from outside, last of all.
//! Init, under which they are born, gets back what it had; if the tracer is killed before, init is left on one processor, and
//! goes with the tree that was not finished.

use super::Error;
use super::grow::Family;
use super::puppets::Puppets;
use crate::records::task::Task;
use ferry_sys::proc::status;
use ferry_sys::schedule::{self, Affinity, Stay};
use std::io;
use std::sync::OnceLock;

/// As long as it lives, this thread and all that it traces of a family are on one processor. Memory is not to be copied
/// meanwhile: whatever threads are made stay there too.
#[derive(Debug)]
pub(super) struct Turns(#[allow(dead_code)] Option<Stay>);

impl Turns {
    /// From now on. Who is born into the family stays with it.
    pub(super) fn begin(family: &Family) -> Self {
        if !may_set_affinity() {
            return Self(None);
        }
        let Ok(stay) = Stay::here() else { return Self(None) };
        let puppets = family.puppets.values().filter(|puppet| !puppet.dead);
        let threads =
            puppets.flat_map(|puppet| &puppet.threads).chain(family.host.as_ref().map(|host| &host.tracee));
        for tracee in threads {
            // One that may not come only takes longer.
            let _ = schedule::set_affinity(tracee.tid, stay.processor());
        }
        Self(Some(stay))
    }
}

/// Where a process may run: the mask to give it back, and the processors of this host that this comes to.
pub(super) fn home(pid: i32) -> io::Result<(Affinity, Affinity)> {
    let before = schedule::affinity(pid)?;
    if !may_set_affinity() {
        return Ok((before, before));
    }
    // One that was never bound is not to be bound to the processors of today.
    schedule::set_affinity(pid, &Affinity::ANYWHERE)?;
    if schedule::affinity(pid)? == before {
        return Ok((Affinity::ANYWHERE, before));
    }
    schedule::set_affinity(pid, &before)?;
    Ok((before, before))
}

/// Whether other users' threads may be told where to run: what was brought here must be let go again after it changed its user.
fn may_set_affinity() -> bool {
    const EFFECTIVE: usize = 2;
    const CAP_SYS_NICE: u64 = 23;
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        status::read("self").is_ok_and(|status| status.capabilities[EFFECTIVE] >> CAP_SYS_NICE & 1 == 1)
    })
}

impl Puppets {
    /// Lets the threads of a process go from the tracer's processor, but for those (by their own numbers) that have gone by themselves.
    ///
    /// # Errors
    /// When a thread would stay where only its tracer wanted it.
    pub(super) fn scatter(&self, task: &Task, gone: &[i32]) -> Result<(), Error> {
        if !may_set_affinity() {
            return Ok(());
        }
        let home = self.family.home;
        let threads = &self.family.puppets[&task.pid].threads;
        for tracee in threads.iter().filter(|tracee| !gone.contains(&tracee.ns_tid)) {
            let what = format!("let process {} run on all processors", task.pid);
            schedule::set_affinity(tracee.tid, &home).map_err(Error::host(what))?;
        }
        Ok(())
    }
}
