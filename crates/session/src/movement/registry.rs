//! All moves of a node, under way and ended.

use super::drain::{Way, Ways};
use super::ground::{is_past_cancelling, reserve};
use super::introduction::PageDoor;
use super::link::{Heard, Link};
use super::node::Node;
use super::recorder::Recorder;
use super::request::Request;
use super::{planning, source, target, warm};
use crate::journal::Shared;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::What;
use ferry_model::handover::entry::last_key;
use ferry_model::handover::{Entry, Input, Outcome, Step};
use ferry_model::ids::{HostName, MoveId, WorkloadId};
use ferry_model::planning::Method;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::control::Message;
use ferry_transfer::wire::greeting::{Hello, Purpose};
use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most ended moves that are kept in memory for listing.
const ENDED_MAX: usize = 200;

/// How long a move may take from its decision to its end, for somebody who wants the next one.
const ENDING_MAX: Duration = Duration::from_secs(1);

/// Which end of a move this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The workload leaves.
    Source,
    /// The workload arrives.
    Target,
}

/// Where a move stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Under way.
    Running,
    /// Ended so.
    Ended(Outcome),
    /// Ended with this error: refused, or rolled back.
    Failed(Error),
}

/// One move, for lists.
#[derive(Clone)]
pub struct Move {
    /// Its identity, the same at both ends.
    pub id: MoveId,
    /// What moves; for a clone at its source: the original.
    pub workload: WorkloadId,
    /// Its name.
    pub name: String,
    /// The other host.
    pub peer: HostName,
    /// Which end this is.
    pub role: Role,
    /// The original goes on.
    pub clone: bool,
    /// How state travels.
    pub method: Method,
    /// When it began, seconds since 1970.
    pub began_unix: u64,
    /// Where it stands.
    pub standing: Standing,
    /// What happened so far.
    pub recorder: Arc<Recorder>,
}

struct Kept {
    entry: Move,
    link: SyncSender<Heard>,
    doors: Option<Doors>,
}

/// Where streams come in, at a target.
#[derive(Clone)]
pub(super) struct Doors {
    /// Of its page streams, while it takes some.
    pub pages: Option<PageDoor>,
    /// Of those for pages that are missing.
    pub ways: SyncSender<Way>,
}

/// All moves of a node.
#[derive(Clone)]
pub struct Movements {
    pub(super) node: Arc<dyn Node>,
    moves: Arc<Mutex<BTreeMap<MoveId, Kept>>>,
}

impl Movements {
    /// Of `node`, none yet. Call [`Self::recover`] for each workload that the node finds on its disk.
    #[must_use]
    pub fn new(node: Arc<dyn Node>) -> Self {
        Self { node, moves: Arc::default() }
    }

    /// Begins a move away from here. Its progress is in the recorder, its end in [`Self::wait`].
    pub fn begin(&self, request: Request) -> Result<MoveId> {
        request.check()?;
        let id = request.id;
        let (workload, clone) = (request.workload, request.clone.is_some());
        self.refuse_busy(workload)?;
        reserve(&self.node.journal(workload)?)?;
        let purpose = Purpose::Control { workload: self.key_id(&request), mv: id };
        let connected = self.node.connect(&request.to, purpose).and_then(Link::new);
        let link = connected.map_err(|e| unreachable(&request.to, &e))?;
        let name =
            planning::shim(&self.node, workload)?.status()?.spec.map_or_else(String::new, |spec| spec.name);
        let recorder = Arc::new(Recorder::default());
        self.keep(
            Move {
                id,
                workload,
                name,
                peer: request.to.clone(),
                role: Role::Source,
                clone,
                method: request.method,
                began_unix: now_unix(),
                standing: Standing::Running,
                recorder: recorder.clone(),
            },
            link.sender(),
            None,
        );
        let this = self.clone();
        spawn(move || {
            let ended = match request.method {
                Method::Warm => warm::run(&this.node, &recorder, link, &request),
                Method::Cold
                | Method::StopAndCopy
                | Method::Auto
                | Method::PreCopy
                | Method::PostCopy
                | Method::Hybrid => source::run(&this.node, &recorder, link, &request),
            };
            this.end(id, ended);
        })?;
        Ok(id)
    }

    fn key_id(&self, request: &Request) -> WorkloadId {
        request.clone.as_ref().map_or(request.workload, |clone| clone.id)
    }

    /// Takes a connection from another node whose greeting is over; `peer` is from its certificate. Returns at once, but for
    /// connections that are turned away.
    pub fn accept(&self, peer: &HostName, hello: &Hello, stream: Box<dyn Stream>) -> Result<()> {
        match &hello.purpose {
            Purpose::Control { workload, mv } => self.accept_control(peer, *workload, *mv, stream),
            Purpose::Pages { mv, secret, .. } => match self.doors(peer, *mv).and_then(|doors| doors.pages) {
                Some(door) if door.opens(secret) && door.hand_in(stream) => Ok(()),
                _ => Err(Error::new(Kind::Refused, "A page stream without the secret of a move")),
            },
            Purpose::Handover { workload, mv } => self.accept_handover(peer, *workload, *mv, stream),
            Purpose::Demand { workload: _, mv, generation, index, count } => {
                let way = Way { generation: *generation, index: *index, count: *count, stream };
                match self.doors(peer, *mv) {
                    Some(doors) if doors.ways.try_send(way).is_ok() => Ok(()),
                    _ => Err(Error::new(
                        Kind::Refused,
                        "A stream of pages for a move that is not under way here",
                    )),
                }
            }
            Purpose::Node => {
                Err(Error::new(Kind::Bug, "A connection between nodes is not the moves' business"))
            }
        }
    }

    /// The doors of a move of `peer` that is under way here.
    fn doors(&self, peer: &HostName, mv: MoveId) -> Option<Doors> {
        let moves = self.lock();
        let kept = moves.get(&mv).filter(|kept| kept.entry.peer == *peer)?;
        kept.doors.clone().filter(|_| kept.entry.standing == Standing::Running)
    }

    fn accept_control(
        &self,
        peer: &HostName,
        workload: WorkloadId,
        id: MoveId,
        stream: Box<dyn Stream>,
    ) -> Result<()> {
        let link = Link::new(stream).map_err(|e| Error::from_source(Kind::Unable, &e))?;
        let (door, pages) = PageDoor::new();
        let (way, ways) = Ways::new();
        let (this, peer, sender) = (self.clone(), peer.clone(), link.sender());
        spawn(move || {
            let recorder = Arc::new(Recorder::default());
            let named = |spec: &crate::shim::Spec, method| {
                let entry = Move {
                    id,
                    workload,
                    name: spec.name.clone(),
                    peer: peer.clone(),
                    role: Role::Target,
                    clone: false,
                    method,
                    began_unix: now_unix(),
                    standing: Standing::Running,
                    recorder: recorder.clone(),
                };
                let doors = Doors { pages: Some(door.clone()), ways: way };
                this.keep(entry, sender.clone(), Some(doors));
            };
            let doors = (door.clone(), pages, ways);
            let ended = target::run(&this.node, &recorder, link, &peer, (workload, id), doors, named);
            match ended {
                Ok(None) => {}
                Ok(Some(outcome)) => this.end(id, Ok(outcome)),
                Err(error) => this.end(id, Err(error)),
            }
        })
    }

    /// A connection for a handover that both sides already know: goes to the move under way, or to its journal.
    fn accept_handover(
        &self,
        peer: &HostName,
        workload: WorkloadId,
        id: MoveId,
        stream: Box<dyn Stream>,
    ) -> Result<()> {
        let running = {
            let moves = self.lock();
            let kept = moves.get(&id).filter(|kept| kept.entry.standing == Standing::Running);
            // What a warm move's target has done is in its journal at every moment.
            let kept = kept.filter(|kept| kept.entry.method != Method::Warm);
            kept.filter(|kept| kept.entry.peer == *peer).map(|kept| kept.link.clone())
        };
        if let Some(link) = running {
            return link
                .try_send(Heard::Attached(stream))
                .map_err(|_| Error::new(Kind::Unable, "The move is busy"));
        }
        let link = Link::new(stream).map_err(|e| Error::from_source(Kind::Unable, &e))?;
        self.answer_from_journal(workload, id, link)
    }

    /// A move that is over here, and whose other side does not know that yet: its machine, rebuilt, answers. Of a workload that was
    /// never here there is no journal, and none is made: a peer may name what it likes.
    fn answer_from_journal(&self, workload: WorkloadId, id: MoveId, mut link: Link) -> Result<()> {
        let journal = self.node.find_journal(workload);
        let this = self.clone();
        spawn(move || {
            let host = this.node.host();
            let boot_id = this.node.boot_id();
            while let Heard::Message(message) = link.hear(Duration::from_secs(30)) {
                let Message::Handover { message: bytes } = &message else { continue };
                let Ok(said) = minicbor::decode::<ferry_model::handover::Message>(bytes) else { continue };
                if said.key.mv != id {
                    continue;
                }
                let entries = journal.as_ref().map_or_else(Vec::new, entries_of);
                let answer = ferry_model::handover::answer_from_journal(&entries, &host, boot_id, &said);
                if let Some(answer) = answer {
                    let Ok(bytes) = minicbor::to_vec(&answer) else { continue };
                    let _ = link.send(&Message::Handover { message: bytes.into() });
                }
            }
        })
    }

    /// Takes up what the journal of a workload says is not over. Call it once for each workload after the node has started and can
    /// be reached.
    pub fn recover(&self, workload: WorkloadId) -> Result<Option<MoveId>> {
        let Some(journal) = self.node.find_journal(workload) else { return Ok(None) };
        let entries = entries_of(&journal);
        if let Some(warm) = warm::unfinished(&self.node, workload, &entries) {
            return self.recover_warm(workload, warm).map(Some);
        }
        let Some(key) = last_key(&entries) else {
            return self.sweep(workload);
        };
        let steps: Vec<&Step> = entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Step { key: of, step, .. } if *of == key => Some(step),
                _ => None,
            })
            .collect();
        if steps.iter().any(|step| matches!(step, Step::Done)) {
            return self.sweep(workload);
        }
        if let Some(taken_up) = self.recover_alone(key, &steps) {
            return taken_up;
        }
        let (role, peer) = match steps.first() {
            Some(Step::Offered { to, .. }) => (Role::Source, to.clone()),
            Some(Step::Reserved { from, .. }) => (Role::Target, from.clone()),
            _ => return Ok(None),
        };
        let (recorder, link) = (Arc::new(Recorder::default()), Link::unconnected());
        recorder.say("Taken up again from the journal");
        if steps.iter().any(|step| is_past_cancelling(step)) {
            recorder.decide();
        }
        let entry = Move {
            id: key.mv,
            workload,
            name: String::new(),
            peer,
            role,
            clone: false,
            method: Method::default(),
            began_unix: now_unix(),
            standing: Standing::Running,
            recorder: recorder.clone(),
        };
        let (way, ways) = Ways::new();
        self.keep(entry, link.sender(), Some(Doors { pages: None, ways: way }));
        let this = self.clone();
        spawn(move || {
            let ended = match role {
                Role::Source => source::recover(&this.node, &recorder, link, workload, key),
                Role::Target => target::recover(&this.node, &recorder, link, key, ways),
            };
            let aborted = Ok(Outcome::Aborted);
            this.end(key.mv, ended.and_then(|outcome| outcome.map_or(aborted, Ok)));
        })?;
        Ok(Some(key.mv))
    }

    /// One thing at a time happens to a workload. A move that is decided and about to end is waited for: who ordered it has heard of its
    /// end from the other side, which may be a moment earlier.
    pub(super) fn refuse_busy(&self, workload: WorkloadId) -> Result<()> {
        let end = Instant::now() + ENDING_MAX;
        loop {
            let busy =
                |kept: &&Kept| kept.entry.workload == workload && kept.entry.standing == Standing::Running;
            let found =
                self.lock().values().find(busy).map(|kept| (kept.entry.id, kept.entry.recorder.clone()));
            match found {
                None => return Ok(()),
                Some((_, recorder)) if recorder.is_decided() && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Some((id, _)) => {
                    let text = format!("{workload} is already in move {id}");
                    return Err(Error::new(Kind::Refused, text).hint("ferry moves ls"));
                }
            }
        }
    }

    /// Gives a move up. Whether it was in time is known when the move has ended.
    ///
    /// # Errors
    /// `Usage` if there is no such move; `Refused` if it is over, being decided, or decided.
    pub fn cancel(&self, id: MoveId, why: &str) -> Result<()> {
        let (link, recorder) = self.under_way(id)?;
        if recorder.is_decided() {
            let text = format!("Move {id} is being decided, or was: it can no longer be cancelled");
            return Err(
                Error::new(Kind::Refused, text).hint("it ends by itself; `ferry moves follow` shows it")
            );
        }
        link.send(Heard::Cancel(why.to_owned())).map_err(|_| over(id))?;
        recorder.say(format!("Asked to give up: {why}"));
        Ok(())
    }

    /// Tells the handover of a move under way what a person says: [`Input::Fence`], [`Input::SourceLost`], [`Input::Tick`].
    ///
    /// # Errors
    /// `Usage` if there is no such move, `Refused` if it is over.
    pub fn order(&self, id: MoveId, input: Input) -> Result<()> {
        self.under_way(id)?.0.send(Heard::Order(input)).map_err(|_| over(id))
    }

    fn under_way(&self, id: MoveId) -> Result<(SyncSender<Heard>, Arc<Recorder>)> {
        let moves = self.lock();
        let kept = moves.get(&id).ok_or_else(|| Error::new(Kind::Usage, format!("No move {id}")))?;
        match kept.entry.standing {
            Standing::Running => Ok((kept.link.clone(), kept.entry.recorder.clone())),
            _ => Err(over(id)),
        }
    }

    /// All moves, the newest last.
    #[must_use]
    pub fn list(&self) -> Vec<Move> {
        let mut all: Vec<Move> = self.lock().values().map(|kept| kept.entry.clone()).collect();
        all.sort_by_key(|entry| entry.recorder.began());
        all
    }

    /// One move.
    #[must_use]
    pub fn get(&self, id: MoveId) -> Option<Move> {
        self.lock().get(&id).map(|kept| kept.entry.clone())
    }

    /// Waits until a move is over.
    pub fn wait(&self, id: MoveId) -> Result<Outcome> {
        let no = || Error::new(Kind::Usage, format!("No move {id}"));
        let recorder = self.get(id).ok_or_else(no)?.recorder;
        let mut seen = 0;
        loop {
            let (events, ended) = recorder.follow(seen, Duration::from_secs(60));
            seen += events.len();
            if ended {
                return match self.get(id).ok_or_else(no)?.standing {
                    Standing::Ended(outcome) => Ok(outcome),
                    Standing::Failed(error) => Err(error),
                    Standing::Running => continue,
                };
            }
        }
    }

    pub(super) fn keep(&self, entry: Move, link: SyncSender<Heard>, doors: Option<Doors>) {
        let mut moves = self.lock();
        if moves.len() >= ENDED_MAX {
            let ended = moves.values().filter(|kept| kept.entry.standing != Standing::Running);
            if let Some(oldest) =
                ended.min_by_key(|kept| kept.entry.recorder.began()).map(|kept| kept.entry.id)
            {
                moves.remove(&oldest);
            }
        }
        moves.insert(entry.id, Kept { entry, link, doors });
    }

    pub(super) fn end(&self, id: MoveId, ended: Result<Outcome>) {
        let (standing, error) = match ended {
            Ok(outcome) => (Standing::Ended(outcome), None),
            Err(error) => (Standing::Failed(error.clone()), Some(error)),
        };
        let recorder = {
            let mut moves = self.lock();
            let Some(kept) = moves.get_mut(&id) else { return };
            kept.entry.standing = standing;
            kept.entry.recorder.clone()
        };
        let already = recorder.events().iter().any(|event| matches!(event.what, What::End { .. }));
        if !already {
            recorder.end(error);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MoveId, Kept>> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn over(id: MoveId) -> Error {
    Error::new(Kind::Refused, format!("Move {id} is over")).hint(format!("ferry moves show {id}"))
}

fn entries_of(journal: &Shared) -> Vec<Entry> {
    journal.lock().unwrap_or_else(PoisonError::into_inner).entries().to_vec()
}

pub(super) fn spawn(work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name("ferry-move".into())
        .spawn(work)
        .map(drop)
        .map_err(|e| Error::from_source(Kind::Unable, &e).context("No thread could be started for the move"))
}

/// Nothing was touched yet, so nothing was rolled back: a host that nobody knows is the command's fault, one that does not answer
/// the moment's.
pub(super) fn unreachable(host: &HostName, error: &std::io::Error) -> Error {
    let mut said = planning::link_error(error).context(format!("{host} cannot be reached"));
    said.kind = match error.kind() {
        std::io::ErrorKind::NotFound => Kind::Usage,
        // A refusal that the other side put into words keeps its kind.
        _ if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => said.kind,
        _ => Kind::Unable,
    };
    said.hint("`ferry host ls` lists the hosts and whether they answer")
}

pub(super) fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
