//! Warm moves between two hosts that go wrong in the middle, and images that outlive a restart of their host: exactly one copy
//! runs afterwards, with all its data, and nothing is left over.

mod support;

use ferry_lab::{Fleet, Host};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use support::{NAME, Verdict, clear, ferry, fleet, try_ferry, words};

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Counts, and looks again and again at what it holds: 12 MiB that no compression makes less, and the clock.
const PROGRAM: &str = r#"
    use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);
    $| = 1; my $held = pack 'N*', map { $_ * 2654435761 % 4294967296 } 1 .. 3 << 20;
    my ($sum, $last, $jump) = (unpack('%32N*', $held), clock_gettime(CLOCK_MONOTONIC), 0);
    while (1) {
        my $now = clock_gettime(CLOCK_MONOTONIC);
        print "WRONG clock\n" if $now < $last; $jump = $now - $last if $now - $last > $jump; $last = $now;
        print "WRONG memory\n" if unpack('%32N*', $held) != $sum;
        printf "%d %.1f\n", ++$n, $jump; select undef, undef, undef, 0.05;
    }"#;

/// Bytes per second at which the image takes some ten seconds.
const SLOW: u64 = 1 << 20;

/// The counts of the workload's log, which must be whole; and the largest jump of its clock, seconds.
fn counted(log: &str) -> Result<(usize, f64), String> {
    let mut jump = 0.0;
    let lines: Vec<&str> = log.lines().collect();
    for (line, wanted) in lines.iter().zip(1..) {
        let (count, clock) = line.split_once(' ').unwrap_or_default();
        if count.parse() != Ok(wanted) {
            return Err(format!("{line:?} where {wanted} was due"));
        }
        jump = clock.parse().map_err(words)?;
    }
    Ok((lines.len(), jump))
}

fn log(host: &Host) -> Result<(usize, f64), String> {
    counted(&ferry(host, &["logs", NAME])?)
}

fn until(what: &str, mut done: impl FnMut() -> Result<bool, String>) -> Verdict {
    let end = Instant::now() + LONG;
    while !done()? {
        if Instant::now() > end {
            return Err(format!("waited too long: {what}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn state(host: &Host) -> String {
    let listed = try_ferry(host, &["--json", "ps", "--all"]).map(|output| output.stdout).unwrap_or_default();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap_or_default();
    let found = listed.as_array().into_iter().flatten().find(|workload| workload["name"] == NAME);
    found.and_then(|workload| workload["state"].as_str()).unwrap_or("-").to_owned()
}

fn begin(host: &Host, net: &[&str]) -> Verdict {
    let command = ["--", "/usr/bin/perl", "-e", PROGRAM];
    ferry(host, &[&["run", "--name", NAME], net, &command].concat())?;
    until("it counts", || Ok(log(host)?.0 > 3))
}

/// It runs on `here` alone, with everything; then it moves once more, as if nothing had been.
fn runs_at(fleet: Fleet, here: usize) -> Verdict {
    let (host, other) = (&fleet.nodes[here], &fleet.nodes[1 - here]);
    until("it runs", || Ok(state(host) == "running"))?;
    until("the other has nothing", || Ok(matches!(&*state(other), "-" | "gone")))?;
    let before = log(host)?.0;
    until("it counts on", || Ok(log(host)?.0 > before + 3))?;
    let left = "find /var/lib/ferry/workloads -name '*-image*' -o -name 'shim.cbor' | wc -l";
    until("nothing is left", || Ok(other.sh(left).map_err(words)?.trim() == "0"))?;
    until("its image is gone", || {
        let images = host.sh("find /var/lib/ferry/workloads -name '*-image*' | wc -l").map_err(words)?;
        Ok(images.trim() == "0")
    })?;
    // A link that was cut takes a moment until neighbours find each other again.
    until("the hosts reach each other", || {
        let hosts = ferry(host, &["--json", "host", "ls"])?;
        let hosts: serde_json::Value = serde_json::from_str(&hosts).map_err(words)?;
        Ok(hosts.as_array().into_iter().flatten().all(|host| host["reachable"] == true))
    })?;
    ferry(host, &["move", NAME, "--to", other.name(), "--method", "warm"])?;
    let before = log(other)?.0;
    until("it counts there", || Ok(log(other)?.0 > before + 3))?;
    clear(fleet)
}

/// A warm move that is in the middle of its copy: nothing runs anywhere.
fn halfway(fleet: &Fleet) -> Verdict {
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    begin(alpha, &["--net", "10.77.0.91/24"])?;
    alpha.limit_link(SLOW).map_err(words)?;
    ferry(alpha, &["move", NAME, "--to", beta.name(), "--method", "warm", "--detach"])?;
    until("a part of the image is there", || {
        let pages = "cat /var/lib/ferry/workloads/*/arriving-image/pages-* 2>/dev/null | wc -c";
        Ok(beta.sh(pages).map_err(words)?.trim().parse::<u64>().unwrap_or(0) > 1 << 20)
    })?;
    if state(alpha) != "suspended" {
        return Err(format!("it is {} while its image travels", state(alpha)));
    }
    Ok(())
}

fn fast(host: &Host) -> Verdict {
    host.limit_link(1 << 30).map_err(words)
}

#[test]
fn a_link_cut_in_the_middle_of_the_copy_brings_it_back() {
    let test = || {
        let fleet = fleet(&[])?;
        halfway(&fleet)?;
        fleet.nodes[0].cut_link().map_err(words)?;
        // While nobody can be asked it runs again at its source, from its image.
        until("it is back", || Ok(state(&fleet.nodes[0]) == "running"))?;
        fast(&fleet.nodes[0])?;
        fleet.nodes[0].heal_link().map_err(words)?;
        runs_at(fleet, 0)
    };
    test().unwrap();
}

#[test]
fn a_source_node_killed_in_the_middle_of_the_copy_takes_it_back() {
    let test = || {
        let mut fleet = fleet(&[])?;
        halfway(&fleet)?;
        fleet.daemon(0).signal(Signal::KILL).map_err(words)?;
        until("the node is dead", || Ok(fleet.daemon(0).has_ended()))?;
        fast(&fleet.nodes[0])?;
        fleet.restart_node(0).map_err(words)?;
        runs_at(fleet, 0)
    };
    test().unwrap();
}

#[test]
fn a_target_node_killed_in_the_middle_of_the_copy_leaves_it_at_the_source() {
    let test = || {
        let mut fleet = fleet(&[])?;
        halfway(&fleet)?;
        fleet.daemon(1).signal(Signal::KILL).map_err(words)?;
        until("the node is dead", || Ok(fleet.daemon(1).has_ended()))?;
        until("it is back", || Ok(state(&fleet.nodes[0]) == "running"))?;
        fast(&fleet.nodes[0])?;
        fleet.restart_node(1).map_err(words)?;
        runs_at(fleet, 0)
    };
    test().unwrap();
}

/// How long the host is away, at least: more than a checkpoint and a restore take together.
const AWAY: Duration = Duration::from_secs(8);

#[test]
fn images_outlive_a_restart_of_their_host() {
    let test = || {
        let mut fleet = fleet(&[])?;
        let alpha = &fleet.nodes[0];
        begin(alpha, &[])?;
        let script = format!("cd /root; setsid perl -e '{PROGRAM}' > log 2>&1 < /dev/null & echo $!");
        let pid =
            alpha.sh(&script.replace("'%32N*'", "\"%32N*\"").replace("'N*'", "\"N*\"")).map_err(words)?;
        let tree = || counted(&alpha.sh("cat /root/log").map_err(words)?);
        until("the tree counts", || Ok(tree()?.0 > 3))?;
        ferry(alpha, &["checkpoint", NAME, "/var/lib/ferry/one"])?;
        ferry(alpha, &["checkpoint", pid.trim(), "/var/lib/ferry/two"])?;
        let (since, stood, tree_stood) = (Instant::now(), log(alpha)?.0, tree()?.0);
        alpha.reboot().map_err(words)?;
        fleet.restart_node(0).map_err(words)?;
        let alpha = &fleet.nodes[0];
        let tree = || counted(&alpha.sh("cat /root/log").map_err(words)?);
        if state(alpha) != "suspended" {
            return Err(format!("after the restart it is {}", state(alpha)));
        }
        std::thread::sleep(AWAY.saturating_sub(since.elapsed()));
        ferry(alpha, &["restore", "--detach", "/var/lib/ferry/one"])?;
        ferry(alpha, &["restore", "--detach", "/var/lib/ferry/two"])?;
        until("both count on", || Ok(log(alpha)?.0 > stood + 3 && tree()?.0 > tree_stood + 3))?;
        for (_, jump) in [log(alpha)?, tree()?] {
            if jump >= AWAY.as_secs_f64() {
                return Err(format!("the clock went on by {jump} s while nothing ran"));
            }
        }
        let again = try_ferry(alpha, &["restore", "--detach", "/var/lib/ferry/one"])?;
        if again.code != 3 {
            return Err(format!("it was restored twice: {}{}", again.stdout, again.stderr));
        }
        clear(fleet)
    };
    test().unwrap();
}
