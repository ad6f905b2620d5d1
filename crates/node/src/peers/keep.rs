//! Keeps the lists of members alike: the authority's node pushes each change to everybody at once; every other node asks it
//! for a newer one when it starts and then every few seconds, and says with that where it is reached.

use super::Peers;
use super::wire::{Reply, Request};
use crate::trust::members::Members;
use ferry_model::error::Result;
use std::sync::Arc;
use std::time::Duration;

/// Between two questions to an authority that answers.
const EVERY: Duration = Duration::from_secs(5);

/// Between two questions to one that does not.
const AGAIN: Duration = Duration::from_millis(500);

/// How long one node may take to accept a new list.
const PUSH_TIME_MAX: Duration = Duration::from_secs(3);

/// Asks the authority's node for newer lists until the process ends. `address` is where this node is reached.
pub fn keep_members(peers: Arc<Peers>, address: Option<String>) {
    loop {
        let pause = match ask_authority(&peers, address.as_ref()) {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::debug!(%error, causes = ?error.causes, "the authority's node did not give the list of members");
                AGAIN
            }
        };
        std::thread::sleep(pause);
    }
}

fn ask_authority(peers: &Peers, address: Option<&String>) -> Result<()> {
    let known = peers.roster().now();
    let request = Request::Members { have: known.version, address: address.cloned() };
    match peers.ask_within(&known.authority, &request, PUSH_TIME_MAX)? {
        Reply::Members { members: Some(members) } => peers.roster().adopt(Members::from(members)),
        _ => Ok(()),
    }
}

/// Sends the list of members to everybody, each at the same time; returns who could not be told. They learn it when
/// they ask next.
pub fn push_members(peers: &Arc<Peers>) -> Vec<ferry_model::ids::HostName> {
    let members = peers.roster().now();
    let request = Request::NewMembers { members: (&*members).into() };
    let others = members.present().filter(|member| member.name != *peers.name() && member.address.is_some());
    let pushes: Vec<_> = others
        .map(|member| {
            let (peers, request, name) = (peers.clone(), request.clone(), member.name.clone());
            std::thread::spawn(move || {
                let told = peers.ask_within(&name, &request, PUSH_TIME_MAX);
                told.err().map(|error| {
                    tracing::debug!(host = %name, %error, "a member was not told of the new list");
                    name
                })
            })
        })
        .collect();
    pushes.into_iter().filter_map(|push| push.join().ok().flatten()).collect()
}
