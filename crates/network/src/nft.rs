//! The lock of a tree that has no network device of its own: packets of its connections are dropped, both ways, by a table of nftables
//! that is named after the workload.
//!
//! While its connections stand in repair mode, or are gone from this host and not yet known elsewhere, a packet of a peer would be answered
//! by a reset. With the lock it is lost, and the peer sends it again. Nothing else of the host is touched: connections are named by
//! their four numbers, and of what goes to a listening port only the first packet of a new connection is held back.
//!
//! The rules are given to the program `nft` as JSON. Where there is none, [`lock`] says so and nothing has changed.

use crate::error::{Doing, Error, Result};
use ferry_sys::enter::{Place, within};
use rustix::fd::BorrowedFd;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// Begins the name of every table of Ferry's.
const PREFIX: &str = "ferry_";
/// Before connection tracking (-200), so that nothing remembers what was dropped.
const PRIORITY: i32 = -310;

/// One end of a connection, or a listener, as the tree has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's; none: it listens.
    pub remote: Option<SocketAddr>,
}

/// Name of the table of the workload that `key` names: letters, digits and `-`.
#[must_use]
pub fn table_name(key: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("{PREFIX}{}", key.chars().map(word).collect::<String>())
}

/// Holds back what belongs to `ends`, in the network namespace `net` (none: the caller's). A lock that is there under this name is
/// replaced.
///
/// # Errors
/// When there is no `nft`, or the kernel refuses the rules; then nothing is locked.
pub fn lock(net: Option<BorrowedFd<'_>>, table: &str, ends: &[End]) -> Result<()> {
    run(net, Some(&rules(table, ends))).map(drop)
}

/// Lets everything pass again. Repeatable, and no error where there is no `nft`: then there was no lock.
///
/// # Errors
/// When the table is there and cannot be removed.
pub fn unlock(net: Option<BorrowedFd<'_>>, table: &str) -> Result<()> {
    if !tables(net)?.iter().any(|name| name == table) {
        return Ok(());
    }
    let table = json!({"table": {"family": "inet", "name": table}});
    run(net, Some(&json!({"nftables": [{"delete": table}]}))).map(drop)
}

/// Names of all tables of Ferry's in a network namespace. Empty where there is no `nft`.
///
/// # Errors
/// When `nft` cannot list them.
pub fn tables(net: Option<BorrowedFd<'_>>) -> Result<Vec<String>> {
    let listed = match run(net, None) {
        Err(Error::Kernel { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        listed => listed?,
    };
    let listed: Value = serde_json::from_str(&listed)
        .map_err(|error| Error::Invalid(format!("nft lists tables in another form: {error}")))?;
    let names =
        listed["nftables"].as_array().into_iter().flatten().filter_map(|item| item["table"]["name"].as_str());
    Ok(names.filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect())
}

fn rules(table: &str, ends: &[End]) -> Value {
    let place = |mut object: Value| {
        (object["family"], object["table"]) = (json!("inet"), json!(table));
        object
    };
    // Made before it is removed, so that the removal succeeds; all of it is one transaction.
    let whole = json!({"table": {"family": "inet", "name": table}});
    let mut steps = vec![json!({"add": whole}), json!({"delete": whole}), json!({"add": whole})];
    for hook in ["input", "output"] {
        let chain =
            json!({"name": hook, "type": "filter", "hook": hook, "prio": PRIORITY, "policy": "accept"});
        steps.push(json!({"add": {"chain": place(chain)}}));
    }
    let mut drop_where = |chain: &str, mut matches: Vec<Value>| {
        matches.push(json!({"drop": null}));
        let rule = json!({"chain": chain, "expr": matches});
        steps.push(json!({"add": {"rule": place(rule)}}));
    };
    for family in ["ip", "ip6"] {
        let of_family = |end: &&End| end.local.ip().to_canonical().is_ipv4() == (family == "ip");
        for (chain, ours, theirs) in [("input", "d", "s"), ("output", "s", "d")] {
            let tuple = |(local, remote): (SocketAddr, SocketAddr)| {
                let ip = |address: SocketAddr| address.ip().to_canonical().to_string();
                json!({"concat": [ip(local), local.port(), ip(remote), remote.port()]})
            };
            let ends = ends.iter().filter(of_family).filter_map(|end| Some((end.local, end.remote?)));
            let tuples: Vec<Value> = ends.map(tuple).collect();
            if tuples.is_empty() {
                continue;
            }
            let field =
                |protocol: &str, name: String| json!({"payload": {"protocol": protocol, "field": name}});
            let left = json!({"concat": [
                field(family, format!("{ours}addr")), field("tcp", format!("{ours}port")),
                field(family, format!("{theirs}addr")), field("tcp", format!("{theirs}port")),
            ]});
            drop_where(chain, vec![json!({"match": {"op": "==", "left": left, "right": {"set": tuples}}})]);
        }
    }
    let mut ports: Vec<u16> =
        ends.iter().filter(|end| end.remote.is_none()).map(|end| end.local.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    if !ports.is_empty() {
        let port = json!({"payload": {"protocol": "tcp", "field": "dport"}});
        // Two at a time: older versions take no longer lists.
        let mask = json!({"|": [{"|": [{"|": ["fin", "syn"]}, "rst"]}, "ack"]});
        let flags = json!({"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, mask]});
        let to_port = json!({"match": {"op": "==", "left": port, "right": {"set": ports}}});
        let first = json!({"match": {"op": "==", "left": flags, "right": "syn"}});
        drop_where("input", vec![to_port, first]);
    }
    json!({"nftables": steps})
}

/// Gives `nft` its input, or asks it for all tables.
fn run(net: Option<BorrowedFd<'_>>, input: Option<&Value>) -> Result<String> {
    let work = || -> io::Result<String> {
        let mut command = Command::new("nft");
        match input {
            Some(_) => command.args(["-j", "-f", "-"]),
            None => command.args(["-j", "list", "tables"]),
        };
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input.to_string().as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(said.lines().next().unwrap_or("it failed without a word").to_owned()))
    };
    let done = match net {
        Some(net) => within(Place { mount: None, net: Some(net) }, work).and_then(|done| done),
        None => work(),
    };
    done.doing(|| "have nft lock or unlock connections".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(local: &str, remote: Option<&str>) -> End {
        End { local: local.parse().unwrap(), remote: remote.map(|remote| remote.parse().unwrap()) }
    }

    #[test]
    fn a_table_is_named_after_its_workload() {
        assert_eq!(table_name("w-00ff-12"), "ferry_w_00ff_12");
    }

    /// On a thread in a network namespace of its own, which goes with it.
    #[test]
    fn nft_takes_the_rules_and_drops_nothing_else() {
        use ferry_sys::unshare::{UnshareFlags, unshare};
        let outcome = std::thread::spawn(|| {
            unshare(UnshareFlags::NEWNET).unwrap();
            let ends = [
                end("10.0.0.1:80", Some("10.0.0.2:3000")),
                end("10.0.0.1:80", Some("10.0.0.3:3000")),
                end("[fd00::1]:82", Some("[fd00::2]:3002")),
                end("0.0.0.0:80", None),
                end("[::]:443", None),
            ];
            assert!(tables(None).unwrap().is_empty());
            lock(None, "ferry_test", &ends).unwrap();
            lock(None, "ferry_test", &ends).unwrap();
            assert_eq!(tables(None).unwrap(), ["ferry_test"]);
            unlock(None, "ferry_other").unwrap();
            assert_eq!(tables(None).unwrap(), ["ferry_test"]);
            unlock(None, "ferry_test").unwrap();
            unlock(None, "ferry_test").unwrap();
            assert!(tables(None).unwrap().is_empty());
        });
        outcome.join().unwrap();
    }

    #[test]
    fn each_connection_is_held_back_in_both_directions() {
        let ends = [
            end("10.0.0.1:80", Some("10.0.0.2:3000")),
            end("[::ffff:10.0.0.1]:81", Some("[::ffff:10.0.0.2]:3001")),
            end("[fd00::1]:82", Some("[fd00::2]:3002")),
            end("0.0.0.0:80", None),
        ];
        let text = rules("ferry_x", &ends).to_string();
        assert_eq!(text.matches("\"rule\"").count(), 5, "two for each family, one for listeners: {text}");
        assert_eq!(
            text.matches("[\"10.0.0.1\",81,\"10.0.0.2\",3001]").count(),
            2,
            "a mapped address is an IPv4 one"
        );
    }
}
