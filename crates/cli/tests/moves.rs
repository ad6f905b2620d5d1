//! Moves by the real binary between two nodes of this machine: begun, listed, shown, refused by policy, cloned; and a
//! client that goes away.

mod common;

use common::{Fleet, Node, until};
use serde_json::Value;
use std::process::Stdio;

/// Counts without starting other programs: a tree that is in the middle of a fork is a blocker, for that moment.
const COUNT: &str = r#"$| = 1; while (1) { print ++$i, "\n"; select(undef, undef, undef, 0.02) }"#;

fn counting(node: &Node, name: &str) {
    node.ok(&["run", "--name", name, "--", "/usr/bin/perl", "-e", COUNT]);
    until("it counts", || node.ok(&["logs", name]).lines().count() > 3);
}

fn state_of(node: &Node, name: &str) -> Value {
    let all = node.json(&["ps", "--all"]);
    let found = all.as_array().unwrap().iter().find(|workload| workload["name"] == name).cloned();
    found.map_or(Value::Null, |workload| workload["state"].clone())
}

#[test]
fn a_move_is_a_thing_that_is_listed_and_shown_and_the_workload_goes_on() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    counting(alpha, "count");
    let printed = alpha.ok(&["move", "count", "--to", "beta"]);
    assert!(printed.contains("count moved from alpha to beta, stood still"), "{printed}");
    assert_eq!((state_of(alpha, "count"), state_of(beta, "count")), ("gone".into(), "running".into()));
    for node in [alpha, beta] {
        let moves = node.json(&["moves", "ls"]);
        assert_eq!(
            (&moves[0]["state"], &moves[0]["target"]),
            (&"done".into(), &"beta".into()),
            "{moves}{}",
            node.log()
        );
        let shown = node.json(&["moves", "show", moves[0]["id"].as_str().unwrap()]);
        assert!(shown["events"].as_array().unwrap().len() > 3, "{shown}");
    }
    let said = alpha.fails(&["wait", "count"], 6);
    assert!(said.contains("count moved to beta"), "{said}");
    // Back, fetched by the receiver; and what is no longer there cannot be fetched again.
    alpha.ok(&["pull", "count", "--from", "beta"]);
    assert_eq!((state_of(alpha, "count"), state_of(beta, "count")), ("running".into(), "gone".into()));
    alpha.fails(&["pull", "count", "--from", "beta"], 2);
    let recovery = alpha.json(&["recover", "count"]);
    assert_eq!((&recovery["epoch"], &recovery["actions"]), (&3.into(), &Value::Array(vec![])), "{recovery}");
    assert!(alpha.ok(&["doctor"]).contains("All is well"));
    assert!(beta.ok(&["doctor"]).contains("All is well"));
}

/// Has 32 MiB, and writes to some pages of the first 8 all the time.
const WRITE: &str = r#"$| = 1; my $x = "a" x (32 << 20); while (1) { for (1 .. 50) { substr($x, 4096 * int rand 2048, 1, "b") }
    print ++$i, "\n"; select(undef, undef, undef, 0.01) }"#;

#[test]
fn an_estimate_says_what_a_move_would_cost_and_changes_nothing() {
    const MIB: u64 = 1 << 20;
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, _] = &fleet.nodes[..] else { unreachable!() };
    alpha.ok(&["run", "--name", "writer", "--", "/usr/bin/perl", "-e", WRITE]);
    until("it writes", || alpha.ok(&["logs", "writer"]).lines().count() > 3);
    let estimate = alpha.json(&["estimate", "writer", "--to", "beta"]);
    let figure = |name: &str| estimate["measured"][name].as_u64().unwrap_or(0);
    assert!((32 * MIB..200 * MIB).contains(&figure("bytes")), "{estimate}");
    // 50 pages each 10 ms at most, and hardly less than a tenth of it on a busy machine.
    assert!((MIB..30 * MIB).contains(&figure("dirty_bytes_per_s")), "{estimate}");
    assert!((MIB..16 * MIB).contains(&figure("working_set_bytes")), "{estimate}");
    assert_eq!(estimate["chosen"]["predictions"].as_array().map(Vec::len), Some(4), "{estimate}");
    assert_eq!(alpha.json(&["moves", "ls"]), Value::Array(vec![]));
    let printed = alpha.ok(&["estimate", "writer", "--to", "beta", "--bandwidth", "100Mbit"]);
    assert!(printed.contains("auto: ") && printed.contains("pre-copy"), "{printed}");
    alpha.fails(&["estimate", "writer", "--to", "alpha"], 2);
    // Nothing of the look is left: a move that tracks it can begin at once.
    let before = alpha.ok(&["logs", "writer"]).lines().count();
    until("it goes on", || alpha.ok(&["logs", "writer"]).lines().count() > before + 3);
    let moved = alpha.ok(&["move", "writer", "--to", "beta", "--method", "pre-copy"]);
    assert!(moved.contains("writer moved from alpha to beta"), "{moved}");
}

#[test]
fn a_policy_keeps_out_and_nothing_was_touched() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    counting(alpha, "count");
    std::fs::write(beta.state().join("policy.toml"), "[receive]\nfrom = ['gamma']\n").unwrap();
    let plan = alpha.fails(&["plan", "count", "--to", "beta"], 3);
    assert!(plan.contains("alpha may not send workloads here"), "{plan}");
    let said = alpha.fails(&["move", "count", "--to", "beta"], 3);
    assert!(said.contains("may not send"), "{said}");
    assert_eq!(state_of(alpha, "count"), "running");
    assert!(std::fs::read_to_string(beta.state().join("audit.log")).unwrap().contains("may not send"));

    std::fs::write(alpha.state().join("policy.toml"), "[pull]\nby = []\n").unwrap();
    let said = beta.fails(&["pull", "count", "--from", "alpha"], 3);
    assert!(said.contains("may not fetch"), "{said}");
    assert_eq!(state_of(alpha, "count"), "running");
}

#[test]
fn a_client_that_goes_away_harms_no_move() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    counting(alpha, "count");
    let mut client = alpha.command(&["move", "count", "--to", "beta"]);
    let mut client = client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the move has begun", || alpha.json(&["moves", "ls"]).as_array().unwrap().len() == 1);
    // As Ctrl-C does, but harder.
    let _ = client.kill();
    client.wait().unwrap();
    until("it arrives all the same", || state_of(beta, "count") == "running");
    let moves = alpha.json(&["moves", "ls"]);
    until("the move ends", || alpha.json(&["moves", "ls"])[0]["state"] == "done");
    let id = moves[0]["id"].as_str().unwrap();
    assert!(
        alpha.ok(&["moves", "follow", &id[..10]]).contains("done"),
        "who comes late still hears everything"
    );
    let detached = beta.ok(&["move", "count", "--to", "alpha", "--detach"]);
    assert!(detached.starts_with("m-"), "{detached}");
    until("it is back", || state_of(alpha, "count") == "running");
}

#[test]
fn a_clone_has_a_name_of_its_own_and_the_original_goes_on() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    counting(alpha, "count");
    alpha.ok(&["clone", "count", "--to", "beta", "--name", "twin"]);
    assert_eq!((state_of(alpha, "count"), state_of(beta, "twin")), ("running".into(), "running".into()));
    let (original, twin) = (alpha.json(&["ps"])[0].clone(), beta.json(&["ps"])[0].clone());
    assert_ne!(original["id"], twin["id"]);
    assert_eq!(beta.ok(&["exec", "twin", "--", "/bin/hostname"]), "twin\n");
    let lines = |node: &Node, name: &str| node.ok(&["logs", name]).lines().count();
    let before = (lines(alpha, "count"), lines(beta, "twin"));
    until("both count on", || lines(alpha, "count") > before.0 && lines(beta, "twin") > before.1);
}

#[test]
fn a_program_of_exec_stands_in_the_way_by_name_and_moves_along_once_its_client_has_left() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    counting(alpha, "count");
    let alive = r#"$i = 0; while (1) { open F, ">/tmp/alive.new"; print F ++$i; close F; rename "/tmp/alive.new", "/tmp/alive"; select undef, undef, undef, 0.02 }"#;
    let mut client = alpha.command(&["exec", "-i", "count", "--", "/usr/bin/perl", "-e", alive]);
    let mut client =
        client.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let count_at = |node: &Node| -> u64 {
        let read = node.run(&["exec", "count", "--", "/bin/cat", "/tmp/alive"]);
        String::from_utf8_lossy(&read.stdout).trim().parse().unwrap_or(0)
    };
    until("it is alive", || count_at(alpha) > 3);
    let plan = alpha.run(&["--json", "plan", "count", "--to", "beta"]);
    assert_eq!(plan.status.code(), Some(3));
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    let blockers = plan["blockers"].as_array().unwrap();
    assert_eq!(blockers.len(), 1, "{blockers:#?}");
    let what = blockers[0]["what"].as_str().unwrap();
    assert!(what.contains("(/usr/bin/perl) was started by `ferry exec`"), "{what}");
    let said = alpha.fails(&["move", "count", "--to", "beta"], 3);
    assert!(said.contains("ferry exec") && state_of(alpha, "count") == "running", "{said}");

    client.kill().unwrap();
    client.wait().unwrap();
    until("it moves", || alpha.run(&["move", "count", "--to", "beta"]).status.success());
    let there = count_at(beta);
    assert!(there > 3);
    until("it goes on there", || count_at(beta) > there + 5);
}
