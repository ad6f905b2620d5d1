//! Moves as the API shows them: begun here or fetched from another host, listed, followed, cancelled. They live in threads
//! of `session` and in journals; who looks at them can come and go.

mod estimate;
mod ground;
mod history;
mod view;

pub use history::keep_history;

use crate::audit::Verdict;
use crate::node::Node;
use crate::peers::wire::{Reply, Request as Ask};
use crate::workloads::declared;
use ferry_model::api::{self, CloneRequest, MoveRequest, MoveRole, MoveState, PlanRequest};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Event, What};
use ferry_model::ids::{HostName, MoveId, WorkloadId};
use ferry_model::plan::Plan;
use ferry_model::planning::Method;
use ferry_model::strategy::options::LiveOptions;
use ferry_session::movement::{CloneSpec, Request};
use std::time::{Duration, Instant};

/// How long one look at a move of another host may take.
const LOOK_TIME_MAX: Duration = Duration::from_secs(5);

/// How long cancelling waits for the move to have ended before it answers with where it stands.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(10);

/// How long the other host is waited for between two looks at its events.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Node {
    /// What a move would do; changes nothing.
    pub fn plan(&self, workload: &str, asked: &PlanRequest) -> Result<Plan> {
        let id = self.workloads.find(workload)?;
        self.workloads.client(id)?;
        let (with, end_connections) = (declared(&asked.with)?, asked.end_connections);
        self.movements()?.plan(&Request { with, end_connections, ..request(id, &asked.to, asked.method)? })
    }

    /// Begins moves. All of them are looked up first: a mistyped name begins none.
    pub fn begin_moves(&self, asked: MoveRequest) -> Result<Vec<api::Move>> {
        if asked.workloads.is_empty() {
            return Err(Error::new(Kind::Usage, "No workload is named"));
        }
        if asked.plan.is_some() && asked.workloads.len() > 1 {
            return Err(Error::new(Kind::Usage, "A plan is for one workload, and several are named"));
        }
        if !asked.with.is_empty() && (asked.workloads.len() > 1 || asked.from.is_some()) {
            return Err(Error::new(
                Kind::Usage,
                "Paths are named for one workload, on the host that it runs on",
            ));
        }
        let with = declared(&asked.with)?;
        let here = self.identity().name();
        match asked.from.as_ref().filter(|from| *from != here) {
            Some(from) if asked.to != *here => Err(Error::new(
                Kind::Usage,
                format!("{here} can fetch to itself, and cannot send what is on {from}"),
            )
            .hint(format!("say it on {from}, or on {}", asked.to))),
            Some(from) => asked.workloads.iter().map(|name| self.pull(from, name, &asked)).collect(),
            None => {
                let find = |name: &String| self.workloads.find(name);
                let ids = asked.workloads.iter().map(find).collect::<Result<Vec<WorkloadId>>>()?;
                for id in &ids {
                    self.workloads.client(*id)?;
                }
                let begin = |id| {
                    let plan = asked.plan.clone();
                    let end_connections = asked.end_connections;
                    self.begin_move(Request {
                        plan,
                        with: with.clone(),
                        end_connections,
                        live: asked.live,
                        ..request(id, &asked.to, asked.method)?
                    })
                };
                ids.into_iter().map(begin).collect()
            }
        }
    }

    /// Begins a remote cloning.
    pub fn begin_clone(&self, workload: &str, asked: CloneRequest) -> Result<api::Move> {
        let id = self.workloads.find(workload)?;
        self.workloads.client(id)?;
        let new = crate::workloads::new_id()?;
        let name = self.workloads.name_for(asked.name.as_deref(), new)?;
        let clone = CloneSpec { id: new, name, address: asked.net };
        self.begin_move(Request { clone: Some(clone), ..request(id, &asked.to, Method::StopAndCopy)? })
    }

    fn begin_move(&self, request: Request) -> Result<api::Move> {
        let what = format!("send {} to {}", request.workload, request.to);
        let begun = self.movements()?.begin(request);
        match &begun {
            Ok(_) => self.audit.note("this node", &what, Verdict::Allowed, "asked through its API"),
            Err(error) => self.audit.note("this node", &what, Verdict::Refused, &error.message),
        }
        self.get_move(&begun?.to_string())
    }

    /// Has another host begin a move to here.
    fn pull(&self, from: &HostName, name: &str, asked: &MoveRequest) -> Result<api::Move> {
        let (workload, method, live) = (name.to_owned(), asked.method, asked.live);
        let reply = self.peers().ask(from, &Ask::Pull { workload, method, live })?;
        let Reply::Moving { id, .. } = reply else {
            return Err(Error::new(Kind::Bug, format!("{from} answered something else")));
        };
        self.pulled().insert(id, from.clone());
        self.look_at(from, id)
    }

    /// Another host asks to be sent a workload of this one.
    pub fn pulled_by(&self, from: &HostName, name: &str, method: Method, live: LiveOptions) -> Result<Reply> {
        let what = format!("fetch {name}");
        let may = self.workloads.find(name).and_then(|id| {
            // One that left is refused with the name of the host that it is on.
            self.workloads.client(id)?;
            let name = self.workloads.get(id)?.name;
            match self.policy()?.pull_refusal(from, &name) {
                None => Ok(id),
                Some(why) => {
                    Err(Error::new(Kind::Refused, format!("{} refuses: {why}", self.identity().name())))
                }
            }
        });
        let begun = may
            .and_then(|workload| Ok((Request { live, ..request(workload, from, method)? }, workload)))
            .and_then(|(request, workload)| Ok((self.movements()?.begin(request)?, workload)));
        match begun {
            Ok((id, workload)) => {
                self.audit.note(from.as_str(), &what, Verdict::Allowed, "policy");
                Ok(Reply::Moving { id, workload })
            }
            Err(error) => {
                self.audit.note(from.as_str(), &what, Verdict::Refused, &error.message);
                Err(error)
            }
        }
    }

    /// All moves in which this host takes or took part, the newest last.
    pub fn list_moves(&self) -> Result<Vec<api::Move>> {
        let running = self.movements()?.list();
        let mut moves = history::load(&self.config().state)?;
        moves.retain(|old| running.iter().all(|now| now.id != old.id));
        moves.extend(running.iter().map(|one| view::summary(self.identity().name(), one)));
        moves.sort_by_key(|one| one.began_unix);
        Ok(moves)
    }

    /// One move, with everything that happened, by its id or the beginning of it.
    pub fn get_move(&self, wanted: &str) -> Result<api::Move> {
        let id = self.find_move(wanted)?;
        if let Some(one) = self.movements()?.get(id) {
            return Ok(view::whole(self.identity().name(), &one));
        }
        let from = self.pulled().get(&id).cloned();
        if let Some(from) = from {
            return self.look_at(&from, id);
        }
        history::load_one(&self.config().state, id)
    }

    /// The events of a move from the one numbered `seen` on, and whether it has ended. Waits a little for the first.
    pub fn follow_move(&self, id: MoveId, seen: usize) -> Result<(Vec<Event>, bool)> {
        if let Some(one) = self.movements()?.get(id).filter(|_| !self.pulled().contains_key(&id)) {
            return Ok(one.recorder.follow(seen, Duration::from_secs(5)));
        }
        let one = self.get_move(&id.to_string())?;
        let ended = one.events.iter().any(|event| matches!(event.what, What::End { .. }));
        let new = one.events.get(seen..).unwrap_or_default().to_vec();
        if new.is_empty() && !ended {
            std::thread::sleep(LOOK_EVERY);
        }
        Ok((new, ended))
    }

    /// Gives a move up, as long as that is allowed; the workload goes on at the source.
    pub fn cancel_move(&self, wanted: &str) -> Result<api::Move> {
        let id = self.find_move(wanted)?;
        if self.movements()?.get(id).is_none() && self.get_move(wanted)?.state == MoveState::Running {
            return Err(
                Error::new(Kind::Refused, "The move was begun at the other host").hint("cancel it there")
            );
        }
        if self.movements()?.get(id).is_none() {
            return Err(Error::new(Kind::Refused, format!("Move {id} is over"))
                .hint(format!("ferry moves show {id}")));
        }
        self.movements()?.cancel(id, "A person gave it up")?;
        // Most moves give up at once; one in the middle of a capture hears of it at its end.
        let end = Instant::now() + CANCEL_TIME_MAX;
        loop {
            let one = self.get_move(&id.to_string())?;
            match one.state {
                MoveState::Running if Instant::now() < end => std::thread::sleep(LOOK_EVERY / 4),
                MoveState::Done => {
                    return Err(Error::new(
                        Kind::Refused,
                        format!("It came too late: {} runs on {}", one.name, one.target),
                    ));
                }
                _ => return Ok(one),
            }
        }
    }

    /// The move that a workload is in.
    pub fn move_of(&self, workload: WorkloadId) -> Option<MoveId> {
        let moves = self.movements().ok()?.list();
        let running =
            |one: &&ferry_session::movement::Move| one.standing == ferry_session::movement::Standing::Running;
        moves.iter().filter(running).find(|one| one.workload == workload).map(|one| one.id)
    }

    /// How many are under way.
    #[must_use]
    pub fn moves_running(&self) -> usize {
        let running = ferry_session::movement::Standing::Running;
        self.movements().map_or(0, |all| all.list().iter().filter(|one| one.standing == running).count())
    }

    fn find_move(&self, wanted: &str) -> Result<MoveId> {
        let digits = wanted.strip_prefix("m-").unwrap_or(wanted);
        let mut known: Vec<MoveId> = self.list_moves()?.into_iter().map(|one| one.id).collect();
        known.extend(self.pulled().keys().copied());
        known.sort();
        known.dedup();
        let begins = |id: &MoveId| digits.len() >= 4 && id.to_string()[2..].starts_with(digits);
        match known.into_iter().filter(begins).collect::<Vec<_>>()[..] {
            [id] => Ok(id),
            [] => Err(Error::new(Kind::Usage, format!("There is no move '{wanted}' here"))
                .hint("`ferry moves ls` lists them")),
            _ => Err(Error::new(Kind::Usage, format!("Several moves' ids begin with '{wanted}'"))),
        }
    }

    /// A move that this host fetches, as the other host tells it: there the whole story is.
    fn look_at(&self, from: &HostName, id: MoveId) -> Result<api::Move> {
        match self.peers().ask_within(from, &Ask::Move { id }, LOOK_TIME_MAX)? {
            Reply::Move { report } => {
                let mut one = view::from_report(id, from, self.identity().name(), report);
                one.role = MoveRole::Target;
                Ok(one)
            }
            _ => Err(Error::new(Kind::Bug, format!("{from} answered something else"))),
        }
    }

    /// What another host is told of a move between it and this one.
    pub fn tell_move(&self, from: &HostName, id: MoveId) -> Result<Reply> {
        let no_such = || Error::new(Kind::Usage, format!("There is no move {id} between us"));
        let one = self.movements()?.get(id).filter(|one| one.peer == *from).ok_or_else(no_such)?;
        Ok(Reply::Move { report: view::report(&one) })
    }
}

fn request(workload: WorkloadId, to: &HostName, method: Method) -> Result<Request> {
    let mut id = [0; 16];
    crate::trust::fill_random(&mut id)?;
    Ok(Request {
        id: MoveId(id),
        workload,
        to: to.clone(),
        method,
        clone: None,
        plan: None,
        bindings: Vec::new(),
        with: Vec::new(),
        end_connections: false,
        live: LiveOptions::default(),
    })
}
