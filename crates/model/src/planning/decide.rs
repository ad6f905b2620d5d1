//! One resource, one decision: the first action of its cell that can be carried out between these two hosts.

use super::{Method, Options, UNATTACHED_BYTES_MAX, is_memory, table};
use crate::facts::{Answer, Found};
use crate::plan::{Blocker, Resource};
use crate::resource::{Action, Attachment, Binding};

/// What is done, why, and what crosses the network for it.
pub(super) struct Decision {
    pub action: Action,
    pub reason: String,
    pub bytes: u64,
}

/// Walks the cell's choices. What none of them can do is a blocker with what lifts it.
pub(super) fn decide(resource: &Resource, answer: &Answer, options: &Options) -> Result<Decision, Blocker> {
    if let Some(decision) = by_reference_that_exists(resource, answer) {
        return Ok(decision);
    }
    if resource.sort == super::UNDECLARED
        && let Some(blocker) = &resource.unsupported
    {
        return Err(blocker.clone());
    }
    if options.end_connections && ends(resource) {
        let reason = "it is ended, as --end-connections says: its peer gets a reset".to_owned();
        return Ok(Decision { action: Action::Rebind, reason, bytes: 0 });
    }
    let mut refused = Vec::new();
    for &action in table::choices(resource.binding, resource.attachment) {
        match attempt(action, resource, answer, options) {
            Ok(decision) => return Ok(decision),
            Err(why) => refused.push(why),
        }
    }
    Err(Blocker {
        what: format!("{} {}: {}", resource.sort, described(resource), refused.join("; ")),
        lifted_by: lift(resource),
    })
}

/// A file on a file system that both hosts mount needs no transfer, whatever its cell says first: its name already
/// is a global reference.
fn by_reference_that_exists(resource: &Resource, answer: &Answer) -> Option<Decision> {
    let here = resource.shared.as_ref()?;
    let there = answer.holding(&resource.sort, &resource.name)?.shared.as_ref()?;
    (here == there).then(|| Decision {
        action: Action::Rebind,
        reason: format!("both hosts have it on the same shared file system ({here})"),
        bytes: 0,
    })
}

/// What becomes of a program that remembers the inode number of a file. None where it keeps it, or loses its memory too.
pub(super) fn remembered(resource: &Resource, answer: &Answer, options: &Options) -> Option<String> {
    let kept = by_reference_that_exists(resource, answer).is_some() || options.method == Method::Cold;
    (!kept).then(|| {
        format!(
            "{} is an SQLite data base: whoever has it open remembers its inode number, which is another one after the move, and \
             may begin no other transaction (\"attempt to write a readonly database\") until it opens the file again",
            described(resource)
        )
    })
}

/// What a live move sends in the pause because writes to it cannot be told.
pub(super) fn untracked(resource: &Resource, options: &Options) -> Option<String> {
    let live = matches!(options.method, Method::Auto | Method::PreCopy | Method::PostCopy | Method::Hybrid);
    live.then(|| {
        let (name, kib) = (&resource.name, resource.bytes >> 10);
        format!("{name}, cannot be tracked: its {kib} KiB travel in the pause of a live move")
    })
}

fn attempt(
    action: Action,
    resource: &Resource,
    answer: &Answer,
    options: &Options,
) -> Result<Decision, String> {
    let found = answer.holding(&resource.sort, &resource.name).map(|holding| holding.found);
    match action {
        Action::Move => {
            let reason = match (resource.binding, options.clone) {
                (Binding::Identifier, true) => "its copy goes with the clone, which has its own from then on",
                (Binding::Identifier, false) => "it is the workload's own and moves with it",
                _ => "the target has none, so the workload brings its own",
            };
            if options.clone && resource.sort == "address" {
                return Err("an address cannot be in two places: the clone gets its own with --net".into());
            }
            moves(resource)?;
            Ok(Decision { action, reason: reason.into(), bytes: resource.bytes })
        }
        Action::Copy => {
            moves(resource)?;
            if found == Some(Found::Same) && resource.hash.is_some() {
                let reason = format!("{} already has the same content", options.target);
                return Ok(Decision { action: Action::Rebind, reason, bytes: 0 });
            }
            let reason = match found {
                Some(Found::Different) => format!(
                    "{} has other content under this name; the workload sees its own copy",
                    options.target
                ),
                _ => format!("{} does not have it", options.target),
            };
            Ok(Decision { action, reason, bytes: resource.bytes })
        }
        Action::Reference => {
            Err("a global reference to it would be needed, and those are not served yet".into())
        }
        Action::Rebind => match found {
            Some(Found::Same) => {
                Ok(Decision { action, reason: format!("{} has one of this type", options.target), bytes: 0 })
            }
            Some(Found::Different) => Err(format!("on {} it is taken", options.target)),
            Some(Found::Absent) => Err(format!("{} has none", options.target)),
            // Not asked about: the capsule or the shim makes one on whatever host it is (a terminal, /dev/null).
            None if resource.attachment != Attachment::Fixed => {
                Ok(Decision { action, reason: "the target makes one of the same type".into(), bytes: 0 })
            }
            None => Err(format!("{} said nothing about it", options.target)),
        },
    }
}

/// Whether a connection belongs to its host's address, so that it can be ended but not moved.
fn ends(resource: &Resource) -> bool {
    resource.sort == "tcp-connection" && resource.attachment == Attachment::Fixed
}

fn moves(resource: &Resource) -> Result<(), String> {
    let is_large = resource.bytes > UNATTACHED_BYTES_MAX && !is_memory(&resource.sort);
    match resource.attachment {
        Attachment::Fixed => Err("it is fixed to its host".into()),
        Attachment::Unattached if is_large => Err(format!(
            "its {} MiB are over the {} MiB that move without being named",
            resource.bytes >> 20,
            UNATTACHED_BYTES_MAX >> 20
        )),
        _ => Ok(()),
    }
}

fn described(resource: &Resource) -> String {
    match resource.holder {
        Some(holder) => match holder.fd {
            Some(fd) => format!("{} (pid {}, descriptor {fd})", resource.name, holder.pid),
            None => format!("{} (pid {})", resource.name, holder.pid),
        },
        None => resource.name.clone(),
    }
}

fn lift(resource: &Resource) -> String {
    match resource.sort.as_str() {
        "tcp-connection" => {
            "end it (--end-connections: its peer gets a reset), or run the workload with an address of its own: ferry run --net ADDR/LEN"
                .into()
        }
        "listener" | "udp-socket" | "address" => {
            "run the workload with an address of its own: ferry run --net ADDR/LEN".into()
        }
        _ if resource.name.starts_with('/') => {
            format!(
                "name it so that it moves with the workload: --with {}:identifier, or put it on a file system that both hosts share",
                resource.name
            )
        }
        _ => "close it, or choose a target that has one".into(),
    }
}
