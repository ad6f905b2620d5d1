//! The network lock of an adopted tree, which has no device of its own: rules for its connections while it is frozen.
//!
//! It is an improvement and not a condition: where `nft` is missing the tree is frozen all the same, and what that costs is said before
//! a move.

use super::workload::{Workload, place_name};
use ferry_model::ids::WorkloadId;
use ferry_network::nft::{self, End};
use ferry_process::capture::files::endpoints;
use ferry_sys::say::say;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// Name of the table that locks the workload `id` whose directory is `dir`, by its canonical path.
#[must_use]
pub fn lock_name(id: WorkloadId, dir: &Path) -> String {
    nft::table_name(&place_name(id, dir))
}

impl Workload {
    /// Name of the table: of the workload and its directory, since two nodes may share a machine.
    fn lock_name(&self) -> Option<String> {
        let record = self.record.as_ref().filter(|record| record.adopted)?;
        Some(lock_name(record.spec.id, &self.dir))
    }

    /// Holds back the packets of the frozen tree's connections.
    pub(super) fn lock_connections(&self) {
        let (Some(name), Some(tree)) = (self.lock_name(), &self.adopted) else { return };
        let ends = self.tasks().and_then(|tasks| Ok(endpoints::endpoints(&tasks)?));
        let ends: Vec<End> = match ends {
            Ok(ends) => ends.iter().map(|end| End { local: end.local, remote: end.remote }).collect(),
            Err(error) => {
                return say(format_args!("The connections could not be listed, and are not locked: {error}"));
            }
        };
        let beyond = |end: &End| {
            end.remote.map_or(!end.local.ip().is_loopback(), |peer| !peer.ip().to_canonical().is_loopback())
        };
        let ends: Vec<End> = ends.into_iter().filter(beyond).collect();
        if ends.is_empty() {
            return;
        }
        let net = File::open(format!("/proc/{}/ns/net", tree.pid())).ok();
        if let Err(error) = nft::lock(net.as_ref().map(AsFd::as_fd), &name, &ends) {
            say(format_args!("The connections are not locked: {error}: {}", cause(&error)));
        }
    }

    /// Lets them pass again.
    pub(super) fn unlock_connections(&self) {
        let Some(name) = self.lock_name() else { return };
        let pid = self.record.as_ref().map_or(0, |record| record.first);
        // Once the tree has ended, the rules are where it was: in this very namespace, or gone with its own.
        let net = File::open(format!("/proc/{pid}/ns/net")).ok();
        if let Err(error) = nft::unlock(net.as_ref().map(AsFd::as_fd), &name) {
            say(format_args!(
                "The lock {name} could not be removed: {error}: {}; `ferry doctor --clean` does it",
                cause(&error)
            ));
        }
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, ToString::to_string)
}
