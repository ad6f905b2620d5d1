//! The node itself: what the API and the peers ask of it.

use crate::api::who::Who;
use crate::audit::{Audit, Verdict};
use crate::files;
use crate::journals::OpenJournals;
use crate::moves::keep_history;
use crate::peers::wire::{Reply, Request};
use crate::peers::{Handler, Peers, push_members};
use crate::policy::Policy;
use crate::trust::identity::Identity;
use crate::trust::join::{JoinAnswer, JoinRequest, admit};
use crate::trust::members::{Members, Operator};
use crate::trust::token::Token;
use crate::trust::{now_unix, operator};
use crate::up::{Config, set_address};
use crate::workloads::Workloads;
use ferry_model::api;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::facts::HostFacts;
use ferry_model::handover::By;
use ferry_model::ids::{BootId, HostName, MoveId};
use ferry_session::decider::Embedded;
use ferry_session::facts::FileHashes;
use ferry_session::movement::Movements;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::greeting::Hello;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a host may take to say that it is there, for a list.
const PING_TIME_MAX: Duration = Duration::from_secs(2);

/// Where a node is reached.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// By peers, as they are told.
    pub peers: Option<String>,
    /// By operators.
    pub api: Option<String>,
}

/// A node.
pub struct Node {
    config: Config,
    identity: Identity,
    peers: Arc<Peers>,
    /// The workloads of this host.
    pub workloads: Workloads,
    /// Their journals.
    pub journals: Arc<OpenJournals>,
    /// Who owns which workload.
    pub registry: Embedded,
    /// What was let in or turned away.
    pub audit: Audit,
    /// Remembered content hashes of files, for plans.
    pub hashes: FileHashes,
    boot: BootId,
    began: Instant,
    addresses: Addresses,
    movements: OnceLock<Movements>,
    pulled: Mutex<HashMap<MoveId, HostName>>,
}

impl Node {
    /// The node that is `identity`; reached at `addresses`.
    pub fn new(
        config: Config,
        identity: Identity,
        peers: Arc<Peers>,
        addresses: Addresses,
    ) -> Result<Arc<Self>> {
        let journals = Arc::new(OpenJournals::new(&config.state, identity.name()));
        let registry = Embedded::new(identity.name().clone(), journals.clone(), peers.clone());
        let audit = Audit::open(&config.state)?;
        let boot = boot_id()?;
        let workloads = Workloads::open(&config, identity.name(), boot, journals.clone())?;
        let began = Instant::now();
        let node = Arc::new(Self {
            config,
            identity,
            peers,
            workloads,
            journals,
            registry,
            audit,
            hashes: FileHashes::default(),
            boot,
            began,
            addresses,
            movements: OnceLock::new(),
            pulled: Mutex::default(),
        });
        let _ = node.movements.set(Movements::new(node.clone()));
        let kept = Arc::downgrade(&node);
        std::thread::spawn(move || keep_history(&kept));
        Ok(node)
    }

    /// The moves of this host.
    pub fn movements(&self) -> Result<&Movements> {
        self.movements.get().ok_or_else(|| Error::new(Kind::Unable, "The node is not up yet"))
    }

    /// Moves that this host fetches, with the host that sends.
    pub fn pulled(&self) -> MutexGuard<'_, HashMap<MoveId, HostName>> {
        self.pulled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is done once after the start, beside serving.
    pub fn begin(&self) {
        if self.identity.is_authority() {
            push_members(&self.peers);
        }
        if let Err(error) = ferry_session::movement::Node::visits(self).tidy() {
            tracing::warn!(%error, "what is kept of workloads that have left could not be looked through");
        }
        let (found, restarted) = self.workloads.reconnect();
        tracing::info!(workloads = found, shims_restarted = restarted, "workloads found");
        for id in self.workloads.ids_on_disk() {
            match self.movements().and_then(|moves| moves.recover(id)) {
                Ok(Some(id)) => tracing::info!(%id, "a move is taken up again from its journal"),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(workload = %id, %error, causes = ?error.causes, "its journal cannot be read")
                }
            }
        }
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it keeps its things.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The other nodes.
    #[must_use]
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// This boot of this host.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// What this host says of itself for plans.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        let bridge = std::path::Path::new("/sys/class/net").join(&self.config.bridge).exists();
        let bridge = bridge.then(|| self.config.bridge.clone());
        let gathered = ferry_session::facts::gather(
            self.identity.name(),
            &self.config.state,
            ferry_sys::features::working(&self.config.state),
            bridge,
        );
        gathered.unwrap_or_else(|error| {
            tracing::error!(%error, causes = ?error.causes, "the facts of this host cannot be gathered");
            // A host of which nothing is known fits nothing: every plan to it has blockers.
            HostFacts {
                host: self.identity.name().clone(),
                architecture: String::new(),
                kernel_release: String::new(),
                cpu_flags: Vec::new(),
                xsave_bytes: 0,
                vdso: None,
                page_bytes: 0,
                kernel_features: Vec::new(),
                memory_available_bytes: 0,
                disk_available_bytes: 0,
                bridge: None,
            }
        })
    }

    /// What `GET /v1/node` says.
    #[must_use]
    pub fn status(&self) -> api::NodeStatus {
        let members = self.peers.roster().now();
        let operator =
            |one: &Operator| api::Operator { name: one.name.clone(), expires_unix: one.expires_unix };
        api::NodeStatus {
            name: self.identity.name().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            boot: self.boot,
            listen: self.addresses.peers.clone(),
            api: self.addresses.api.clone(),
            authority: api::AuthorityStatus {
                node: self.identity.authority_node().clone(),
                fingerprint: self.identity.fingerprint().to_string(),
                here: self.identity.is_authority(),
                members_version: members.version,
            },
            operators: members.present_operators(now_unix()).map(operator).collect(),
            workloads: self.workloads.count(),
            moves: self.moves_running(),
            visits_bytes: ferry_session::movement::Node::visits(self).bytes().unwrap_or(0),
            visits_bytes_max: self.config.visits_bytes_max,
            uptime_seconds: self.began.elapsed().as_secs(),
        }
    }

    /// Makes a join token; only on the authority's node.
    pub fn token(&self, who: &Who, request: &api::TokenRequest) -> Result<api::Token> {
        self.only_on_authority("gives out tokens")?;
        if self.peers.roster().now().taken(&request.name, now_unix()) {
            return Err(Error::new(
                Kind::Refused,
                format!("There is a host or an operator named {} already", request.name),
            )
            .hint(format!("put it out first: ferry node rm {}", request.name)));
        }
        let address = self.addresses.peers.clone();
        if address.is_none() {
            return Err(Error::new(Kind::Refused, "Nobody can join: this node listens to nobody")
                .hint("start it with `ferry node up --listen ADDR`"));
        }
        let fingerprint = self.identity.fingerprint();
        let token =
            Token::issue(&self.config.state, fingerprint, &request.name, request.valid_seconds, address)?;
        self.audit.note(
            &who.to_string(),
            &format!("token for {}", request.name),
            Verdict::Allowed,
            who.proof(),
        );
        Ok(api::Token { token: token.to_text()?, name: token.name.clone(), expires_unix: token.expires_unix })
    }

    /// Makes an operator; only on the authority's node.
    pub fn operator(&self, who: &Who, request: &api::OperatorRequest) -> Result<api::OperatorSigned> {
        self.only_on_authority("makes operators")?;
        let (name, seconds) = (&request.name, request.valid_seconds);
        let signed =
            operator::sign(&self.config.state, self.peers.roster(), name, &request.request, seconds)?;
        self.audit.note(&who.to_string(), &format!("make {name} an operator"), Verdict::Allowed, who.proof());
        self.tell_members(name);
        Ok(api::OperatorSigned {
            name: name.clone(),
            certificate: signed.certificate,
            authority: signed.authority,
            expires_unix: signed.expires_unix,
        })
    }

    /// Puts a host or an operator out of the fleet, at once.
    pub fn put_out(&self, who: &Who, name: &HostName) -> Result<api::Host> {
        self.only_on_authority("puts members out")?;
        if name == self.identity.name() {
            return Err(Error::new(Kind::Refused, "The authority's own node cannot be put out"));
        }
        self.peers.roster().change(|members| {
            let hosts = members.list.iter_mut().filter(|one| one.name == *name).map(|one| &mut one.removed);
            let operators =
                members.operators.iter_mut().filter(|one| one.name == *name).map(|one| &mut one.removed);
            let removed = hosts.chain(operators).find(|removed| !**removed);
            *removed.ok_or_else(|| no_such_host(name))? = true;
            Ok(true)
        })?;
        self.audit.note(&who.to_string(), &format!("remove {name}"), Verdict::Allowed, who.proof());
        self.tell_members(name);
        Ok(api::Host { name: name.clone(), here: false, address: None, reachable: None, removed: true })
    }

    /// Sends the list of members, in which `name` has changed, to everybody.
    fn tell_members(&self, name: &HostName) {
        let untold = push_members(&self.peers);
        if !untold.is_empty() {
            tracing::warn!(?untold, changed = %name, "not told yet; they learn it when they are back");
        }
    }

    /// The hosts of the fleet, each asked whether it is there.
    #[must_use]
    pub fn hosts(&self) -> Vec<api::Host> {
        let members = self.peers.roster().now();
        std::thread::scope(|scope| {
            let asked: Vec<_> = members.present().map(|member| scope.spawn(|| self.host(member))).collect();
            let mut hosts: Vec<api::Host> = asked.into_iter().filter_map(|host| host.join().ok()).collect();
            hosts.sort_by(|a, b| a.name.cmp(&b.name));
            hosts
        })
    }

    fn host(&self, member: &crate::trust::members::Member) -> api::Host {
        let here = member.name == *self.identity.name();
        let answers = || self.peers.ask_within(&member.name, &Request::Ping, PING_TIME_MAX).is_ok();
        api::Host {
            name: member.name.clone(),
            here,
            address: if here { self.addresses.peers.clone() } else { member.address.clone() },
            reachable: Some(here || (member.address.is_some() && answers())),
            removed: false,
        }
    }

    /// One host, with what it says of itself.
    pub fn host_detail(&self, name: &HostName) -> Result<api::HostDetail> {
        let members = self.peers.roster().now();
        let member = members.find(name).ok_or_else(|| no_such_host(name))?;
        let mut host = self.host(member);
        let facts = if host.here {
            Some(self.facts())
        } else {
            match self.peers.ask(name, &Request::Facts) {
                Ok(Reply::Facts { facts }) => Some(facts),
                _ => None,
            }
        };
        host.reachable = Some(facts.is_some());
        Ok(api::HostDetail { host, facts })
    }

    /// The policy, as it stands now.
    pub fn policy(&self) -> Result<Policy> {
        Policy::load(&self.config.state)
    }

    fn only_on_authority(&self, does: &str) -> Result<()> {
        if self.identity.is_authority() {
            return Ok(());
        }
        let authority = self.identity.authority_node();
        Err(Error::new(Kind::Refused, format!("Only {authority} {does}: it holds the authority's key"))
            .hint(format!("say it on {authority}")))
    }
}

impl Handler for Node {
    fn answer(&self, from: &HostName, request: Request) -> Result<Reply> {
        match request {
            Request::Ping => Ok(Reply::Done),
            Request::Members { have, address } => {
                self.only_on_authority("keeps the list of members")?;
                let before = self.peers.roster().now().version;
                // A member that does not listen keeps no address; whoever asks says only where itself is reached.
                let members =
                    self.peers.roster().change(|members| Ok(set_address(members, from, address.as_ref())))?;
                if members.version != before {
                    let peers = self.peers.clone();
                    std::thread::spawn(move || push_members(&peers));
                }
                Ok(Reply::Members { members: (members.version > have).then(|| (&*members).into()) })
            }
            Request::NewMembers { members } => {
                let authority = &self.peers.roster().now().authority;
                if from != authority {
                    self.audit.note(
                        from.as_str(),
                        "list of members",
                        Verdict::Refused,
                        "it is not the authority's node",
                    );
                    return Err(Error::new(Kind::Refused, format!("Only {authority} says who is a member")));
                }
                self.peers.roster().adopt(Members::from(members))?;
                Ok(Reply::Done)
            }
            Request::Facts => Ok(Reply::Facts { facts: self.facts() }),
            Request::Record { id } => Ok(Reply::Record { record: self.registry.local(id) }),
            Request::Cas { cas } => {
                let answer = self.registry.decide(&cas, &By::Host(from.clone()));
                if let ferry_model::handover::Answer::Refused(why) = &answer {
                    let what = format!("change the owner of {} to {}", cas.new.id, cas.new.owner);
                    self.audit.note(from.as_str(), &what, Verdict::Refused, &why.to_string());
                }
                Ok(Reply::Decided { answer })
            }
            Request::Pull { workload, method, live } => self.pulled_by(from, &workload, method, live),
            Request::Journal { id } => Ok(self.tell_journal(id)),
            Request::Move { id } => self.tell_move(from, id),
        }
    }

    fn moving(&self, from: HostName, hello: Hello, stream: Box<dyn Stream>) {
        let taken = self.movements().and_then(|moves| moves.accept(&from, &hello, stream));
        if let Err(error) = taken {
            self.audit.note(from.as_str(), "a connection of a move", Verdict::Refused, &error.message);
        }
    }

    fn join(&self, request: &JoinRequest) -> Result<JoinAnswer> {
        let what = format!("join as {}", request.name());
        match admit(&self.config.state, self.peers.roster(), request) {
            Ok(answer) => {
                self.audit.note(request.name().as_str(), &what, Verdict::Allowed, "its token was good");
                let peers = self.peers.clone();
                std::thread::spawn(move || push_members(&peers));
                Ok(answer)
            }
            Err(error) => {
                self.audit.note("stranger", &what, Verdict::Refused, &error.message);
                Err(error)
            }
        }
    }

    fn turned_away(&self, address: &str, why: &str) {
        tracing::debug!(address, why, "turned away");
        self.audit.note(address, "connect", Verdict::Refused, why);
    }
}

fn no_such_host(name: &HostName) -> Error {
    Error::new(Kind::Usage, format!("There is no host {name} in the fleet"))
        .hint("`ferry host ls` lists them")
}

fn boot_id() -> Result<BootId> {
    let text =
        files::read_if_there(std::path::Path::new("/proc/sys/kernel/random/boot_id"))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    text.parse().map_err(|cause: ferry_model::ids::BadId| {
        Error::from_source(Kind::Unable, &cause).context("The kernel does not tell which boot this is")
    })
}
