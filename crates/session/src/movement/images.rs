//! Checkpoints, restores and warm moves as a node asks for them, and as it takes them up again after a restart.

use super::link::Link;
use super::recorder::Recorder;
use super::registry::{Move, Movements, Role, Standing, now_unix, spawn};
use super::{Checkpoint, Restoration, Restored, alone, revive, suspend, warm};
use ferry_model::api::CheckpointReport;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::handover::{Key, Step};
use ferry_model::ids::{HostName, MoveId, WorkloadId};
use ferry_model::planning::Method;
use ferry_sys::say::say;
use std::sync::Arc;

impl Movements {
    /// Takes up a checkpoint or a restore that is not over. `None`: the steps are of a move. Nobody else takes part, so there is
    /// nothing to be listed or cancelled.
    pub(super) fn recover_alone(&self, key: Key, steps: &[&Step]) -> Option<Result<Option<MoveId>>> {
        let recover = match steps.first() {
            Some(Step::Checkpointing { .. }) => suspend::recover,
            Some(Step::Taking { .. } | Step::Starting | Step::Discarded { .. }) => revive::recover,
            _ => return None,
        };
        if steps.iter().any(|step| matches!(step, Step::Running | Step::Died)) {
            return Some(self.sweep(key.id));
        }
        let this = self.clone();
        let spawned = spawn(move || {
            if let Err(error) = recover(&this.node, key) {
                // Its journal still says so; the next start of the node tries again.
                say(format_args!("{} is not recovered: {error}", key.id));
            }
        });
        Some(spawned.map(|()| Some(key.mv)))
    }

    /// Removes what a restore that had not asked the decider left when its node died.
    pub(super) fn sweep(&self, workload: WorkloadId) -> Result<Option<MoveId>> {
        revive::sweep(&self.node, workload).map(|_| None)
    }

    /// Takes a warm move up again.
    pub(super) fn recover_warm(&self, workload: WorkloadId, (key, to): (Key, HostName)) -> Result<MoveId> {
        let (recorder, link) = (Arc::new(Recorder::default()), Link::unconnected());
        recorder.say("Taken up again from the journal");
        let entry = Move {
            id: key.mv,
            workload,
            name: String::new(),
            peer: to.clone(),
            role: Role::Source,
            clone: false,
            method: Method::Warm,
            began_unix: now_unix(),
            standing: Standing::Running,
            recorder: recorder.clone(),
        };
        self.keep(entry, link.sender(), None);
        let this = self.clone();
        spawn(move || {
            let ended = warm::recover(&this.node, &recorder, link, (key, to));
            this.end(key.mv, ended);
        })?;
        Ok(key.mv)
    }

    /// Writes a workload of this host into an image.
    ///
    /// # Errors
    /// `Refused` by name, `RolledBack` where it failed and runs on, `NotFinal` where the decider does not answer.
    pub fn checkpoint(&self, request: Checkpoint) -> Result<CheckpointReport> {
        self.refuse_busy(request.workload)?;
        let this = self.clone();
        alone::patiently(request.workload, move |doubt| {
            let plan = suspend::no_plan(&this.node.host(), request.workload);
            let purpose = suspend::For { mv: new_move()?, to: None, plan: &plan, recorder: None };
            suspend::run(&this.node, &request, &purpose, doubt)
        })
    }

    /// Restores a workload from its image, or a clone of it.
    ///
    /// # Errors
    /// `Refused` by name, `NotFinal` where the decider does not answer; else nothing of it is left here.
    pub fn restore(&self, id: WorkloadId, request: Restoration) -> Result<Restored> {
        self.refuse_busy(id)?;
        let this = self.clone();
        alone::patiently(id, move |doubt| revive::run(&this.node, new_move()?, &request, doubt))
    }
}

fn new_move() -> Result<MoveId> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| Error::new(Kind::Unable, e.to_string()))?;
    Ok(MoveId(id))
}
