//! Warm moves, the source's side: the workload becomes an image on the source's disk, the image is copied, the target takes the workload
//! through the decider, as any restore does.
//!
//! While the copy travels nothing of the workload is in memory, at either side, and the image at the source is what can always
//! run again. If anything fails before the target has taken it, the source takes it back from that image; the decider sees to
//! it that only one of the two can. The image is removed when the workload is known to run at the target.

use super::link::{Heard, Link};
use super::node::Node;
use super::recorder::Recorder;
use super::request::Request;
use super::revive::{self, Job};
use super::suspend::{self, Checkpoint, For, warm_place};
use super::{planning, source};
use crate::imaging::workload::Image;
use crate::shim::Spec;
use ferry_image::Trust;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Cause, Phase};
use ferry_model::handover::entry::last_record;
use ferry_model::handover::{
    Answer, Body, Entry, Key, Message, Outcome, Purpose, Receipt, Record, Standing, Step, Terms,
};
use ferry_model::ids::{Epoch, Hash, HostName, MoveId, WorkloadId};
use ferry_model::plan::Plan;
use ferry_process::capsule::tree;
use ferry_transfer::wire::control;
use ferry_transfer::wire::greeting;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How long the target may take for one step, and be silent while it builds.
const STEP_MAX: Duration = Duration::from_secs(60);

/// How long one write of the image may block: then the link is gone.
const WRITE_MAX: Duration = Duration::from_secs(15);

/// How often somebody who does not answer is asked again.
const TICK: Duration = Duration::from_millis(500);

/// Threads that write and read memory.
pub(super) const THREADS: usize = 2;

/// A warm move, from the suspended workload on.
struct Warm {
    node: Arc<dyn Node>,
    recorder: Arc<Recorder>,
    link: Link,
    id: WorkloadId,
    mv: MoveId,
    to: HostName,
}

/// Moves a workload away by way of an image; returns when it is over.
pub(super) fn run(
    node: &Arc<dyn Node>,
    recorder: &Arc<Recorder>,
    mut link: Link,
    request: &Request,
) -> Result<Outcome> {
    if request.clone.is_some() {
        return Err(Error::new(Kind::Refused, "A clone is not made warm: its original goes on"));
    }
    recorder.phase(Phase::Plan);
    let mut shim = planning::shim(node, request.workload)?;
    let plan = planning::agree(node, &mut shim, &mut link, request)?.plan;
    recorder.phase(Phase::Prepare);
    let (_, secret) = planning::announce(&mut shim, &mut link, request, &plan)?;
    drop(shim);
    let epoch = source::own_epoch(node, &node.journal(request.workload)?, request.workload)?;
    let key = Key { id: request.workload, epoch, mv: request.id };
    let (to, id, mv) = (request.to.clone(), request.workload, request.id);
    let mut warm = Warm { node: node.clone(), recorder: recorder.clone(), link, id, mv, to: to.clone() };
    warm.offer(key, &plan)?;
    let place = warm_place(node, id);
    let _ = std::fs::remove_dir_all(&place);
    let checkpoint = Checkpoint { workload: id, dir: place, leave_running: false, threads: THREADS };
    let purpose = For { mv, to: Some(to), plan: &plan, recorder: Some(recorder.clone()) };
    let suspended = suspend::run(node, &checkpoint, &purpose, &Arc::default());
    let suspended = suspended
        .inspect_err(|error| drop(warm.link.send(&control::Message::Failed { error: error.clone() })))?;
    let copied = warm.copy(Key { epoch: epoch.next(), ..key }, suspended.image, secret);
    warm.end(copied)
}

impl Warm {
    /// Asks the target for a place; it answers by its policy and its room.
    fn offer(&mut self, key: Key, plan: &Plan) -> Result<()> {
        let terms = Terms {
            purpose: Purpose::Migrate,
            post_copy: false,
            plan: Hash::of(&minicbor::to_vec(plan).unwrap_or_default()),
            source_boot_id: self.node.boot_id(),
        };
        self.say(Message { key, body: Body::Offer { terms } })?;
        self.wait(key, |body| matches!(body, Body::Reserved).then_some(()))
    }

    fn say(&mut self, message: Message) -> Result<()> {
        let message = minicbor::to_vec(&message).unwrap_or_default().into();
        self.link.send(&control::Message::Handover { message }).map_err(|e| planning::link_error(&e))
    }

    /// Waits for a message of the handover. The target's events are noted on the way, and are a sign of life.
    fn wait<T>(&mut self, key: Key, wanted: impl Fn(&Body) -> Option<T>) -> Result<T> {
        loop {
            match self.link.expect(STEP_MAX).map_err(|e| planning::link_error(&e))? {
                control::Message::Handover { message } => {
                    let Ok(message) = minicbor::decode::<Message>(&message) else { continue };
                    if message.key != key {
                        continue;
                    }
                    if let Some(found) = wanted(&message.body) {
                        return Ok(found);
                    }
                    if let Body::Discarded { reason } | Body::Refused { reason } = message.body {
                        return Err(Error::new(Kind::RolledBack, format!("{} gave up: {reason}", self.to)));
                    }
                }
                control::Message::Event { event } => self.recorder.note(event.what),
                _ => {}
            }
        }
    }

    /// Sends the image and waits until the target says what became of it.
    fn copy(&mut self, key: Key, image: Hash, secret: [u8; 32]) -> Result<Body> {
        self.recorder.phase(Phase::State);
        let began = Instant::now();
        let purpose = greeting::Purpose::Pages { mv: self.mv, secret, index: 0 };
        let sent = self.node.connect(&self.to, purpose).and_then(|mut stream| {
            stream.set_timeout(Some(WRITE_MAX))?;
            let image = File::open(warm_place(&self.node, self.id))?;
            tree::pack(&image, &mut stream, &tree::Limits::default()).map_err(std::io::Error::other)?;
            stream.flush()
        });
        sent.map_err(|e| planning::link_error(&e).context("The image did not get across"))?;
        self.recorder.spent(Cause::Files, began);
        let receipt = Receipt { hash: image, missing_pages: 0, missing: None };
        self.say(Message { key, body: Body::State { receipt } })?;
        self.wait(key, |body| match body {
            Body::Running => Some(Body::Running),
            Body::Died => Some(Body::Died),
            _ => None,
        })
    }

    /// Until it is known where the workload runs.
    fn end(&mut self, copied: Result<Body>) -> Result<Outcome> {
        let failure = match copied {
            Ok(body) => return self.gone(&body),
            Err(failure) => failure,
        };
        self.recorder
            .say(format!("{failure}; it is taken back from its image, if {} has not won it", self.to));
        let mut told = false;
        loop {
            match self.record() {
                Some(record) if record.owner == self.to && record.standing == Standing::Running => {
                    // It is there; only whether it could start is not known yet. It will say, or give it back.
                    let key = Key { id: self.id, epoch: before(&record), mv: self.mv };
                    match self.inquire(key) {
                        Some(body @ (Body::Running | Body::Died)) => return self.gone(&body),
                        _ if !told => {
                            told = true;
                            self.recorder
                                .say(format!("{} has won it, and does not say yet whether it runs", self.to));
                        }
                        _ => {}
                    }
                }
                Some(record) if matches!(record.standing, Standing::Suspended(_)) => {
                    if let Some(ended) = self.take_back(&record, &failure) {
                        return ended;
                    }
                }
                Some(record) if record.owner == self.node.host() => return Err(self.rolled_back(failure)),
                Some(record) => {
                    self.remove_image();
                    return Err(Error::new(
                        Kind::Remainder,
                        format!("It belongs to {} meanwhile", record.owner),
                    ));
                }
                None => {}
            }
            std::thread::sleep(TICK);
        }
    }

    /// It runs at the target, or did: nothing of it stays here.
    fn gone(&mut self, body: &Body) -> Result<Outcome> {
        self.recorder.phase(Phase::Resume);
        self.recorder.phase(Phase::Finish);
        self.node.departed(self.id, Some(&self.to));
        self.remove_image();
        let _ = self.link.send(&control::Message::Bye);
        match body {
            Body::Died => {
                Err(Error::new(Kind::Unable, format!("It was started on {} and has ended", self.to)))
            }
            _ => Ok(Outcome::Moved),
        }
    }

    fn remove_image(&self) {
        if let Err(error) = std::fs::remove_dir_all(warm_place(&self.node, self.id)) {
            self.recorder.say(format!("The image could not be removed: {error}"));
        }
    }

    /// `None`: somebody else has taken it in the same moment, or nobody answered; look again.
    fn take_back(&mut self, record: &Record, failure: &Error) -> Option<Result<Outcome>> {
        let place = warm_place(&self.node, self.id);
        let still = |error: Error| {
            let hint = format!("ferry restore {}", place.display());
            Error { kind: Kind::NotFinal, ..error }
                .context(format!(
                    "It is suspended on {}, and its image could not be restored",
                    self.node.host()
                ))
                .hint(hint)
        };
        let trust = Trust { any: true, ..Trust::default() };
        let image = match Image::open(&place, &trust) {
            Ok(Some(image)) if Standing::Suspended(image.hash()) == record.standing => image,
            Ok(_) => return Some(Err(still(Error::new(Kind::Refused, "The image is another one")))),
            Err(error) => return Some(Err(still(error))),
        };
        let key = Key { id: self.id, epoch: record.epoch, mv: self.mv };
        let spec: Spec = image.about.spec.clone();
        let owner = record.owner.clone();
        let job = Job { key, owner, spec, as_clone: false, threads: THREADS, missing: Vec::new() };
        let doubt = Arc::new(AtomicBool::new(false));
        match job.run(&self.node, &image, &doubt) {
            Ok(_) => Some(Err(self.rolled_back(failure.clone()))),
            Err(error) => {
                // Its own word counts, not the error's: who has it now?
                let moved_on = self.record().is_none_or(|now| now.epoch != record.epoch);
                (!moved_on).then(|| Err(still(error)))
            }
        }
    }

    fn rolled_back(&self, failure: Error) -> Error {
        self.recorder.phase(Phase::Finish);
        self.remove_image();
        let kind = if failure.kind == Kind::Refused { Kind::Refused } else { Kind::RolledBack };
        let host = self.node.host();
        Error { kind, ..failure }
            .context(format!("{} did not take it; it runs on {host}, from its image", self.to))
    }

    /// Who has it: this host's own journal, and whoever that names.
    fn record(&self) -> Option<Record> {
        match self.node.registry().read(self.id) {
            Answer::Won(record) | Answer::Is(record) => Some(record),
            Answer::Refused(_) | Answer::Unknown => None,
        }
    }

    /// Asks the target's journal what became of its restore.
    fn inquire(&self, key: Key) -> Option<Body> {
        let purpose = greeting::Purpose::Handover { workload: self.id, mv: self.mv };
        let mut link = self.node.connect(&self.to, purpose).and_then(Link::new).ok()?;
        let message = minicbor::to_vec(Message { key, body: Body::Ask }).ok()?.into();
        link.send(&control::Message::Handover { message }).ok()?;
        match link.hear(Duration::from_secs(2)) {
            Heard::Message(control::Message::Handover { message }) => {
                let message: Message = minicbor::decode(&message).ok()?;
                (message.key == key).then_some(message.body)
            }
            _ => None,
        }
    }
}

/// The epoch that was expected by the change that made this record.
fn before(record: &Record) -> Epoch {
    Epoch(record.epoch.0.saturating_sub(1))
}

/// The target of a warm move from here whose image is still there, with the move's key.
pub(super) fn unfinished(node: &Arc<dyn Node>, id: WorkloadId, entries: &[Entry]) -> Option<(Key, HostName)> {
    if !warm_place(node, id).exists() {
        return None;
    }
    entries.iter().rev().find_map(|entry| match entry {
        Entry::Step { key, step: Step::Checkpointing { to: Some(to), .. }, .. } => Some((*key, to.clone())),
        _ => None,
    })
}

/// Takes a warm move up again after the node was restarted: what was begun is ended first, then the decider says who has it.
pub(super) fn recover(
    node: &Arc<dyn Node>,
    recorder: &Arc<Recorder>,
    link: Link,
    (key, to): (Key, HostName),
) -> Result<Outcome> {
    if suspend::recover(node, key)?.is_some_and(|outcome| outcome != Outcome::Suspended) {
        let _ = std::fs::remove_dir_all(warm_place(node, key.id));
        return Err(Error::new(
            Kind::RolledBack,
            "The node restarted before the image was whole; it runs on",
        ));
    }
    let journal = node.journal(key.id)?;
    let entries = journal.lock().unwrap_or_else(PoisonError::into_inner).entries().to_vec();
    if let Some(epoch) = last_record(&entries).map(|record| record.epoch) {
        // A restore of its own that the restart interrupted, before or after it was won.
        for epoch in [Epoch(epoch.0.saturating_sub(1)), epoch] {
            revive::recover(node, Key { epoch, ..key })?;
        }
    }
    let mut warm = Warm { node: node.clone(), recorder: recorder.clone(), link, id: key.id, mv: key.mv, to };
    warm.end(Err(Error::new(Kind::RolledBack, "The source's node restarted")))
}
