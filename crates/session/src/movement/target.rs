//! The target's role: answer, reserve, stage, build puppets, fill them, and then whatever the handover says.

use super::drain::{self, Drain, Ways};
use super::ground::{self, Ground, Role, reserve, settle, stopped};
use super::incoming::Incoming;
use super::introduction::{PageDoor, introduction};
use super::link::Link;
use super::node::Node;
use super::packets::Packets;
use super::pause::Pause;
use super::recorder::Recorder;
use super::{files, missing, planning, receipt};
use crate::handover::{Act, Driver, Stopped, World};
use crate::shim::{self, Client, Spec};
use crate::visits::Visit;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Cause, Event, What};
use ferry_model::handover::{Answer, Body, Cas, Entry, Input, Key, Message, Outcome, Receipt, Target};
use ferry_model::ids::{Hash, HostName, MoveId, WorkloadId};
use ferry_model::planning::Method;
use ferry_transfer::access::Missing;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::control::{self, Bulk};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How long the streams of missing pages may take that the source had opened before it stopped the workload.
const WAYS_MAX: Duration = Duration::from_secs(5);

/// The role.
pub(super) struct TargetRole {
    pub(super) ground: Ground,
    pub(super) shim: Option<Client>,
    pub(super) directory: PathBuf,
    pub(super) method: Method,
    /// Pages may follow after the resume.
    pub(super) post_copy: bool,
    pub(super) spec: Option<Spec>,
    pub(super) hashes: Vec<Hash>,
    pub(super) incoming: Option<Incoming>,
    pub(super) failure: Option<Error>,
    pub(super) packets: Packets,
    /// The captured state, where pages may follow, until it is asked of which that is so; and which do.
    pub(super) captured: Vec<u8>,
    pub(super) missing: Option<(Vec<Missing>, Hash)>,
    /// Streams of missing pages.
    pub(super) ways: Ways,
    /// It runs, and pages are missing.
    pub(super) drain: Option<Drain>,
    /// It stands still at its source, or is about to.
    pub(super) pause: Option<Pause>,
    /// What is here of an earlier visit.
    pub(super) visit: Option<Arc<Visit>>,
}

/// Takes part in a move that `peer` began, from its first question on. Returns when it is over; `None` when it was only a question.
pub(super) fn run(
    node: &Arc<dyn Node>,
    recorder: &Arc<Recorder>,
    mut link: Link,
    peer: &HostName,
    (workload, mv): (WorkloadId, MoveId),
    (door, pages, ways): (PageDoor, Receiver<Box<dyn Stream>>, Ways),
    named: impl FnOnce(&Spec, Method),
) -> Result<Option<Outcome>> {
    let Some((begin, key, terms)) = introduction(node, &mut link, peer, (workload, mv), &door)? else {
        return Ok(None);
    };
    named(&begin.spec, begin.method);
    let directory = node.directory(workload);
    let room = files::clear(&directory)
        .map_err(|e| Error::from_source(Kind::Unable, &e).context("There is no room for the workload"))
        .and_then(|()| node.journal(workload))
        .and_then(|journal| reserve(&journal).map(|()| journal));
    let journal = match room {
        Ok(journal) => journal,
        Err(error) => {
            let _ = link.send(&control::Message::Failed { error: error.clone() });
            return Err(error);
        }
    };
    if begin.method == Method::Warm {
        let arrival = super::arrive::Arrival { node, recorder, peer, key, spec: begin.spec };
        return arrival.run(&mut link, &pages).map(Some);
    }
    let ground =
        Ground { node: node.clone(), recorder: recorder.clone(), link, journal, key, peer: peer.clone() };
    let mut role = TargetRole {
        method: begin.method,
        post_copy: terms.post_copy,
        spec: Some(begin.spec.clone()),
        ..TargetRole::new(ground, directory, ways)
    };
    let reserve = Target::reserve(key, role.ground.parties(), terms);
    let mut driver = Driver::start(reserve, &mut role).map_err(|e| stopped(&e))?;
    role.incoming = Some(Incoming::new(pages, begin.streams));
    if let Err(error) = role.take(&begin) {
        let _ = role.ground.link.send(&control::Message::Failed { error: error.clone() });
        let reason = error.to_string();
        role.failure.get_or_insert(error);
        driver.feed(Input::Cancel(reason), &mut role).map_err(|e| stopped(&e))?;
    }
    let outcome = settle(&mut driver, &mut role, |_| false).map_err(|e| stopped(&e))?;
    match (outcome, role.failure) {
        (Some(Outcome::Aborted | Outcome::HandedBack), Some(failure)) => Err(failure),
        (outcome, _) => Ok(outcome),
    }
}

impl TargetRole {
    /// Nothing of the workload is here yet.
    fn new(ground: Ground, directory: PathBuf, ways: Ways) -> Self {
        Self {
            ground,
            shim: None,
            directory,
            method: Method::StopAndCopy,
            post_copy: false,
            spec: None,
            hashes: Vec::new(),
            incoming: None,
            failure: None,
            packets: Packets::default(),
            captured: Vec::new(),
            missing: None,
            ways,
            drain: None,
            pause: None,
            visit: None,
        }
    }

    pub(super) fn incoming(&mut self) -> Result<&mut Incoming> {
        self.incoming.as_mut().ok_or_else(|| Error::new(Kind::RolledBack, "No memory came"))
    }

    /// Notes a part of the pause, here and at the source.
    pub(super) fn tell(&mut self, cause: Cause, since: Instant) {
        let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.note(What::Spent { cause, us });
    }

    /// Notes what has happened, here and at the source.
    fn note(&mut self, what: What) {
        let at_us = u64::try_from(self.ground.recorder.began().elapsed().as_micros()).unwrap_or(u64::MAX);
        let _ =
            self.ground.link.send(&control::Message::Event { event: Event { at_us, what: what.clone() } });
        self.ground.recorder.note(what);
    }

    /// It came to its own end: how, for both sides to know, since it is no failure of the move. Told as often as that it has ended.
    fn tell_exit(&mut self) {
        let Ok(status) = self.ask(Client::status) else { return };
        let Some(exit) = status.exit.filter(|_| status.phase == shim::protocol::Phase::Exited) else {
            return;
        };
        let what = What::Exited { exit: exit.into() };
        let event = Event { at_us: 0, what: what.clone() };
        let _ = self.ground.link.send(&control::Message::Event { event });
        self.ground.recorder.note_once(what);
    }

    fn shim(&mut self) -> Result<&mut Client> {
        if self.shim.is_none() {
            self.shim = Some(planning::shim(&self.ground.node, self.ground.key.id)?);
        }
        self.shim.as_mut().ok_or_else(|| Error::new(Kind::Bug, "No shim"))
    }

    pub(super) fn ask<T>(&mut self, question: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
        let answer = self.shim().and_then(question);
        if answer.is_err() {
            self.shim = None;
        }
        answer
    }

    /// Lets what the source has kept arrive, once the workload runs. Lost, it is sent again by whoever sent it.
    fn deliver(&mut self) {
        let Some(packets) = self.packets.due() else { return };
        if let Err(error) = self.ask(|shim| shim.deliver(packets)) {
            self.ground.recorder.say(format!("Packets of the pause were not delivered: {error}"));
        }
    }

    /// All memory is in: makes the workload whole.
    fn complete(&mut self) -> Result<Receipt> {
        let memory = match self.method {
            Method::Cold => Hash([0; 32]),
            _ => self.incoming()?.finish()?,
        };
        let began = Instant::now();
        let (hash, mut left) = (receipt(&self.hashes, memory), (0, None));
        match self.missing.take() {
            None => self.ask(Client::finish)?,
            Some((missing, hash)) => {
                left = (missing::pages(&missing), Some(hash));
                let lost =
                    || Error::new(Kind::RolledBack, "The streams for the pages that follow did not come");
                let streams = self.ways.wait(WAYS_MAX).ok_or_else(lost)?;
                self.ask(|shim| shim.finish_missing(missing).and_then(|()| shim.pages(streams)))?;
            }
        }
        self.tell(Cause::Complete, began);
        Ok(Receipt { hash, missing_pages: left.0, missing: left.1 })
    }
}

impl World for TargetRole {
    fn journal(&mut self, entry: &Entry) -> Result<(), Stopped> {
        self.ground.append(entry)
    }

    fn send(&mut self, message: Message) {
        if matches!(message.body, Body::Died) {
            self.tell_exit();
        }
        self.ground.say(&message);
    }

    fn act(&mut self, act: Act) -> Option<Input> {
        match act {
            Act::Restore => match self.complete() {
                Ok(receipt) => Some(Input::Restored(receipt)),
                Err(error) => {
                    let _ = self.ground.link.send(&control::Message::Failed { error: error.clone() });
                    let reason = error.to_string();
                    self.failure.get_or_insert(error);
                    Some(Input::Cancel(reason))
                }
            },
            Act::Check => {
                let status = self.ask(Client::status).map_err(|error| error.to_string());
                Some(match status.and_then(|status| status.can_start()) {
                    Ok(()) => Input::Ready,
                    Err(why) => Input::NotReady(why),
                })
            }
            Act::Thaw => {
                super::hold::before_resume();
                let began = Instant::now();
                match self.ask(Client::resume) {
                    Ok(()) => {
                        self.pause = None;
                        self.tell(Cause::Resume, began);
                        self.ground.node.arrived(self.ground.key.id);
                        self.packets.runs();
                        self.deliver();
                        // Nobody waits for its streams to end.
                        self.incoming.take().into_iter().for_each(Incoming::leave);
                        self.forget_visit(true);
                        Some(Input::Thawed)
                    }
                    Err(error) => {
                        self.ground.recorder.say(format!("Not running yet: {error}"));
                        None
                    }
                }
            }
            Act::Destroy => match files::destroy(&self.ground.node, self.ground.key.id) {
                Ok(()) => {
                    (self.shim, self.pause) = (None, None);
                    self.forget_visit(false);
                    self.ground.node.departed(self.ground.key.id, None);
                    Some(Input::Destroyed)
                }
                Err(error) => {
                    self.ground.recorder.say(format!("Not removed yet: {error}"));
                    None
                }
            },
            Act::Hold => {
                if let Err(error) = self.ask(Client::hold) {
                    self.ground.recorder.say(format!("Not held yet: {error}"));
                }
                None
            }
            Act::Freeze | Act::Serve => None,
        }
    }

    fn cas(&mut self, cas: &Cas) -> Answer {
        self.ground.cas(cas)
    }

    fn read(&mut self, id: WorkloadId) -> Answer {
        self.ground.node.registry().read_from(&self.ground.peer, id)
    }

    fn copy_exists(&mut self) -> bool {
        planning::is_alive(&self.ground.node, self.ground.key.id)
    }

    fn stood(&mut self, stage: &'static str) {
        if !matches!(stage, "draining" | "paused") {
            self.drain = None;
        } else if self.drain.is_none() {
            self.drain = Some(Drain::begin(&self.ground.recorder));
        }
    }
}

impl Role for TargetRole {
    fn ground(&mut self) -> &mut Ground {
        &mut self.ground
    }

    fn other(&mut self, message: control::Message) -> Result<(), String> {
        match message {
            control::Message::Failed { error } => {
                let reason = error.to_string();
                self.failure.get_or_insert(error);
                Err(reason)
            }
            control::Message::Frames { frames } => {
                self.packets.add(frames);
                self.deliver();
                Ok(())
            }
            control::Message::Bulk { kind: Bulk::Missing } => self.take_missing().map_err(|error| {
                let reason = error.to_string();
                let _ = self.ground.link.send(&control::Message::Failed { error: error.clone() });
                self.failure.get_or_insert(error);
                reason
            }),
            _ => Ok(()),
        }
    }

    fn alive(&mut self) -> bool {
        self.spec.is_none()
            || self.shim.is_none()
            || planning::is_alive(&self.ground.node, self.ground.key.id)
    }

    fn pace(&self) -> Duration {
        if self.drain.is_some() { drain::LOOK_EVERY } else { ground::TICK }
    }

    fn poll(&mut self) -> Option<Input> {
        let mut drain = self.drain.take()?;
        if !drain.is_due() {
            self.drain = Some(drain);
            return None;
        }
        let streams = self.ways.newest();
        let status = self.ask(|shim| {
            // If a shim dies with them, they end at the source as well, which opens others then.
            streams.map_or(Ok(()), |streams| shim.pages(streams))?;
            shim.pager()
        });
        let (input, told) = drain.take(status);
        self.drain = Some(drain);
        told.into_iter().for_each(|what| self.note(what));
        input
    }
}

/// Takes a move up again after the node was restarted. None: the journal knows no move to here that is not over.
pub(super) fn recover(
    node: &Arc<dyn Node>,
    recorder: &Arc<Recorder>,
    link: Link,
    key: Key,
    ways: Ways,
) -> Result<Option<Outcome>> {
    let directory = node.directory(key.id);
    let journal = node.journal(key.id)?;
    let copy = planning::is_alive(node, key.id);
    let entries = journal.lock().unwrap_or_else(PoisonError::into_inner).entries().to_vec();
    let recovered = Target::recover(&entries, key, &node.host(), node.boot_id(), copy);
    let Some((target, effects)) = recovered else { return Ok(None) };
    let peer = target.peer().clone();
    let ground = Ground { node: node.clone(), recorder: recorder.clone(), link, journal, key, peer };
    let mut role = TargetRole::new(ground, directory, ways);
    let mut driver = Driver::start((target, effects), &mut role).map_err(|e| stopped(&e))?;
    settle(&mut driver, &mut role, |_| false).map_err(|e| stopped(&e))
}
