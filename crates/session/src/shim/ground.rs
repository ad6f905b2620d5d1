//! The ground of a workload that is to arrive: what takes long and is known before its source is frozen.

use super::network;
use super::protocol::{ClocksAt, Phase};
use super::spec::Spec;
use super::workload::{Workload, capsule_spec, no_capsule};
use ferry_model::error::{Error, Kind, Result};
use ferry_network::Identity;
use ferry_process::capsule::{self, Capsule, Clocks};
use ferry_sys::timens;
use std::path::PathBuf;
use std::time::Duration;

/// Longest time for which the workload's clocks are waited for.
const CLOCKS_MAX: Duration = Duration::from_secs(2);

impl Workload {
    /// Cgroup, namespaces, clocks, network device (down). Nothing is left of it if that fails.
    pub(super) fn ground(&mut self, spec: &Spec, clocks: Option<ClocksAt>) -> Result<()> {
        self.require(&[Phase::Empty], "be restored")?;
        self.new_record(spec.clone(), Phase::Building)?;
        let laid = self.lay_ground(spec, clocks);
        if laid.is_err() {
            self.discard();
        }
        laid
    }

    fn lay_ground(&mut self, spec: &Spec, clocks: Option<ClocksAt>) -> Result<()> {
        let clocks = clocks.map(|shown| {
            let now_ns = u64::try_from(timens::Clocks::now().monotonic_ns).unwrap_or(0);
            let passed_ns = now_ns.saturating_sub(shown.at_ns);
            Clocks {
                monotonic_ns: shown.monotonic_ns.saturating_add(passed_ns),
                boottime_ns: shown.boottime_ns.saturating_add(passed_ns),
            }
        });
        let wanted = capsule::Spec { clocks, ..capsule_spec(spec, &self.dir) };
        let capsule = self.capsule.insert(Capsule::ground(&wanted)?);
        match &spec.network {
            // Its addresses and routes may still change.
            Some(net) => network::attach(capsule, spec, net, &bare(&network::identity(net)?)),
            None => Ok(()),
        }
    }

    /// Whether [`Self::ground`] was laid for `spec`, and nothing stands on it yet.
    pub(super) fn has_ground(&self, spec: &Spec) -> bool {
        let same = self.record.as_ref().is_some_and(|record| record.spec == *spec);
        same && self.phase() == Phase::Building && self.building.is_none() && self.capsule.is_some()
    }

    /// Waits until the workload's clocks show at least what they showed at its capture: they were set before, over a link that takes its
    /// time, and must not go back.
    pub(super) fn wait_for_clocks(&self, captured: &Clocks) -> Result<()> {
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        let unable = |e: &std::io::Error| {
            Error::from_source(Kind::Unable, e).context("The workload's clocks cannot be read")
        };
        let init = PathBuf::from(format!("/proc/{}", capsule.init_pid()));
        let now = timens::Clocks::now_in(&init).map_err(|e| unable(&e))?;
        let behind = |now: i128, captured: u64| u64::try_from(i128::from(captured) - now).unwrap_or(0);
        let behind_ns = behind(now.monotonic_ns, captured.monotonic_ns)
            .max(behind(now.boottime_ns, captured.boottime_ns));
        let behind = Duration::from_nanos(behind_ns);
        if behind > CLOCKS_MAX {
            let message = format!("The workload's clocks would go back by {} ms", behind.as_millis());
            return Err(Error::new(Kind::Unable, message));
        }
        if !behind.is_zero() {
            std::thread::sleep(behind);
        }
        Ok(())
    }
}

/// Gives the network device what the captured one had.
pub(super) fn fill_network(capsule: &Capsule, spec: &Spec, identity: &Identity) -> Result<()> {
    let Some(net) = &spec.network else { return Ok(()) };
    // The workload may have made another device of it.
    let fits = |now: &Identity| {
        (&now.device, now.mac) == (&identity.device, identity.mac) && [0, now.mtu].contains(&identity.mtu)
    };
    if network::capture(capsule).is_ok_and(|now| fits(&now)) {
        network::fill(capsule, identity)
    } else {
        network::attach(capsule, spec, net, identity)
    }
}

/// A device without addresses, routes and neighbours.
fn bare(identity: &Identity) -> Identity {
    Identity { addresses: Vec::new(), routes: Vec::new(), neighbours: Vec::new(), ..identity.clone() }
}
