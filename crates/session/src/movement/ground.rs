//! What both roles of a move stand on: journal, link, decider, events; and the loop that ends a handover.

use super::link::{Heard, Link};
use super::node::Node;
use super::recorder::Recorder;
use crate::handover::{Driver, Stopped, World};
use crate::journal::Shared;
use ferry_model::error::{Error, Kind};
use ferry_model::handover::{Answer, Body, Cas, Entry, Input, Key, Machine, Message, Outcome, Parties, Step};
use ferry_model::ids::{HostName, WorkloadId};
use ferry_transfer::wire::control;
use ferry_transfer::wire::greeting::Purpose;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How often a handover that hears nothing asks and tells again.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// How long the other side may be silent while giving up is still allowed.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What both roles have.
pub(super) struct Ground {
    pub node: Arc<dyn Node>,
    pub recorder: Arc<Recorder>,
    pub link: Link,
    pub journal: Shared,
    pub key: Key,
    pub peer: HostName,
}

impl Ground {
    pub fn parties(&self) -> Parties {
        Parties { me: self.node.host(), peer: self.peer.clone(), boot_id: self.node.boot_id() }
    }

    pub fn append(&self, entry: &Entry) -> Result<(), Stopped> {
        if let Entry::Step { step, .. } = entry
            && is_past_cancelling(step)
        {
            self.recorder.decide();
        }
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.append(entry).map_err(|e| Stopped(Box::new(e)))
    }

    /// Says a message of the handover; lost when there is no connection, as the handover allows.
    pub fn say(&mut self, message: &Message) {
        if let Ok(bytes) = minicbor::to_vec(message) {
            let _ = self.link.send(&control::Message::Handover { message: bytes.into() });
        }
    }

    pub fn cas(&self, cas: &Cas) -> Answer {
        self.node.registry().cas(cas)
    }

    pub fn read(&self, id: WorkloadId) -> Answer {
        self.node.registry().read(id)
    }

    /// Connects again where the connection was lost.
    fn reconnect(&mut self) {
        if !self.link.is_gone() {
            return;
        }
        let purpose = Purpose::Handover { workload: self.key.id, mv: self.key.mv };
        if let Ok(stream) = self.node.connect(&self.peer, purpose)
            && self.link.attach(stream).is_ok()
        {
            self.recorder.say(format!("Connected to {} again", self.peer));
        }
    }
}

/// A role of a move, as the loop sees it.
pub(super) trait Role: World {
    fn ground(&mut self) -> &mut Ground;

    /// The other side said something that is no message of the handover. An error gives up, where that is still allowed.
    fn other(&mut self, message: control::Message) -> Result<(), String>;

    /// Whether this host's copy is still there.
    fn alive(&mut self) -> bool;

    /// The other side says this to the handover, which hears it next.
    fn heard(&mut self, _: &Body) {}

    /// What has happened here meanwhile. Asked whenever there is nothing else to do, at least as often as [`Self::pace`] says.
    fn poll(&mut self) -> Option<Input> {
        None
    }

    /// How long the other side may be listened to at a time.
    fn pace(&self) -> Duration {
        TICK
    }
}

/// Runs a handover until `done` says so or it ends. Nothing that happens here ends it otherwise: a lost link is connected again, a
/// decider that does not answer is asked again.
pub(super) fn settle<M: Machine, R: Role>(
    driver: &mut Driver<M>,
    role: &mut R,
    done: impl Fn(&M) -> bool,
) -> Result<Option<Outcome>, Stopped> {
    let (mut heard_at, mut ticked_at) = (Instant::now(), Instant::now());
    let mut doubt_told = false;
    loop {
        if let Some(outcome) = driver.machine().outcome() {
            return Ok(Some(outcome));
        }
        if done(driver.machine()) {
            return Ok(None);
        }
        if driver.machine().in_doubt() && !doubt_told {
            doubt_told = true;
            role.ground()
                .recorder
                .say("In doubt: the decider does not answer. Both copies stay frozen until it does");
        }
        if let Some(input) = role.poll() {
            driver.feed(input, role)?;
            continue;
        }
        let pace = role.pace();
        let heard = role.ground().link.hear(pace);
        if !matches!(heard, Heard::Nothing | Heard::Gone(_)) {
            heard_at = Instant::now();
        }
        match heard {
            Heard::Message(control::Message::Handover { message }) => {
                if let Ok(message) = minicbor::decode::<Message>(&message) {
                    role.heard(&message.body);
                    driver.feed(Input::Message(message), role)?;
                }
            }
            Heard::Message(message) => {
                if let Err(why) = role.other(message) {
                    driver.feed(Input::Cancel(why), role)?;
                }
            }
            Heard::Attached(stream) => {
                let _ = role.ground().link.attach(stream);
                driver.feed(Input::Tick, role)?;
            }
            Heard::Order(input) => driver.feed(input, role)?,
            Heard::Cancel(why) if driver.machine().can_cancel() => driver.feed(Input::Cancel(why), role)?,
            Heard::Cancel(_) => {
                role.ground().recorder.say("Too late to give up: the decision is being made, or was made");
            }
            // Before the decision a broken connection is reason enough; after it, connecting again is all that helps.
            Heard::Gone(e) if driver.machine().can_cancel() => {
                let why = format!("The connection to {} broke: {e}", role.ground().peer);
                driver.feed(Input::Cancel(why), role)?;
            }
            Heard::Gone(_) => {}
            Heard::Nothing if pace < TICK && ticked_at.elapsed() < TICK => {}
            Heard::Nothing => {
                ticked_at = Instant::now();
                if !role.alive() {
                    driver.feed(Input::CopyGone, role)?;
                }
                if driver.machine().can_cancel() && heard_at.elapsed() > SILENCE_MAX {
                    let why = format!("{} said nothing for {} s", role.ground().peer, SILENCE_MAX.as_secs());
                    driver.feed(Input::Cancel(why), role)?;
                }
                role.ground().reconnect();
                driver.feed(Input::Tick, role)?;
            }
        }
    }
}

/// Whether a side that has written this can no longer give up by itself.
pub(super) fn is_past_cancelling(step: &Step) -> bool {
    matches!(step, Step::Deciding { .. } | Step::Prepared { .. } | Step::Starting)
}

/// Holds space in the journal for a whole move, while being refused is still harmless.
pub(super) fn reserve(journal: &Shared) -> Result<(), Error> {
    let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
    journal.reserve().map_err(|e| {
        Error::from_source(Kind::Unable, &e)
            .context("The journal gets no space for a move")
            .hint("Make room on the state directory's disk: a full one must not stop a move that has begun")
    })
}

/// Whether this message ends a wait for something else: the other side has given up.
pub(super) fn gives_up(message: &control::Message) -> Option<String> {
    let control::Message::Handover { message } = message else { return None };
    match minicbor::decode::<Message>(message).ok()?.body {
        Body::Discarded { reason } | Body::Abort { reason } | Body::Unable { reason } => Some(reason),
        _ => None,
    }
}

/// The journal failed: what was done stands, and goes on when the node has opened it again.
pub(super) fn stopped(stopped: &Stopped) -> Error {
    Error::from_source(Kind::NotFinal, stopped)
        .hint("Make room on the state directory's disk and restart the node: it goes on from its journal")
}
