//! Workloads that become images and come back, by the real binary between two nodes of this machine: once, as clones, on another
//! host, after a node was killed; and warm moves.

mod common;

use common::{Fleet, Node, until};
use serde_json::Value;

/// Counts without starting other programs: a tree that is in the middle of a fork is a blocker, for that moment.
const COUNT: &str = r#"$| = 1; while (1) { print ++$i, "\n"; select(undef, undef, undef, 0.02) }"#;

fn counting(node: &Node, name: &str) {
    node.ok(&["run", "--name", name, "--", "/usr/bin/perl", "-e", COUNT]);
    counts_on(node, name, 3);
}

/// It counts past `from`, and nothing was lost or doubled.
fn counts_on(node: &Node, name: &str, from: usize) {
    until("it counts", || numbers(node, name).len() > from);
    let counted = numbers(node, name);
    assert!(counted.iter().zip(1..).all(|(found, wanted)| *found == wanted), "{counted:?}");
}

fn numbers(node: &Node, name: &str) -> Vec<u64> {
    node.ok(&["logs", name]).lines().map(|line| line.parse().unwrap()).collect()
}

fn workload(node: &Node, name: &str) -> Value {
    let all = node.json(&["ps", "--all"]);
    all.as_array().unwrap().iter().find(|workload| workload["name"] == name).cloned().unwrap_or_default()
}

fn state_of(node: &Node, name: &str) -> Value {
    workload(node, name)["state"].clone()
}

fn dir(node: &Node, name: &str) -> String {
    node.run_dir().parent().unwrap().join(name).display().to_string()
}

#[test]
fn a_suspended_workload_is_its_image_and_comes_back_once() {
    let fleet = Fleet::of(&["alpha"]);
    let alpha = &fleet.nodes[0];
    let image = dir(alpha, "image");
    counting(alpha, "count");
    let report = alpha.json(&["checkpoint", "count", &image]);
    assert!(report["memory_bytes"].as_u64().unwrap() > 0, "{report}");
    let stood = numbers(alpha, "count").len();
    let shown = workload(alpha, "count");
    assert_eq!(
        (&shown["state"], &shown["image"], &shown["epoch"]),
        (&"suspended".into(), &image.as_str().into(), &2.into())
    );
    assert!(alpha.ok(&["ps"]).contains(&format!("suspended to {image}")));
    assert!(alpha.ok(&["show", "count"]).contains(&image));
    assert!(alpha.fails(&["exec", "count", "--", "/bin/true"], 2).contains("is suspended"));
    assert!(alpha.fails(&["rm", "count"], 3).contains("suspended"));
    assert!(alpha.ok(&["recover", "count"]).contains(&format!("ferry restore {image}")));
    assert!(alpha.ok(&["doctor"]).contains("All is well"));

    let restored = alpha.json(&["restore", "--detach", "--pidfile", &dir(alpha, "pid"), &image]);
    assert_eq!(restored["workload"]["id"], shown["id"]);
    let pid: i64 = std::fs::read_to_string(dir(alpha, "pid")).unwrap().trim().parse().unwrap();
    assert_eq!(restored["workload"]["pid"], pid);
    counts_on(alpha, "count", stood);
    assert_eq!((state_of(alpha, "count"), &workload(alpha, "count")["epoch"]), ("running".into(), &3.into()));

    let again = alpha.fails(&["restore", "--detach", &image], 3);
    assert!(again.contains("restored before") && again.contains("--as-clone"), "{again}");
    // On purpose, beside the first.
    let twin = alpha.json(&["restore", "--detach", "--as-clone", "--name", "twin", &image]);
    assert_ne!(twin["workload"]["id"], shown["id"]);
    assert_eq!(twin["workload"]["epoch"], 1);
    assert_eq!(alpha.ok(&["exec", "twin", "--", "/bin/hostname"]), "twin\n");
    let before = (numbers(alpha, "count").len(), numbers(alpha, "twin").len());
    counts_on(alpha, "count", before.0);
    counts_on(alpha, "twin", before.1);
    // The image waits for its program, whose exit code is the command's.
    alpha.ok(&["rm", "--force", "count"]);
    assert!(alpha.ok(&["doctor"]).contains("All is well"));
}

#[test]
fn what_was_left_running_can_only_be_cloned() {
    let fleet = Fleet::of(&["alpha"]);
    let alpha = &fleet.nodes[0];
    let image = dir(alpha, "image");
    counting(alpha, "count");
    alpha.ok(&["checkpoint", "--leave-running", "count", &image]);
    counts_on(alpha, "count", numbers(alpha, "count").len());
    assert_eq!((state_of(alpha, "count"), &workload(alpha, "count")["epoch"]), ("running".into(), &1.into()));
    let said = alpha.fails(&["restore", "--detach", &image], 3);
    assert!(said.contains("went on after") && said.contains("--as-clone"), "{said}");
    assert!(
        alpha.fails(&["restore", "--detach", "--as-clone", "--name", "count", &image], 3).contains("already")
    );
    alpha.ok(&["restore", "--detach", "--as-clone", "--name", "twin", &image]);
    counts_on(alpha, "twin", 3);
    assert!(alpha.fails(&["checkpoint", "count", &image], 2).contains("exists"));
    counts_on(alpha, "count", numbers(alpha, "count").len());
}

#[test]
fn another_host_takes_it_only_from_its_owner() {
    let mut fleet = Fleet::of(&["alpha", "beta"]);
    let image = dir(&fleet.nodes[0], "image");
    counting(&fleet.nodes[0], "count");
    fleet.nodes[0].ok(&["checkpoint", "count", &image]);
    let stood = numbers(&fleet.nodes[0], "count").len();
    let said = fleet.nodes[1].fails(&["restore", "--detach", &image], 3);
    assert!(said.contains("neither this host's nor listed"), "{said}");
    fleet.nodes[0].crash();
    let said = fleet.nodes[1].fails(&["restore", "--detach", "--trust-image", &image], 3);
    assert!(said.contains("Only alpha"), "{said}");
    fleet.nodes[0].up();
    until("alpha answers", || {
        let known = fleet.nodes[1].json(&["host", "ls"]);
        known.as_array().unwrap().iter().all(|host| host["reachable"] == true)
    });
    assert_eq!(state_of(&fleet.nodes[0], "count"), "suspended");
    fleet.nodes[1].ok(&["restore", "--detach", "--trust-image", &image]);
    counts_on(&fleet.nodes[1], "count", stood);
    let left = workload(&fleet.nodes[0], "count");
    assert_eq!((&left["state"], &left["host"]), (&"gone".into(), &"beta".into()), "{left}");
    let said = fleet.nodes[0].fails(&["restore", "--detach", &image], 3);
    assert!(said.contains("belongs to beta"), "{said}");
    // And it moves on as any other.
    fleet.nodes[1].ok(&["move", "count", "--to", "alpha"]);
    counts_on(&fleet.nodes[0], "count", stood);
}

#[test]
fn a_warm_move_goes_there_and_back() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    counting(alpha, "count");
    let printed = alpha.ok(&["move", "count", "--to", "beta", "--method", "warm"]);
    assert!(printed.contains("count moved from alpha to beta, stood still"), "{printed}");
    assert_eq!((state_of(alpha, "count"), state_of(beta, "count")), ("gone".into(), "running".into()));
    counts_on(beta, "count", numbers(beta, "count").len());
    alpha.ok(&["pull", "count", "--from", "beta", "--method", "warm"]);
    assert_eq!((state_of(alpha, "count"), state_of(beta, "count")), ("running".into(), "gone".into()));
    counts_on(alpha, "count", numbers(alpha, "count").len());
    // Suspended, won; suspended, won.
    assert_eq!(workload(alpha, "count")["epoch"], 5);
    for node in [alpha, beta] {
        assert!(node.ok(&["doctor"]).contains("All is well"));
        let left = std::fs::read_dir(node.state().join("workloads")).unwrap().flatten();
        let left = left.flat_map(|entry| std::fs::read_dir(entry.path()).unwrap().flatten());
        assert!(!left.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().contains("image")));
    }
}
