//! How a move begins at its target: questions and answers, what the move is, and the offer.

use super::link::Link;
use super::node::{Node, Offer};
use super::planning;
use crate::shim::Spec;
use crate::shim::protocol::ClocksAt;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::handover::{Body, Key, Message, Purpose, Terms};
use ferry_model::ids::{Hash, HostName, MoveId, WorkloadId};
use ferry_model::planning::{Method, PAGES_FOLLOW};
use ferry_model::resource::Action;
use ferry_sys::timens::Clocks;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::control;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the source may take between two steps before the target gives up, while it may.
const STEP_MAX: Duration = Duration::from_secs(120);

/// Where page streams of this move are handed in by whoever accepted them.
#[derive(Clone)]
pub(super) struct PageDoor {
    secret: Arc<Mutex<Option<[u8; 32]>>>,
    sender: SyncSender<Box<dyn Stream>>,
}

impl PageDoor {
    pub fn new() -> (Self, Receiver<Box<dyn Stream>>) {
        let (sender, receiver) = sync_channel(super::STREAMS_MAX as usize);
        (Self { secret: Arc::default(), sender }, receiver)
    }

    /// Whether this is the move's secret.
    pub fn opens(&self, secret: &[u8; 32]) -> bool {
        let kept = self.secret.lock().unwrap_or_else(PoisonError::into_inner);
        // Compared as hashes, so that the time it takes tells nothing.
        kept.as_ref().is_some_and(|kept| Hash::of(kept) == Hash::of(secret))
    }

    pub fn hand_in(&self, stream: Box<dyn Stream>) -> bool {
        self.sender.try_send(stream).is_ok()
    }
}

/// What the source announced.
pub(super) struct Begin {
    pub streams: u32,
    pub method: Method,
    pub spec: Spec,
    pub clone: bool,
    pub plan: Hash,
    pub clocks: Option<ClocksAt>,
}

/// Whether pages of a workload may be missing here while it runs.
fn follows(node: &Arc<dyn Node>) -> bool {
    planning::has(&node.facts(), PAGES_FOLLOW)
}

/// Questions and answers, up to the offer.
pub(super) fn introduction(
    node: &Arc<dyn Node>,
    link: &mut Link,
    peer: &HostName,
    (workload, mv): (WorkloadId, MoveId),
    door: &PageDoor,
) -> Result<Option<(Begin, Key, Terms)>> {
    let mut begin = None;
    loop {
        match link.expect(STEP_MAX).map_err(|e| planning::link_error(&e))? {
            control::Message::Ask { resources, network, name, clone } => {
                let network = network.as_deref();
                let offer = Offer { from: peer, name: &name, network, clone, resources: &resources };
                let answer = planning::answer(node, &offer);
                let sent = link.send(&control::Message::Answer { answer });
                sent.map_err(|e| planning::link_error(&e))?;
            }
            control::Message::Begin { secret, streams, method, plan, spec, clone, clocks } => {
                let clocks = clocks.map(|(monotonic_ns, boottime_ns)| {
                    let at_ns = u64::try_from(Clocks::now().monotonic_ns).unwrap_or(0);
                    ClocksAt { monotonic_ns, boottime_ns, at_ns }
                });
                let mut spec: Spec = minicbor::decode(&spec).map_err(|e| {
                    Error::new(Kind::Refused, format!("The workload's description is unreadable: {e}"))
                })?;
                // The bridge is this host's matter, whatever it is called elsewhere.
                if let (Some(network), Some(bridge)) = (&mut spec.network, node.facts().bridge) {
                    network.bridge = bridge;
                }
                let travels = |path: &str| {
                    let moved = |action| matches!(action, Action::Move | Action::Copy);
                    plan.items.iter().any(|item| item.resource.name == path && moved(item.action))
                };
                spec.with.retain(|with| !travels(&with.path));
                let resources: Vec<_> = plan.items.iter().map(|item| item.resource.clone()).collect();
                let network = spec.network.as_ref().and_then(|net| net.addresses.first());
                let network = network.map(String::as_str);
                let offer = Offer { from: peer, name: &spec.name, network, clone, resources: &resources };
                let refusals = node.refusals(&offer);
                if spec.id != workload || !plan.blockers.is_empty() || !refusals.is_empty() {
                    let error = Error::new(
                        Kind::Refused,
                        format!("{} refuses: {}", node.host(), refusals.join("; ")),
                    );
                    let _ = link.send(&control::Message::Failed { error: error.clone() });
                    return Err(error);
                }
                *door.secret.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
                let plan = Hash::of(&minicbor::to_vec(&plan).unwrap_or_default());
                let streams = streams.clamp(1, super::STREAMS_MAX);
                begin = Some(Begin { streams, method, spec, clone, plan, clocks });
            }
            control::Message::Handover { message } => {
                let message: Message = minicbor::decode(&message)
                    .map_err(|e| Error::new(Kind::Refused, format!("An unreadable offer: {e}")))?;
                let Body::Offer { terms } = message.body else { continue };
                let fits = |begin: &Begin| {
                    message.key.id == workload
                        && message.key.mv == mv
                        && terms.plan == begin.plan
                        && (terms.purpose == Purpose::Clone) == begin.clone
                        && (!terms.post_copy || (begin.method.is_live() && !begin.clone && follows(node)))
                };
                return match begin {
                    Some(begin) if fits(&begin) => Ok(Some((begin, message.key, terms))),
                    _ => Err(Error::new(Kind::Refused, "The offer is not of the move that was announced")),
                };
            }
            control::Message::Bye => return Ok(None),
            other => return Err(Error::new(Kind::Refused, format!("{other:?} where a question was due"))),
        }
    }
}
