//! The plan's two ends: the source's inventory and questions, the target's facts and answers. The decision between them is
//! `ferry_model::planning`, which touches nothing.

use super::link::Link;
use super::node::{Node, Offer};
use super::registry::{Movements, unreachable};
use super::request::Request;
use crate::shim::protocol::Phase;
use crate::shim::{Client, Spec};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::facts::{Answer, HostFacts};
use ferry_model::ids::WorkloadId;
use ferry_model::plan::{Inventory, Plan};
use ferry_model::planning::{self, Method, Options, PAGES_FOLLOW};
use ferry_transfer::wire::control;
use ferry_transfer::wire::greeting::Purpose;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long the target may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The shim of a workload: the one that lives, or one that takes over what a dead one left.
pub(super) fn shim(node: &Arc<dyn Node>, id: WorkloadId) -> Result<Client> {
    let directory = node.directory(id);
    Client::connect(&directory)
        .or_else(|e| match directory.join(crate::shim::RECORD).exists() {
            true => Client::spawn(&node.program(), &directory, true),
            false => Err(e),
        })
        .map_err(|e| Error::from_source(Kind::Unable, &e).context(format!("{id} has no shim on this host")))
}

/// Whether a copy of the workload, running or frozen, is on this host.
pub(super) fn is_alive(node: &Arc<dyn Node>, id: WorkloadId) -> bool {
    match shim(node, id).and_then(|mut shim| shim.status()) {
        Ok(status) => {
            matches!(status.phase, Phase::Running | Phase::Frozen | Phase::Building | Phase::Prepared)
        }
        // A shim that cannot be asked says nothing about the tasks in its cgroup; only a directory without its record does.
        Err(_) => node.directory(id).join(crate::shim::RECORD).exists(),
    }
}

/// What both hosts have agreed on.
pub(super) struct Agreed {
    pub plan: Plan,
    /// Pages may follow after the resume: the target can wait for them.
    pub follows: bool,
}

/// Whether a host has a kernel feature.
pub(super) fn has(facts: &HostFacts, feature: &str) -> bool {
    facts.kernel_features.iter().any(|each| each == feature)
}

/// Makes the plan. `ask` carries the question to the target and brings its answer.
pub(super) fn make(
    node: &Arc<dyn Node>,
    shim: &mut Client,
    request: &Request,
    ask: impl FnOnce(control::Message) -> Result<control::Message>,
) -> Result<Agreed> {
    let resources = shim.inspect(&request.with)?;
    let status = shim.status()?;
    let spec = status.spec.unwrap_or_default();
    let own = spec.network.as_ref().and_then(|network| network.addresses.first().cloned());
    let question = control::Message::Ask {
        resources: resources.clone(),
        network: request.clone.as_ref().map_or(own, |clone| clone.address.clone()),
        name: request.clone.as_ref().map_or(spec.name, |clone| clone.name.clone()),
        clone: request.clone.is_some(),
    };
    let answer = match ask(question)? {
        control::Message::Answer { answer } => answer,
        other => {
            return Err(Error::new(
                Kind::RolledBack,
                format!("{} answered something else: {other:?}", request.to),
            ));
        }
    };
    let memory_bytes = resources.iter().filter(|each| each.sort == "memory").map(|each| each.bytes).sum();
    let inventory = Inventory { workload: request.workload, facts: node.facts(), resources, memory_bytes };
    let options = Options {
        target: request.to.clone(),
        method: request.method,
        clone: request.clone.is_some(),
        bindings: request.bindings.clone(),
        end_connections: request.end_connections,
        may_switch: request.may_follow(),
    };
    let mut plan = planning::make(&inventory, &answer, &options);
    if status.adopted && !inventory.facts.kernel_features.iter().any(|feature| feature == "nftables") {
        plan.exceptions.push(format!(
            "{} has no nftables: while the workload is frozen its connections are not held back, and a peer that sends may get a reset",
            inventory.facts.host
        ));
    }
    Ok(Agreed { plan, follows: has(&answer.facts, PAGES_FOLLOW) })
}

impl Movements {
    /// Makes a plan; changes nothing.
    ///
    /// # Errors
    /// The target cannot be reached, or the workload does not run here.
    pub fn plan(&self, request: &Request) -> Result<Plan> {
        self.agreed(request).map(|agreed| agreed.plan)
    }

    /// Whether pages may follow after the resume in such a move: the request permits it, and the target can wait for them.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub fn may_follow(&self, request: &Request) -> Result<bool> {
        Ok(request.may_follow() && self.agreed(request)?.follows)
    }

    /// Asks the target over a connection of its own.
    fn agreed(&self, request: &Request) -> Result<Agreed> {
        request.check()?;
        let purpose = Purpose::Control { workload: request.workload, mv: request.id };
        let connected = self.node.connect(&request.to, purpose).and_then(Link::new);
        let mut link = connected.map_err(|e| unreachable(&request.to, &e))?;
        let mut shim = shim(&self.node, request.workload)?;
        let agreed = make(&self.node, &mut shim, request, |ask| {
            link.send(&ask).and_then(|()| link.expect(ANSWER_MAX)).map_err(|e| link_error(&e))
        });
        let _ = link.send(&control::Message::Bye);
        agreed
    }
}

/// Makes the plan of a move over its own connection. One that was given is followed, if no fact has changed since.
pub(super) fn agree(
    node: &Arc<dyn Node>,
    shim: &mut Client,
    link: &mut Link,
    request: &Request,
) -> Result<Agreed> {
    if !request.with.is_empty() {
        shim.declare(&request.with)?;
    }
    let mut agreed = make(node, shim, request, |ask| {
        link.send(&ask).and_then(|()| link.expect(ANSWER_MAX)).map_err(|e| link_error(&e))
    })?;
    if let Some(given) = &request.plan {
        if given.facts != agreed.plan.facts {
            return Err(Error::new(Kind::Refused, "The plan no longer fits: facts of one side have changed")
                .hint("make it again with ferry plan"));
        }
        agreed.plan = given.clone();
    }
    refuse_blockers(&agreed.plan)?;
    Ok(agreed)
}

/// What the clocks show to the workload whose capsule has this init. Without them the target makes its capsule when it has the state.
fn clocks_of(init: i32) -> Option<(u64, u64)> {
    let clocks = ferry_sys::timens::Clocks::now_in(&PathBuf::from(format!("/proc/{init}"))).ok()?;
    Some((u64::try_from(clocks.monotonic_ns).ok()?, u64::try_from(clocks.boottime_ns).ok()?))
}

/// Tells the target what the move is. Returns what the workload is to be there, and the secret of the page streams.
pub(super) fn announce(
    shim: &mut Client,
    link: &mut Link,
    request: &Request,
    plan: &Plan,
) -> Result<(Spec, [u8; 32])> {
    let status = shim.status()?;
    let mut spec = status.spec.ok_or_else(|| Error::new(Kind::Bug, "The shim has no workload"))?;
    if let Some(clone) = &request.clone {
        clone.apply(&mut spec)?;
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| Error::new(Kind::Unable, e.to_string()))?;
    let begin = control::Message::Begin {
        secret,
        streams: request.live.streams.clamp(1, super::STREAMS_MAX),
        method: request.method,
        plan: plan.clone(),
        spec: minicbor::to_vec(&spec).unwrap_or_default().into(),
        clone: request.clone.is_some(),
        clocks: status.init.filter(|_| request.method != Method::Cold).and_then(clocks_of),
    };
    link.send(&begin).map_err(|e| link_error(&e))?;
    Ok((spec, secret))
}

/// A plan with blockers is not executed.
pub(super) fn refuse_blockers(plan: &Plan) -> Result<()> {
    let Some(first) = plan.blockers.first() else { return Ok(()) };
    let mut error = Error::new(
        Kind::Refused,
        format!("The plan has {} blocker(s); the first: {}", plan.blockers.len(), first.what),
    );
    error.causes = plan.blockers.iter().skip(1).map(|blocker| blocker.what.clone()).collect();
    error.hints = plan.blockers.iter().map(|blocker| blocker.lifted_by.clone()).collect();
    error.hints.dedup();
    Err(error)
}

/// The target's answer: facts, what it has of what was asked about, what its policy says against it.
pub(super) fn answer(node: &Arc<dyn Node>, offer: &Offer<'_>) -> Answer {
    Answer { facts: node.facts(), holdings: node.holdings(offer.resources), refusals: node.refusals(offer) }
}

/// An error of the connection, in words. What the other side said of itself stays as it said it.
pub(super) fn link_error(error: &io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(told) => told.clone(),
        None => Error::from_source(Kind::RolledBack, error),
    }
}
