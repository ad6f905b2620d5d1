//! Becoming the workload at a target: capsule, puppets, and what makes them whole.

use super::protocol::Phase;
use super::spec::Spec;
use super::workload::{Workload, no_capsule, unable};
use ferry_model::error::{Error, Kind, Result};
use ferry_transfer::access::SpaceAccess;

/// Puppets that are not whole yet.
pub(super) struct Building;

impl Workload {
    pub(super) fn prepare(&mut self, spec: &Spec, state: &[u8], _as_clone: bool) -> Result<Vec<SpaceAccess>> {
        self.require(&[Phase::Empty], "be restored")?;
        if !state.is_empty() {
            return Err(Error::new(Kind::Refused, "This build cannot restore"));
        }
        // A cold move: the program is started by the first resume.
        self.new_record(spec.clone(), Phase::Building)?;
        if let Err(error) = self.make_capsule(spec).and_then(|()| self.set_network(false)) {
            self.discard();
            return Err(error);
        }
        Ok(Vec::new())
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        self.require(&[Phase::Building], "be finished")?;
        self.set_phase(Phase::Prepared)
    }

    /// Network up, announced, thawed. Repeatable.
    pub(super) fn resume(&mut self) -> Result<()> {
        if self.phase() == Phase::Running {
            return Ok(());
        }
        self.require(&[Phase::Prepared], "be resumed")?;
        self.set_network(true)?;
        let record = self.record.as_ref().ok_or_else(no_capsule)?;
        if record.first == 0 {
            let spec = record.spec.clone();
            return self.start_first(&spec);
        }
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        capsule.cgroup().thaw().map_err(|e| unable("The workload does not thaw", &e))?;
        self.set_phase(Phase::Running)
    }
}
