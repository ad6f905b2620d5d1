//! The network identity of a workload, by the network crate's words: a device of its own that is joined to the host's bridge.

use super::spec::{Network, Spec};
use ferry_model::error::{Error, Kind, Result};
use ferry_network::{Address, Identity, Route, host_end_name};
use ferry_process::capsule::Capsule;
use rustix::fd::AsFd;
use std::net::IpAddr;

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
pub(super) fn unlock(spec: &Spec) -> Result<()> {
    Ok(ferry_network::unlock(&end(spec))?)
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
