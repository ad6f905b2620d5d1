//! The veth pair between a workload's network namespace and the host's bridge; the lock.

use crate::error::{Doing, Error, Result};
use crate::identity::{self, Identity};
use crate::link::{self, NAME_MAX};
use ferry_sys::netlink::{Route, in_namespace};
use rustix::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How long the kernel may take to notice that a cable is in, and between two looks whether it has.
const RUNNING_MAX: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// Name of the host's end of the pair of the workload with this id (its text).
#[must_use]
pub fn host_end_name(id: &str) -> String {
    let id = id.strip_prefix("w-").unwrap_or(id);
    let plain: String = id.chars().filter(char::is_ascii_alphanumeric).take(NAME_MAX - 2).collect();
    format!("fy{plain}")
}

fn open() -> Result<Route> {
    Route::open().doing(|| "open netlink".into())
}

fn find(route: &mut Route, name: &str) -> Result<Option<link::Link>> {
    link::find(route, name).doing(|| format!("look for the device {name}"))
}

/// Whether the bridge is there, in the caller's namespace.
///
/// # Errors
/// When netlink does not work.
pub fn bridge_exists(name: &str) -> Result<bool> {
    Ok(find(&mut open()?, name)?.is_some_and(|link| link.kind == "bridge"))
}

/// Makes a bridge in the caller's namespace and brings it up. For namespaces of Ferry's own, never the machine's.
///
/// # Errors
/// EEXIST, or EPERM without CAP_NET_ADMIN.
pub fn bridge_create(name: &str) -> Result<()> {
    let mut route = open()?;
    link::bridge(&mut route, name).doing(|| format!("make the bridge {name}"))?;
    let made = find(&mut route, name)?.ok_or_else(|| Error::NoBridge(name.into()))?;
    link::set_up(&mut route, made.index, true).doing(|| format!("bring the bridge {name} up"))
}

/// Gives the network namespace `namespace` a device with this identity, joined to `bridge`. It stays locked: nothing
/// passes before [`unlock`]. A device of that name which an earlier attempt has left is replaced.
///
/// # Errors
/// [`Error::NoBridge`] with the line to type, or the kernel's refusal; then nothing is left of the attempt.
pub fn attach(namespace: BorrowedFd<'_>, bridge: &str, host_end: &str, identity: &Identity) -> Result<()> {
    identity.check()?;
    let mut route = open()?;
    let bridge_link = find(&mut route, bridge)?.filter(|link| link.kind == "bridge");
    let bridge_link = bridge_link.ok_or_else(|| Error::NoBridge(bridge.into()))?;
    if !bridge_link.up {
        return Err(Error::Invalid(format!("The bridge {bridge} is down: ip link set {bridge} up")));
    }
    detach(host_end)?;
    let mtu = if identity.mtu == 0 { bridge_link.mtu } else { identity.mtu };
    let inner = (identity.device.as_str(), identity.mac, mtu);
    link::veth(&mut route, host_end, bridge_link.index, inner, namespace)
        .doing(|| format!("make the device {host_end} as a port of {bridge}"))?;
    fill(namespace, identity).inspect_err(|_| drop(detach(host_end)))
}

/// Gives the device of an [`attach`] that knew only its name, MAC and MTU the rest of the identity: addresses, routes, neighbours.
/// Repeatable.
///
/// # Errors
/// The kernel's refusal.
pub fn fill(namespace: BorrowedFd<'_>, identity: &Identity) -> Result<()> {
    identity.check()?;
    let inside = in_namespace(namespace, || {
        // Addresses that come from elsewhere are not to be asked about: they were in use until a moment ago.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/accept_dad", identity.device), "0");
        Route::open()
    });
    let mut inside = inside.doing(|| "enter the workload's network namespace".into())?;
    identity::restore(&mut inside, identity)
}

fn host_end(route: &mut Route, name: &str) -> Result<link::Link> {
    let gone = || Error::Refused(format!("The workload's network device {name} is gone"));
    find(route, name)?.ok_or_else(gone)
}

/// Cuts the workload off: nothing leaves, nothing enters. Repeatable.
///
/// The bridge's port is disabled, which takes some microseconds; the device is taken down, which takes milliseconds, only where the
/// bridge does not let its ports be disabled.
///
/// # Errors
/// When the device is gone.
pub fn lock(host_end: &str) -> Result<()> {
    let mut route = open()?;
    let link = self::host_end(&mut route, host_end)?;
    if !link.up || link::set_port(&mut route, link.index, link::DISABLED).is_ok() {
        return Ok(());
    }
    link::set_up(&mut route, link.index, false).doing(|| format!("bring {host_end} down"))
}

/// Lets packets pass again, to and from the device in `namespace`. Repeatable. What is sent from then on by either end gets out.
///
/// # Errors
/// When the device is gone.
pub fn unlock(host_end: &str, namespace: BorrowedFd<'_>) -> Result<()> {
    let mut route = open()?;
    let link = self::host_end(&mut route, host_end)?;
    if !link.up {
        link::set_up(&mut route, link.index, true).doing(|| format!("bring {host_end} up"))?;
        return wait_until_running(&mut route, host_end, namespace);
    }
    if link.port == Some(link::DISABLED) {
        let passes = link::set_port(&mut route, link.index, link::FORWARDING);
        passes.doing(|| format!("let packets of {host_end} pass"))?;
    }
    Ok(())
}

/// A cable's ends are up, and until a worker of the kernel has noticed what is sent by them is dropped in silence. A connection that begins to
/// send again just then has not measured its way yet and would wait a second before it sends once more.
///
/// Who asks for a device has it noticed at once (since Linux 6.8), but only that end: so each end is asked for. Before that the worker takes
/// some milliseconds, more on a busy machine. After [`RUNNING_MAX`] it goes on all the same.
fn wait_until_running(route: &mut Route, host_end: &str, namespace: BorrowedFd<'_>) -> Result<()> {
    let inside = in_namespace(namespace, Route::open);
    let mut inside = inside.doing(|| "enter the workload's network namespace".into())?;
    let end = Instant::now() + RUNNING_MAX;
    loop {
        let outer = self::host_end(route, host_end)?;
        let inner = outer.peer.map_or(Ok(None), |index| link::at(&mut inside, index));
        let inner = inner.doing(|| format!("look for the other end of {host_end}"))?;
        if (outer.running && inner.is_none_or(|inner| inner.running)) || Instant::now() > end {
            return Ok(());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether the workload is cut off.
///
/// # Errors
/// When the device is gone.
pub fn locked(host_end: &str) -> Result<bool> {
    let link = self::host_end(&mut open()?, host_end)?;
    Ok(!link.up || link.port == Some(link::DISABLED))
}

/// Removes the pair. One that is gone already is no error.
///
/// # Errors
/// The kernel's refusal.
pub fn detach(host_end: &str) -> Result<()> {
    let mut route = open()?;
    match find(&mut route, host_end)? {
        None => Ok(()),
        Some(link) if link.kind != "veth" => {
            Err(Error::Refused(format!("The device {host_end} is of kind {:?} and not Ferry's", link.kind)))
        }
        Some(link) => link::remove(&mut route, link.index).doing(|| format!("remove the device {host_end}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_fit_and_differ() {
        let name = host_end_name("w-0123456789abcdef0123456789abcdef");
        assert_eq!(name, "fy0123456789abc");
        assert_eq!(name.len(), NAME_MAX);
    }
}
