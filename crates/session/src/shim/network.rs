//! The network identity of a workload, by the network crate's words: a device of its own that is joined to the host's bridge.

use super::spec::{Network, Spec};
use super::workload::{Workload, no_capsule};
use ferry_model::error::{Error, Kind, Result};
use ferry_network::{Address, Identity, Route, host_end_name};
use ferry_process::capsule::Capsule;
use ferry_sys::say::say;
use rustix::fd::AsFd;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Name of the device inside.
const DEVICE: &str = "eth0";

/// The identity that a new workload, or a clone, is given.
pub(super) fn identity(net: &Network) -> Result<Identity> {
    let bad = |text: &str| Error::new(Kind::Usage, format!("{text:?} is not an address"));
    let addresses: Result<Vec<Address>> =
        net.addresses.iter().map(|text| text.parse().map_err(|_| bad(text))).collect();
    let gateway = |text: &String| text.parse::<IpAddr>().map(Route::default_via).map_err(|_| bad(text));
    let routes: Result<Vec<Route>> = net.gateways.iter().map(gateway).collect();
    Ok(Identity {
        device: DEVICE.into(),
        mac: net.mac,
        addresses: addresses?,
        routes: routes?,
        neighbours: Vec::new(),
        mtu: 0,
    })
}

fn end(spec: &Spec) -> String {
    host_end_name(&spec.id.to_string())
}

/// Makes the device, down.
pub(super) fn attach(capsule: &Capsule, spec: &Spec, net: &Network, identity: &Identity) -> Result<()> {
    let namespace = capsule.namespace("net")?;
    Ok(ferry_network::attach(namespace.as_fd(), &net.bridge, &end(spec), identity)?)
}

/// Gives the device that is there addresses, routes and neighbours.
pub(super) fn fill(capsule: &Capsule, identity: &Identity) -> Result<()> {
    let namespace = capsule.namespace("net")?;
    Ok(ferry_network::fill(namespace.as_fd(), identity)?)
}

/// The identity as it is now.
pub(super) fn capture(capsule: &Capsule) -> Result<Identity> {
    let namespace = capsule.namespace("net")?;
    Ok(ferry_network::capture(namespace.as_fd())?)
}

/// Takes the host's side down: nothing gets in or out.
pub(super) fn lock(spec: &Spec) -> Result<()> {
    Ok(ferry_network::lock(&end(spec))?)
}

/// Takes it up.
pub(super) fn unlock(capsule: &Capsule, spec: &Spec) -> Result<()> {
    let namespace = capsule.namespace("net")?;
    Ok(ferry_network::unlock(&end(spec), namespace.as_fd())?)
}

/// Removes the device.
pub(super) fn detach(spec: &Spec) -> Result<()> {
    Ok(ferry_network::detach(&end(spec))?)
}

/// Tells the neighbours where the workload is now; to be repeated.
pub(super) fn announcer(capsule: &Capsule) -> Result<ferry_network::announce::Announcer> {
    let identity = capture(capsule)?;
    let namespace = capsule.namespace("net")?;
    Ok(ferry_network::announce::Announcer::open(namespace.as_fd(), &identity)?)
}

impl Workload {
    /// Unlocks or locks the network identity, where there is one.
    pub(super) fn set_network(&self, up: bool) -> Result<()> {
        match &self.record {
            Some(record) if record.spec.network.is_some() => {
                if up {
                    unlock(self.capsule.as_ref().ok_or_else(no_capsule)?, &record.spec)
                } else {
                    lock(&record.spec)
                }
            }
            _ => Ok(()),
        }
    }

    /// Tells the neighbours where the workload is: once now, and again soon, for whoever missed it.
    pub(super) fn announce(&mut self) {
        let has_network = self.record.as_ref().is_some_and(|record| record.spec.network.is_some());
        let Some(capsule) = self.capsule.as_ref().filter(|_| has_network) else { return };
        let now = Instant::now();
        match announcer(capsule) {
            Ok(announcer) => {
                let due = [Duration::ZERO, Duration::from_millis(20), Duration::from_secs(1)];
                self.announcing = Some((announcer, due.map(|after| now + after).to_vec()));
            }
            Err(error) => say(format_args!("The workload could not be announced: {error}")),
        }
        self.announce_due();
    }

    /// Sends the announcements that are due.
    pub(super) fn announce_due(&mut self) {
        let Some((announcer, due)) = &mut self.announcing else { return };
        let now = Instant::now();
        if due.iter().any(|at| *at <= now)
            && let Err(error) = announcer.send()
        {
            say(format_args!("The workload could not be announced: {error}"));
        }
        due.retain(|at| *at > now);
        if due.is_empty() {
            self.announcing = None;
        }
    }

    /// Whether announcements are still to be sent.
    pub(super) fn is_announcing(&self) -> bool {
        self.announcing.is_some()
    }
}
