//! Standing still and going on, here: tasks, network, connections.

use super::protocol::Phase;
use super::workload::{FREEZE_TIME_MAX, LOOK_AGE_MAX, Workload, unable, words};
use ferry_model::error::{Error, Kind, Result};
use ferry_process::capture::files;

impl Workload {
    /// Freezes all tasks and locks the network. Where the workload `stays`, connections that it has closed have time to tell their peers
    /// so afterwards; otherwise they get it now.
    pub(super) fn freeze(&mut self, stays: bool) -> Result<()> {
        self.require(&[Phase::Running, Phase::Frozen], "be frozen")?;
        let stays = stays || self.ends_connections || self.phase() == Phase::Frozen;
        if !stays {
            self.wait_for_closed()?;
        }
        let fresh = self.looked.as_ref().is_some_and(|(_, at)| at.elapsed() < LOOK_AGE_MAX);
        if !fresh && self.phase() == Phase::Running {
            self.look()?;
        }
        // From here on it stands still for good, or the thaw gives it back its full speed.
        self.throttle = None;
        let cgroup = self.cgroup()?;
        let frozen = cgroup.freeze().and_then(|()| cgroup.wait_frozen(FREEZE_TIME_MAX));
        let frozen = frozen.map_err(|e| unable("The workload does not freeze", &e));
        // Not written down, which would wait for a disk in the pause: a shim that takes over sees it by the cgroup, and a host that starts
        // again has nothing left that is frozen.
        if let Some(record) = &mut self.record {
            record.phase = Phase::Frozen;
        }
        let told = frozen.and_then(|()| if stays { Ok(()) } else { self.wait_for_last_closed() });
        if let Err(error) = told.and_then(|()| self.lock_and_hold()) {
            self.thaw()?;
            return Err(error);
        }
        self.lock_connections();
        Ok(())
    }

    /// Back to running. Harmless when it runs.
    pub(super) fn thaw(&mut self) -> Result<()> {
        self.untrack();
        match self.phase() {
            Phase::Running | Phase::Exited => {
                self.holder = None;
                return Ok(());
            }
            Phase::Frozen => {}
            phase => {
                return Err(Error::new(
                    Kind::Refused,
                    format!("A workload that is {} cannot run on", words(phase)),
                ));
            }
        }
        // Before anything can come in: what a connection in repair mode is given is lost.
        self.end_repair()?;
        self.set_network(true)?;
        self.deliver_held();
        self.unlock_connections();
        self.ends_connections = false;
        self.looked = None;
        self.cgroup()?.thaw().map_err(|e| unable("The workload does not thaw", &e))?;
        self.set_phase(Phase::Running)
    }

    /// Takes connections out of repair mode that a capture, here or in a shim that died, put into it.
    pub(super) fn end_repair(&mut self) -> Result<()> {
        if let Some(mut held) = self.held.take() {
            held.resume();
            return Ok(());
        }
        if self.capsule.is_none() && self.adopted.is_none() {
            return Ok(());
        }
        let tasks = self.tasks()?;
        files::end_repair(&tasks)?;
        Ok(())
    }
}
