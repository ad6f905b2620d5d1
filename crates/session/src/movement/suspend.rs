//! A checkpoint of a workload in a capsule: frozen and captured by its shim, written by this process, and, unless it is to go on,
//! suspended through the decider before its copy is destroyed.
//!
//! One that goes on is a checkpoint that is given up after the capture: the same journal entries bring it back to running,
//! whatever crashes. Its image gets its name only when that is over.

use super::alone::{self, Alone};
use super::node::Node;
use super::recorder::Recorder;
use super::{files, planning};
use crate::handover::{Act, Driver, Stopped, World};
use crate::imaging::workload::{About, Image, Making};
use crate::shim::protocol::Phase as ShimPhase;
use crate::shim::{Client, Spec};
use ferry_image::Trust;
use ferry_model::api::CheckpointReport;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::Phase;
use ferry_model::handover::entry::checkpoint_of;
use ferry_model::handover::{Answer, Cas, Entry, Input, Key, Message, Outcome, Receipt, Suspend};
use ferry_model::ids::{Hash, HostName, MoveId, WorkloadId};
use ferry_model::plan::{Plan, Resource};
use ferry_model::planning::UNDECLARED;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Longest path of an image, bytes: it stands in the journal.
const PLACE_BYTES_MAX: usize = 2048;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What.
    pub workload: WorkloadId,
    /// Where the image will be, an absolute path; it must not exist.
    pub dir: PathBuf,
    /// The workload goes on afterwards; otherwise the image is the workload from then on.
    pub leave_running: bool,
    /// Threads that copy memory.
    pub threads: usize,
}

/// Files that go into the image besides what the workload wrote, and for whom it is.
pub(super) struct For<'a> {
    /// The move that makes it, or a fresh id.
    pub mv: MoveId,
    /// The target of a warm move.
    pub to: Option<HostName>,
    /// What the target lacks.
    pub plan: &'a Plan,
    /// Told of the phases.
    pub recorder: Option<Arc<Recorder>>,
}

/// The role.
pub(super) struct SuspendRole {
    alone: Alone,
    place: PathBuf,
    making: Option<Making>,
    stage: Option<files::Stage>,
    spec: Spec,
    resources: Vec<Resource>,
    leave_running: bool,
    failure: Option<Error>,
    frozen: Option<Instant>,
    recorder: Option<Arc<Recorder>>,
    report: CheckpointReport,
}

impl AsRef<Alone> for SuspendRole {
    fn as_ref(&self) -> &Alone {
        &self.alone
    }
}

/// Makes a checkpoint.
pub(super) fn run(
    node: &Arc<dyn Node>,
    request: &Checkpoint,
    purpose: &For<'_>,
    doubt: &Arc<AtomicBool>,
) -> Result<CheckpointReport> {
    let began = Instant::now();
    let place = request.dir.to_str().filter(|place| place.len() <= PLACE_BYTES_MAX && place.starts_with('/'));
    let place = place.ok_or_else(|| {
        Error::new(
            Kind::Usage,
            "The image's directory must be an absolute path of at most 2048 bytes, in UTF-8",
        )
    })?;
    let key = Key {
        id: request.workload,
        epoch: super::source::own_epoch(node, &node.journal(request.workload)?, request.workload)?,
        mv: purpose.mv,
    };
    let mut role = prepare(node, request, purpose, key, doubt)?;
    {
        let mut journal = role.alone.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        journal.reserve().map_err(|e| Error::from_source(Kind::Unable, &e))?;
    }
    let parties = role.alone.parties(&node.host());
    let begun = Suspend::begin(key, parties, place, purpose.to.clone());
    let ended = Driver::start(begun, &mut role).and_then(|mut driver| alone::settle(&mut driver, &mut role));
    let outcome = ended.map_err(|e| super::ground::stopped(&e))?;
    role.report.total_us = micros(began);
    match (outcome, role.failure.take()) {
        (Outcome::Suspended, _) => Ok(role.report),
        (Outcome::Aborted, None) if role.leave_running => {
            // It runs again. What is still to be done does not touch it.
            role.publish().map_err(|error| error.context("It runs on, and there is no image"))?;
            role.report.total_us = micros(began);
            Ok(role.report)
        }
        (Outcome::Aborted, failure) => {
            role.leave_no_image();
            let mut error =
                failure.unwrap_or_else(|| Error::new(Kind::RolledBack, "The checkpoint was given up"));
            if error.kind == Kind::Unable {
                error.kind = Kind::RolledBack;
            }
            Err(error.context(format!("{} runs on, and there is no image", role.spec.name)))
        }
        (_, failure) => {
            let ended = || Error::new(Kind::Unable, "The workload ended while it was being saved");
            Err(failure.unwrap_or_else(ended))
        }
    }
}

/// Everything that can be refused or fail before the workload stands still.
fn prepare(
    node: &Arc<dyn Node>,
    request: &Checkpoint,
    purpose: &For<'_>,
    key: Key,
    doubt: &Arc<AtomicBool>,
) -> Result<SuspendRole> {
    let mut alone = Alone::new(node, key, doubt)?;
    let status = alone.ask(Client::status)?;
    let spec = status.spec.ok_or_else(|| Error::new(Kind::Bug, "The shim has no workload"))?;
    if status.adopted {
        let what =
            format!("{} was adopted: it lives in no capsule that an image could be made of", spec.name);
        let pid = status.pid.unwrap_or_default();
        return Err(Error::new(Kind::Refused, what).hint(format!(
            "move it with --method stop-and-copy, or save its tree: ferry checkpoint {pid} DIR"
        )));
    }
    let init = status.init.filter(|_| status.phase == ShimPhase::Running);
    let init = init.ok_or_else(|| Error::new(Kind::Refused, format!("{} does not run here", spec.name)))?;
    let resources = alone.ask(|shim| shim.inspect(&[]))?;
    refuse_unsupported(&resources)?;
    let mut making = Making::begin(&request.dir, &node.state(), request.threads)?;
    let root = PathBuf::from(format!("/proc/{init}/root"));
    let mut stage = files::Stage::new(&node.directory(key.id), root, &spec, purpose.plan, false);
    making.steady(|to| {
        stage.send_round(to)?;
        while stage.is_worth_another() {
            stage.send_round(to)?;
        }
        Ok(())
    })?;
    Ok(SuspendRole {
        alone,
        place: request.dir.clone(),
        making: Some(making),
        stage: Some(stage),
        spec,
        resources,
        leave_running: request.leave_running,
        failure: None,
        frozen: None,
        recorder: purpose.recorder.clone(),
        report: CheckpointReport::default(),
    })
}

/// What cannot be saved is refused by name, before anything is touched.
fn refuse_unsupported(resources: &[Resource]) -> Result<()> {
    // Directories of the host stay where they are, for a restore on this host; one elsewhere looks whether they are there too.
    let moving = resources.iter().filter(|resource| resource.sort != UNDECLARED);
    let mut blockers = moving.filter_map(|resource| resource.unsupported.as_ref());
    let Some(first) = blockers.next() else { return Ok(()) };
    let mut error = Error::new(Kind::Refused, first.what.clone()).hint(first.lifted_by.clone());
    error.causes = blockers.map(|blocker| blocker.what.clone()).collect();
    Err(error)
}

impl SuspendRole {
    fn take(&mut self) -> Result<Input> {
        self.frozen = Some(Instant::now());
        self.phase(Phase::Freeze);
        self.alone.ask(if self.leave_running { Client::freeze_for_a_while } else { Client::freeze })?;
        let init = self.alone.ask(Client::status)?.init;
        let init = init.ok_or_else(|| Error::new(Kind::Unable, "The capsule is gone"))?;
        let (state, spaces) = self.alone.ask(Client::capture)?;
        self.phase(Phase::State);
        let bug = || Error::new(Kind::Bug, "It was captured twice");
        let (making, stage) = (self.making.as_mut().ok_or_else(bug)?, self.stage.as_mut().ok_or_else(bug)?);
        let node = &self.alone.node;
        let (spec, resources, report) = (&self.spec, &self.resources, &mut self.report);
        let about = |envelope: &crate::shim::envelope::Envelope| {
            report.processes = envelope.state.tasks.len();
            report.threads = envelope.state.tasks.iter().map(|task| task.threads.len()).sum();
            About {
                spec: spec.clone(),
                first: envelope.first,
                exit: envelope.exit,
                network: envelope.network.clone(),
                typed: envelope.typed.clone(),
                host: node.host(),
                facts: node.facts(),
                resources: resources.clone(),
            }
        };
        // Suspended, it is under the next epoch.
        let ends = !self.leave_running;
        let epoch = if ends { self.alone.key.epoch.next() } else { self.alone.key.epoch };
        making.capture((&state, spaces), init, about, (epoch, ends))?;
        making.last(|to| stage.send_last(to))?;
        if self.leave_running {
            return Ok(Input::Cancel("Its image is taken, and it was to go on".into()));
        }
        self.publish()?;
        self.report.frozen_us = self.frozen.map_or(0, micros);
        Ok(Input::Sent(Receipt { hash: self.report.image, missing_pages: 0, missing: None }))
    }

    fn phase(&self, phase: Phase) {
        if let Some(recorder) = &self.recorder {
            recorder.phase(phase);
        }
    }

    fn publish(&mut self) -> Result<()> {
        let making = self.making.take().ok_or_else(|| Error::new(Kind::Bug, "It was written twice"))?;
        let (manifest, memory) = making.finish()?;
        self.report.image = manifest.hash();
        (self.report.memory_bytes, self.report.zero_bytes) = (memory.bytes, memory.zero_bytes);
        Ok(())
    }

    /// Removes an image that says that its workload ended, when that runs.
    fn leave_no_image(&mut self) {
        self.making = None;
        let trust = Trust::load(&self.alone.node.state(), false).unwrap_or_default();
        let ours = Image::open(&self.place, &trust).ok().flatten().is_some_and(|image| {
            let manifest = image.manifest();
            manifest.ends && manifest.workload.id == self.alone.key.id
        });
        if ours {
            let _ = std::fs::remove_dir_all(&self.place);
        }
    }
}

impl World for SuspendRole {
    fn journal(&mut self, entry: &Entry) -> Result<(), Stopped> {
        self.alone.append(entry)
    }

    fn send(&mut self, _: Message) {}

    fn act(&mut self, act: Act) -> Option<Input> {
        match act {
            Act::Freeze => Some(self.take().unwrap_or_else(|error| {
                let reason = error.to_string();
                self.failure.get_or_insert(error);
                Input::Cancel(reason)
            })),
            Act::Thaw => {
                self.alone.ask(Client::thaw).ok()?;
                if self.report.frozen_us == 0 {
                    self.report.frozen_us = self.frozen.map_or(0, micros);
                }
                Some(Input::Thawed)
            }
            Act::Destroy => {
                self.alone.forget_shim();
                files::destroy(&self.alone.node, self.alone.key.id).ok()?;
                self.alone.node.suspended(self.alone.key.id, &self.place);
                Some(Input::Destroyed)
            }
            Act::Restore | Act::Check | Act::Serve | Act::Hold => None,
        }
    }

    fn cas(&mut self, cas: &Cas) -> Answer {
        self.alone.cas(cas)
    }

    fn read(&mut self, id: WorkloadId) -> Answer {
        self.alone.read(id)
    }

    fn copy_exists(&mut self) -> bool {
        self.alone.alive()
    }
}

/// Takes a checkpoint up again after the node was restarted. None: the journal knows none of this key.
pub(super) fn recover(node: &Arc<dyn Node>, key: Key) -> Result<Option<Outcome>> {
    let alone = Alone::new(node, key, &Arc::default())?;
    let entries = alone.entries();
    let Some((place, _)) = checkpoint_of(&entries, key) else { return Ok(None) };
    let place = PathBuf::from(place);
    let copy = planning::is_alive(node, key.id);
    let Some(recovered) = Suspend::recover(&entries, key, &node.host(), node.boot_id(), copy) else {
        return Ok(None);
    };
    let report = CheckpointReport::default();
    let (spec, resources, failure) = (Spec::default(), Vec::new(), None);
    let mut role = SuspendRole {
        alone,
        place,
        making: None,
        stage: None,
        spec,
        resources,
        leave_running: false,
        failure,
        frozen: None,
        recorder: None,
        report,
    };
    let ended =
        Driver::start(recovered, &mut role).and_then(|mut driver| alone::settle(&mut driver, &mut role));
    let outcome = ended.map_err(|e| super::ground::stopped(&e))?;
    if outcome == Outcome::Aborted {
        role.leave_no_image();
    }
    Ok(Some(outcome))
}

/// A plan that moves nothing: for an image of which nobody knows yet where it goes.
pub(super) fn no_plan(host: &HostName, workload: WorkloadId) -> Plan {
    Plan {
        workload,
        source: host.clone(),
        target: host.clone(),
        items: Vec::new(),
        blockers: Vec::new(),
        exceptions: Vec::new(),
        facts: Hash([0; 32]),
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Where a warm move keeps its image, at its source, until the target has it running.
pub(super) fn warm_place(node: &Arc<dyn Node>, id: WorkloadId) -> PathBuf {
    node.directory(id).join(super::WARM_IMAGE)
}
