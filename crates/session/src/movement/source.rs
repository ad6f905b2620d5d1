//! The source's role: plan, prepare, freeze, state, and then whatever the handover says.
//!
//! Until the handover decides, every failure, time-out and cancel ends in the same place: the workload runs here, and the target has
//! been told to throw away what it made.

use super::captured::Captured;
use super::estimate::Watched;
use super::ground::{self, Ground, Role, settle, stopped};
use super::link::Link;
use super::live::{Live, Tracking};
use super::node::Node;
use super::packets::Stragglers;
use super::pause::Pause;
use super::planning::{self, Agreed};
use super::recorder::Recorder;
use super::request::Request;
use super::rounds::SentBeside;
use super::serving::{Serving, Ways};
use super::{files, receipt};
use crate::handover::{Act, Driver, Stopped, World};
use crate::shim::{Client, Spec};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Cause, Phase, What};
use ferry_model::handover::entry::last_record;
use ferry_model::handover::{Answer, Body, Cas, Entry, Input, Key, Message, Outcome, Purpose, Source, Terms};
use ferry_model::ids::{Epoch, Hash, WorkloadId};
use ferry_model::plan::Plan;
use ferry_model::planning::Method;
use ferry_transfer::access::SpaceAccess;
use ferry_transfer::wire::control::{self, Bulk};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// The role.
pub(super) struct SourceRole {
    pub(super) ground: Ground,
    pub(super) shim: Option<Client>,
    pub(super) directory: PathBuf,
    workload: WorkloadId,
    pub(super) clone: bool,
    pub(super) cold: bool,
    pub(super) captured: Option<Captured>,
    /// It lives in a capsule; and what is in its memory file systems is sent from here.
    pub(super) capsule: bool,
    pub(super) staged: bool,
    /// A pre-copy that has begun.
    pub(super) live: Option<Live>,
    /// Pages may be left behind, if the move comes to that.
    pub(super) may_follow: bool,
    /// Pages will be left behind: the streams for them are open, and may carry so many bytes a second of what nobody waits for.
    pub(super) ways: Option<(Ways, Option<u64>)>,
    /// Pages were left behind.
    pub(super) serving: Option<Serving>,
    pub(super) stragglers: Stragglers,
    /// What tracks memory that has all been sent: ended when the pause is over, because that takes as long as memory is large.
    pub(super) tracking: Option<Tracking>,
    /// What looked at it to choose a method: the rounds go on with it.
    pub(super) watched: Vec<Watched>,
    /// Its files, from the freeze on until all are sent; and what was sent beside memory.
    pub(super) stage: Option<files::Stage>,
    pub(super) sent_beside: Option<SentBeside>,
    /// The target has said that its puppets are as captured.
    pub(super) ready: bool,
    /// Pages that the target has of an earlier visit, until it was asked which.
    pub(super) target_holds: u64,
    /// Where its memory is, for what this host keeps of it.
    pub(super) left: Vec<SpaceAccess>,
    /// It stands still.
    pub(super) pause: Option<Pause>,
    /// What made it give up first; later reasons follow from it.
    failure: Option<Error>,
    committing: Option<Instant>,
}

/// Moves a workload away; returns when it is over.
pub(super) fn run(
    node: &Arc<dyn Node>,
    recorder: &Arc<Recorder>,
    link: Link,
    request: &Request,
) -> Result<Outcome> {
    let directory = node.directory(request.workload);
    let journal = node.journal(request.workload)?;
    let epoch = match &request.clone {
        Some(_) => Epoch(0),
        None => own_epoch(node, &journal, request.workload)?,
    };
    let id = request.clone.as_ref().map_or(request.workload, |clone| clone.id);
    let key = Key { id, epoch, mv: request.id };
    let ground = Ground {
        node: node.clone(),
        recorder: recorder.clone(),
        link,
        journal,
        key,
        peer: request.to.clone(),
    };
    let mut role = SourceRole {
        ground,
        shim: Some(planning::shim(node, request.workload)?),
        directory,
        workload: request.workload,
        clone: request.clone.is_some(),
        cold: request.method == Method::Cold,
        captured: None,
        capsule: false,
        staged: false,
        live: None,
        may_follow: false,
        ways: None,
        serving: None,
        stragglers: Stragglers::default(),
        tracking: None,
        watched: Vec::new(),
        stage: None,
        sent_beside: None,
        ready: false,
        target_holds: 0,
        left: Vec::new(),
        pause: None,
        failure: None,
        committing: None,
    };
    role.run(request)
}

/// The epoch under which this host owns the workload.
pub(super) fn own_epoch(
    node: &Arc<dyn Node>,
    journal: &crate::journal::Shared,
    id: WorkloadId,
) -> Result<Epoch> {
    let journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
    match last_record(journal.entries()) {
        Some(record) if record.id == id && record.owner == node.host() => Ok(record.epoch),
        Some(record) => Err(Error::new(Kind::Usage, format!("{id} belongs to {}", record.owner))),
        None => Err(Error::new(Kind::Usage, format!("{id} is not known on {}", node.host()))),
    }
}

impl SourceRole {
    fn run(&mut self, request: &Request) -> Result<Outcome> {
        self.ground.recorder.phase(Phase::Plan);
        let node = self.ground.node.clone();
        let shim = self.shim.as_mut().ok_or_else(|| Error::new(Kind::Bug, "No shim"))?;
        let Agreed { plan, follows } = planning::agree(&node, shim, &mut self.ground.link, request)?;
        self.may_follow = follows && request.may_follow();

        self.ground.recorder.phase(Phase::Prepare);
        let shim = self.shim.as_mut().ok_or_else(|| Error::new(Kind::Bug, "No shim"))?;
        let (spec, secret) = planning::announce(shim, &mut self.ground.link, request, &plan)?;
        let terms = Terms {
            purpose: if self.clone { Purpose::Clone } else { Purpose::Migrate },
            post_copy: self.may_follow,
            plan: Hash::of(&minicbor::to_vec(&plan).unwrap_or_default()),
            source_boot_id: self.ground.node.boot_id(),
        };
        let offer = Source::offer(self.ground.key, self.ground.parties(), terms);
        let mut driver = Driver::start(offer, self).map_err(|e| stopped(&e))?;
        let over = settle(&mut driver, self, Source::is_reserved).map_err(|e| stopped(&e))?;
        let over = match over {
            Some(outcome) => Some(outcome),
            None => match self.transfer(&mut driver, request, &plan, &spec, secret) {
                Ok(()) => None,
                Err(error) => {
                    let reason = error.to_string();
                    self.failure.get_or_insert(error);
                    driver.feed(Input::Cancel(reason), self).map_err(|e| stopped(&e))?;
                    None
                }
            },
        };
        let outcome = match over {
            Some(outcome) => outcome,
            None => {
                settle(&mut driver, self, |_| false).map_err(|e| stopped(&e))?.unwrap_or(Outcome::Aborted)
            }
        };
        let _ = self.ground.link.send(&control::Message::Bye);
        self.conclude(outcome)
    }

    fn conclude(&mut self, outcome: Outcome) -> Result<Outcome> {
        match outcome {
            Outcome::Moved => Ok(outcome),
            Outcome::Aborted | Outcome::HandedBack => {
                let what = match outcome {
                    Outcome::HandedBack => "could not start it and handed it back",
                    _ => "did not take it",
                };
                let message = format!("{} {what}; it runs on {}", self.ground.peer, self.ground.node.host());
                Err(match self.failure.take() {
                    Some(mut cause) => {
                        let kind = if cause.kind == Kind::Refused { Kind::Refused } else { Kind::RolledBack };
                        cause.kind = kind;
                        cause.context(message)
                    }
                    None => Error::new(Kind::RolledBack, message),
                })
            }
            Outcome::Died if self.ground.recorder.exit().is_some() => Ok(outcome),
            Outcome::Died => Err(Error::new(Kind::Unable, "The workload ended during the move")),
            Outcome::Lost | Outcome::Suspended => {
                Err(Error::new(Kind::NotFinal, "No whole copy of the workload is left that can be reached")
                    .hint("ferry recover shows what both sides know"))
            }
        }
    }

    /// Everything between RESERVED and the receipt.
    fn transfer(
        &mut self,
        driver: &mut Driver<Source>,
        request: &Request,
        plan: &Plan,
        spec: &Spec,
        secret: [u8; 32],
    ) -> Result<()> {
        let mut hashes = Vec::new();
        let status = self.shim()?.status()?;
        self.capsule = !status.adopted;
        // An adopted tree has no capsule: its root is the host's, as its first process sees it.
        let member = if status.adopted { status.pid } else { status.init };
        let member = member.ok_or_else(|| Error::new(Kind::Unable, "The capsule is gone"))?;
        let root = PathBuf::from(format!("/proc/{member}/root"));
        let mut stage = files::Stage::new(&self.directory, root, spec, plan, status.adopted);
        if request.end_connections {
            self.shim()?.end_connections()?;
        }
        while stage.is_worth_another() {
            let hash = self.bulk(Bulk::Files, |to| stage.send_round(to))?;
            self.wait_until_taken(hash)?;
            hashes.push(hash);
        }
        // Their handshakes cost as much as a small workload's whole pause.
        let mut streams = self.open_streams(request, secret)?;
        match self.choose(request, plan)? {
            method @ (Method::PreCopy | Method::Hybrid) => {
                let streams = std::mem::take(&mut streams);
                self.live = Some(self.rounds((request, plan, method), &mut stage, streams, &mut hashes)?);
            }
            Method::PostCopy => {
                let streams = std::mem::take(&mut streams);
                self.open_ways(&request.live)?;
                self.live = Some(self.only_a_look(request, &stage, streams, &mut hashes)?);
            }
            _ => {}
        }

        if !self.cold {
            // A shim of an older Ferry does not know the question; what is asked here is only for the pause to be shorter.
            let _ = self.ask(Client::look);
        }

        self.pause = Some(Pause::begin());
        self.stage = Some(stage);
        self.ground.recorder.phase(Phase::Freeze);
        driver.feed(Input::FreezeNow, self).map_err(|e| stopped(&e))?;
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let Some(Captured { bytes, envelope, spaces }) = self.captured.take() else {
            return Err(Error::new(Kind::Bug, "The workload was not captured"));
        };
        if self.ground.node.visits().is_on() {
            self.left.clone_from(&spaces);
        }

        self.ground.recorder.phase(Phase::State);
        let mut stage = self.stage.take().ok_or_else(|| Error::new(Kind::Bug, "No files"))?;
        let (began, beside) = (Instant::now(), self.sent_beside.take());
        let (is_first, whole) = (beside.is_none(), beside.as_ref().is_some_and(|beside| beside.whole));
        hashes.extend(beside.into_iter().flat_map(|beside| beside.hashes));
        if !whole {
            let files = self
                .bulk(Bulk::Files, |to| if is_first { stage.send_last(to) } else { stage.send_rest(to) })?;
            self.ground.recorder.spent(Cause::Files, began);
            // On its way while the target still puts the files in their places.
            hashes.extend([files, self.bulk(Bulk::State, |to| to.write_all(&bytes))?]);
            if request.method == Method::Cold {
                self.wait_until_taken(files)?;
            }
        }
        let ready = |message: &control::Message| matches!(message, control::Message::Ready);
        let memory = match self.live.take() {
            _ if request.method == Method::Cold => Hash([0; 32]),
            Some(mut live) => {
                live.stand_still(envelope, spaces)?;
                self.last_round(live, &mut hashes)?
            }
            None => {
                self.wait_for("the target's readiness", ready)?;
                self.memory(spaces, streams)?
            }
        };
        let hash = receipt(&hashes, memory);
        self.ground.recorder.phase(Phase::Prepared);
        driver.feed(Input::Sent(self.receipt(hash)), self).map_err(|e| stopped(&e))
    }

    pub(super) fn workload(&self) -> WorkloadId {
        self.workload
    }

    fn shim(&mut self) -> Result<&mut Client> {
        if self.shim.is_none() {
            self.shim = Some(planning::shim(&self.ground.node, self.workload)?);
        }
        self.shim.as_mut().ok_or_else(|| Error::new(Kind::Bug, "No shim"))
    }

    /// Asks the shim; a connection that failed is made anew next time.
    pub(super) fn ask<T>(&mut self, question: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
        let answer = self.shim().and_then(question);
        if answer.is_err() {
            self.shim = None;
        }
        answer
    }
}

impl World for SourceRole {
    fn journal(&mut self, entry: &Entry) -> Result<(), Stopped> {
        self.ground.append(entry)
    }

    fn send(&mut self, message: Message) {
        self.ground.say(&message);
        if matches!(message.body, Body::Commit { .. }) {
            self.pass_packets();
        }
    }

    fn act(&mut self, act: Act) -> Option<Input> {
        match act {
            Act::Freeze => match self.freeze() {
                Ok(()) => Some(Input::Captured),
                Err(error) => {
                    let reason = error.to_string();
                    self.failure.get_or_insert(error);
                    Some(Input::Cancel(reason))
                }
            },
            Act::Thaw => match self.thaw() {
                Ok(()) => Some(Input::Thawed),
                Err(error) => {
                    self.ground.recorder.say(format!("Not thawed yet: {error}"));
                    None
                }
            },
            Act::Destroy => {
                self.pause = None;
                self.ground.recorder.phase(Phase::Finish);
                self.pass_packets();
                if let Some(mut serving) = self.serving.take() {
                    serving.end();
                }
                self.keep_visit();
                match files::destroy(&self.ground.node, self.workload) {
                    Ok(()) => {
                        (self.shim, self.tracking) = (None, None);
                        self.ground.node.departed(self.workload, Some(&self.ground.peer));
                        Some(Input::Destroyed)
                    }
                    Err(error) => {
                        self.ground.recorder.say(format!("Not removed yet: {error}"));
                        None
                    }
                }
            }
            Act::Serve => self.serve(),
            Act::Restore | Act::Check | Act::Hold => None,
        }
    }

    fn cas(&mut self, cas: &Cas) -> Answer {
        let began = Instant::now();
        self.ground.recorder.phase(Phase::Commit);
        let answer = self.ground.cas(cas);
        self.ground.recorder.spent(Cause::Commit, began);
        answer
    }

    fn read(&mut self, id: WorkloadId) -> Answer {
        self.ground.read(id)
    }

    fn copy_exists(&mut self) -> bool {
        planning::is_alive(&self.ground.node, self.workload)
    }

    fn stood(&mut self, stage: &'static str) {
        if matches!(stage, "committed" | "serving pages") && self.committing.is_none() {
            self.committing = Some(Instant::now());
            self.ground.recorder.phase(Phase::Resume);
        }
    }
}

impl Role for SourceRole {
    fn ground(&mut self) -> &mut Ground {
        &mut self.ground
    }

    fn other(&mut self, message: control::Message) -> Result<(), String> {
        match message {
            control::Message::Event { event } if matches!(event.what, What::Exited { .. }) => {
                self.ground.recorder.note_once(event.what);
            }
            control::Message::Event { event } => self.ground.recorder.note(event.what),
            control::Message::Failed { error } => {
                let reason = error.to_string();
                self.failure.get_or_insert(error);
                return Err(reason);
            }
            control::Message::Holds { pages } => self.target_holds = pages,
            _ => {}
        }
        Ok(())
    }

    fn alive(&mut self) -> bool {
        planning::is_alive(&self.ground.node, self.workload)
    }

    fn heard(&mut self, body: &Body) {
        if matches!(body, Body::Running) && self.serving.is_some() {
            self.ground.recorder.phase(Phase::PostCopy);
            self.pass_stragglers();
        }
    }

    fn poll(&mut self) -> Option<Input> {
        self.pass_due();
        None
    }

    fn pace(&self) -> Duration {
        self.stragglers.pace().map_or(ground::TICK, |pace| pace.min(ground::TICK))
    }
}

/// Takes a move up again after the node was restarted. None: the journal knows no move away from here that is not over.
pub(super) fn recover(
    node: &Arc<dyn Node>,
    recorder: &Arc<Recorder>,
    link: Link,
    workload: WorkloadId,
    key: Key,
) -> Result<Option<Outcome>> {
    let directory = node.directory(workload);
    let journal = node.journal(workload)?;
    let copy = planning::is_alive(node, workload);
    let entries = journal.lock().unwrap_or_else(PoisonError::into_inner).entries().to_vec();
    let recovered = Source::recover(&entries, key, &node.host(), node.boot_id(), copy);
    let Some((source, effects)) = recovered else { return Ok(None) };
    let peer = source.peer().clone();
    let clone = source.terms().purpose == Purpose::Clone;
    let ground = Ground { node: node.clone(), recorder: recorder.clone(), link, journal, key, peer };
    let (captured, failure) = (None, None);
    let mut role = SourceRole {
        ground,
        shim: None,
        directory,
        workload,
        clone,
        cold: false,
        captured,
        capsule: false,
        staged: false,
        live: None,
        may_follow: false,
        ways: None,
        serving: None,
        stragglers: Stragglers::default(),
        tracking: None,
        watched: Vec::new(),
        stage: None,
        sent_beside: None,
        ready: false,
        target_holds: 0,
        left: Vec::new(),
        pause: None,
        failure,
        committing: None,
    };
    let mut driver = Driver::start((source, effects), &mut role).map_err(|e| stopped(&e))?;
    settle(&mut driver, &mut role, |_| false).map_err(|e| stopped(&e))
}
