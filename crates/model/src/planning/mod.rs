//! Making a plan: a pure function of what the source found, what the target answered and what the user allows.
//!
//! It touches nothing and decides everything: a move executes the plan or refuses. Blockers come from three places:
//! a host that does not fit (`fit`), a resource that no action can serve (`decide`), and the target's policy.

mod decide;
mod fit;
mod stable;
pub mod table;

use crate::facts::Answer;
use crate::ids::HostName;
use crate::plan::{Blocker, Inventory, Item, Plan, Resource};
use crate::resource::Binding;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::fmt;

pub use fit::{PAGES_FOLLOW, TRACKS_WRITES, visible_to_programs};
pub use stable::facts_hash;

/// Largest file that moves as if it were not attached to its host, bytes. Above it the user has to say so with
/// `--with`: moving it is possible, but it should not come as a surprise.
pub const UNATTACHED_BYTES_MAX: u64 = 4 << 30;

/// Sort of a directory of which the workload needs more than is known: it stands in the way until the user has named it by `--with`,
/// or both hosts have it on the same shared file system.
pub const UNDECLARED: &str = "undeclared-directory";

/// Sort of a file of which somebody remembers the inode number, which is another one after a move unless both hosts share the file: named
/// as an exception.
pub const REMEMBERED_INODE: &str = "remembered-inode";

/// Sort of a process' memory: it needs no room on a disk, unless an image is made of it.
pub const MEMORY: &str = "memory";

/// Sort of the memory that a process shares since a fork and has for itself after a move.
pub const MEMORY_GROWTH: &str = "memory-growth";

/// Whether this sort of resource is memory of a process, which needs no room on a disk and has no name that a user could give.
#[must_use]
pub fn is_memory(sort: &str) -> bool {
    [MEMORY, MEMORY_GROWTH, UNTRACKED].contains(&sort)
}

/// Sort of what an inventory names because writes to it cannot be told: a live move sends it in the pause, and the plan says so as an
/// exception.
pub const UNTRACKED: &str = "untracked";

/// How the workload is moved.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Stop, move code and files, start anew. Execution state is lost.
    #[n(0)]
    Cold,
    /// Suspend to an image, copy the image, resume.
    #[n(1)]
    Warm,
    /// As warm, streamed, with no image on disk.
    #[n(2)]
    StopAndCopy,
    /// The one that is predicted to serve best.
    #[n(3)]
    #[default]
    Auto,
    /// Memory in rounds while it runs, the rest in the pause.
    #[n(4)]
    PreCopy,
    /// Resumed first; memory follows on demand and in the background.
    #[n(5)]
    PostCopy,
    /// One round of pre-copy, then post-copy.
    #[n(6)]
    Hybrid,
}

impl Method {
    /// Whether memory travels while the workload runs, here or there.
    #[must_use]
    pub fn is_live(self) -> bool {
        match self {
            Self::Cold | Self::Warm | Self::StopAndCopy => false,
            Self::Auto | Self::PreCopy | Self::PostCopy | Self::Hybrid => true,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::StopAndCopy => "stop-and-copy",
            Self::Auto => "auto",
            Self::PreCopy => "pre-copy",
            Self::PostCopy => "post-copy",
            Self::Hybrid => "hybrid",
        })
    }
}

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Options {
    /// To where.
    #[n(0)]
    pub target: HostName,
    /// How.
    #[n(1)]
    pub method: Method,
    /// The original goes on: a remote clone instead of a migration.
    #[n(2)]
    pub clone: bool,
    /// Names of resources whose binding the user overrides (`--with PATH:binding`).
    #[n(3)]
    pub bindings: Vec<(String, Binding)>,
    /// Connections that cannot move are ended: their peers get a reset.
    #[n(4)]
    #[serde(default)]
    #[cbor(default)]
    pub end_connections: bool,
    /// Where rounds do not get there, pages may follow after the resume.
    #[n(5)]
    #[serde(default)]
    #[cbor(default)]
    pub may_switch: bool,
}

/// Decides what a move would do. Blockers and exceptions included; nothing is touched.
#[must_use]
pub fn make(inventory: &Inventory, answer: &Answer, options: &Options) -> Plan {
    let mut plan = make_here(inventory, answer, options);
    if options.target == inventory.facts.host {
        plan.blockers.insert(
            0,
            Blocker {
                what: format!("{} is where the workload already runs", options.target),
                lifted_by: "name another host: ferry host ls".into(),
            },
        );
    }
    plan
}

/// As [`make`], for a workload that runs nowhere: a restore may bring it back to the host that it was on.
#[must_use]
pub fn make_here(inventory: &Inventory, answer: &Answer, options: &Options) -> Plan {
    let mut blockers = Vec::new();
    if options.method != Method::Cold {
        blockers.extend(fit::execution(&inventory.facts, &answer.facts));
    }
    blockers.extend(fit::tracking(&inventory.facts, options));
    blockers.extend(fit::following(&answer.facts, options));
    blockers.extend(fit::room(inventory, &answer.facts, options));
    blockers.extend(answer.refusals.iter().map(|refusal| Blocker {
        what: format!("{} refuses: {refusal}", options.target),
        lifted_by: format!("change the policy of {} (policy.toml in its state directory)", options.target),
    }));

    let mut items = Vec::with_capacity(inventory.resources.len());
    let mut exceptions = exceptions(inventory, answer, options);
    for resource in &inventory.resources {
        if resource.sort == REMEMBERED_INODE {
            exceptions.extend(decide::remembered(resource, answer, options));
            continue;
        }
        if resource.sort == UNTRACKED {
            exceptions.extend(decide::untracked(resource, options));
            continue;
        }
        match item(resource, answer, options) {
            Ok(item) => items.push(item),
            Err(blocker) => blockers.push(blocker),
        }
    }
    Plan {
        workload: inventory.workload,
        source: inventory.facts.host.clone(),
        target: options.target.clone(),
        items,
        blockers,
        exceptions,
        facts: facts_hash(inventory, answer, options),
    }
}

fn item(resource: &Resource, answer: &Answer, options: &Options) -> Result<Item, Blocker> {
    let mut resource = resource.clone();
    if let Some((_, binding)) = options.bindings.iter().find(|(name, _)| *name == resource.name) {
        resource.binding = *binding;
    }
    // A cold move loses the execution state, so what cannot be captured of it stands in nobody's way. Files it does not lose.
    if options.method != Method::Cold
        && resource.sort != UNDECLARED
        && let Some(blocker) = &resource.unsupported
    {
        return Err(blocker.clone());
    }
    let decision = decide::decide(&resource, answer, options)?;
    Ok(Item { resource, action: decision.action, reason: decision.reason, bytes: decision.bytes })
}

fn exceptions(inventory: &Inventory, answer: &Answer, options: &Options) -> Vec<String> {
    let mut named = Vec::new();
    let (source, target) = (&inventory.facts.host, &options.target);
    let until = format!(
        "until the last page is in it needs both hosts: if {source} or {target} is lost before, the workload is lost with it"
    );
    let can = answer.facts.kernel_features.iter().any(|feature| feature == PAGES_FOLLOW);
    match options.method {
        Method::PostCopy | Method::Hybrid => named.push(format!("it runs on {target} before its memory is there; {until}")),
        Method::PreCopy | Method::Auto if options.may_switch && can => {
            let when = match options.method {
                Method::Auto => "where rounds would not keep the pause, its memory or a part of it",
                _ => "if rounds do not get there, the rest",
            };
            named.push(format!("{when} follows after the resume (--on-no-convergence stop does without); then {until}"));
        }
        Method::PreCopy | Method::Auto if options.may_switch => named.push(format!(
            "if rounds do not get there, the rest travels while it stands still: {target} lacks {PAGES_FOLLOW}, so nothing can follow after the resume"
        )),
        _ => {}
    }
    if !options.clone {
        named.push(format!(
            "if {} is lost for good between the commit and the resume, the workload is lost with it",
            options.target
        ));
    }
    if options.method == Method::Cold {
        named.push("a cold move ends the workload and starts it anew: what it held in memory is lost".into());
    }
    named
}

#[cfg(test)]
mod tests;
