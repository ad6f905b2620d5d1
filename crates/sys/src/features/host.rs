//! Probes of the network and of privileges.

use super::{Need, Probe, Seen, why};
use crate::netlink::{CREATE, EXCLUSIVE, Message, Route};
use crate::unshare::{UnshareFlags, unshare};
use std::path::Path;
use std::process::Command;

pub(super) const PROBES: &[Probe] = &[
    Probe {
        name: "veth-bridge",
        needed_for: "workloads with an address of their own (--net)",
        cost_if_missing: "--net is refused",
        need: Need::Sometimes,
        probe: |_| {
            unshare(UnshareFlags::NEWNET).map_err(why("unshare"))?;
            let mut route = Route::open().map_err(why("netlink"))?;
            make(&mut route, "bridge").map_err(why("make a bridge"))?;
            make(&mut route, "veth").map_err(why("make a veth pair"))?;
            Ok("a bridge and a pair of devices were made".into())
        },
    },
    Probe {
        name: "tcp-repair",
        needed_for: "open TCP connections",
        cost_if_missing: "workloads with open connections are refused (CAP_NET_ADMIN is needed)",
        need: Need::Sometimes,
        probe: |_| {
            use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
            unshare(UnshareFlags::NEWNET).map_err(why("unshare"))?;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(why("socket"))?;
            crate::tcp_repair::begin(&socket).map_err(why("TCP_REPAIR"))?;
            crate::tcp_repair::choose(&socket, crate::tcp_repair::Queue::Send)
                .map_err(why("TCP_REPAIR_QUEUE"))?;
            crate::tcp_repair::set_sequence(&socket, 12345).map_err(why("TCP_QUEUE_SEQ"))?;
            let number = crate::tcp_repair::sequence(&socket).map_err(why("TCP_QUEUE_SEQ"))?;
            if number == 12345 {
                Ok("a sequence number was set".into())
            } else {
                Err(format!("a sequence number reads back as {number}"))
            }
        },
    },
    Probe {
        name: "nftables",
        needed_for: "holding back the connections of adopted trees, which have no device of their own, while they are frozen",
        cost_if_missing: "a peer that sends to a frozen adopted tree may get a reset (Debian: apt-get install nftables)",
        need: Need::Sometimes,
        probe: |_| {
            unshare(UnshareFlags::NEWNET).map_err(why("unshare"))?;
            let output = Command::new("nft").args(["add", "table", "inet", "ferry_probe"]).output();
            let output = output.map_err(why("run nft"))?;
            if output.status.success() {
                Ok("a table was made".into())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
            }
        },
    },
    Probe {
        name: "cap-checkpoint-restore",
        needed_for: "restoring tasks",
        cost_if_missing: "CAP_SYS_ADMIN does as well; without both, nothing can be restored",
        need: Need::Sometimes,
        probe: |_| capability(40),
    },
    Probe {
        name: "cap-sys-resource",
        needed_for: "raising hard limits, lowering oom_score_adj, pipes beyond 1 MiB",
        cost_if_missing: "workloads that have more than the node's own limits are refused, by name",
        need: Need::Sometimes,
        probe: raise_limit,
    },
    Probe {
        name: "vdso",
        needed_for: "moving programs between kernels: the same vDSO at the same place",
        cost_if_missing: "programs with a vDSO cannot be moved here",
        need: Need::Sometimes,
        probe: |_| {
            let maps = std::fs::read_to_string("/proc/self/maps").map_err(why("read maps"))?;
            let parts: Vec<&str> = maps.lines().filter_map(|line| line.split("[v").nth(1)).collect();
            if parts.iter().any(|part| part.starts_with("dso")) {
                Ok(format!(
                    "{} mappings belong to it",
                    parts.iter().filter(|part| !part.starts_with("sys")).count()
                ))
            } else {
                Err("there is none".into())
            }
        },
    },
    Probe {
        name: "xsave",
        needed_for: "extended registers",
        cost_if_missing: "only programs without them can be moved",
        need: Need::Sometimes,
        probe: |_| {
            let bytes = crate::cpu::xsave_bytes();
            if bytes > 0 {
                Ok(format!("{bytes} bytes in each task"))
            } else {
                Err("this processor has none".into())
            }
        },
    },
];

fn make(route: &mut Route, kind: &str) -> std::io::Result<()> {
    // RTM_NEWLINK with an ifinfomsg; IFLA_LINKINFO holds IFLA_INFO_KIND.
    let message =
        Message::new(16, CREATE | EXCLUSIVE, &[0; 16]).with_nested(18, &[], |info| info.with_text(1, kind));
    route.ask(message)
}

fn capability(number: u32) -> Seen {
    let status = std::fs::read_to_string("/proc/self/status").map_err(why("read the status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("CapEff:")).ok_or("no capabilities are listed")?;
    let set = u64::from_str_radix(line.trim(), 16).map_err(why("read the capabilities"))?;
    if set >> number & 1 == 1 {
        Ok("in the effective set".into())
    } else {
        Err("not in the effective set".into())
    }
}

fn raise_limit(_: &Path) -> Seen {
    // First down: root without the capability may do that, but not back up.
    crate::fork::set_limit(libc::RLIMIT_CORE, 0, 0).map_err(why("lower a limit"))?;
    crate::fork::set_limit(libc::RLIMIT_CORE, 0, 4096).map_err(why("raise a hard limit"))?;
    Ok("a hard limit was raised".into())
}
