//! What holds for every verb: JSON for programs, exit codes, colours and progress only where a person looks, hints with
//! errors, and what the doctor may take away.

mod common;

use common::person::Person;
use common::{Fleet, Node, text, until};
use serde_json::{Deserializer, Value};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

/// Counts without starting other programs.
const COUNT: &str = r#"$| = 1; while (1) { print ++$i, "\n"; select(undef, undef, undef, 0.02) }"#;

/// Holds 300 MiB, so that a move takes a while.
const LARGE: &str =
    r#"$| = 1; $x = "x" x 300_000_000; print "ready\n"; while (1) { select(undef, undef, undef, 0.02) }"#;

fn running(node: &Node, name: &str, script: &str) {
    node.ok(&["run", "--name", name, "--", "/usr/bin/perl", "-e", script]);
    until("it runs", || !node.ok(&["logs", name]).is_empty());
}

/// The verbs of the main help.
fn verbs() -> BTreeSet<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_ferry")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let list = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap().to_owned();
    let verb = |line: &str| line.split_whitespace().next().map(str::to_owned);
    list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")).filter_map(verb).collect()
}

/// Every value on standard output; for an error, the one on standard error.
fn values(args: &[&str], output: &Output) -> Vec<Value> {
    let parse = |bytes: &[u8]| Deserializer::from_slice(bytes).into_iter().collect::<Result<Vec<Value>, _>>();
    let out =
        parse(&output.stdout).unwrap_or_else(|error| panic!("ferry {args:?}: {error}: {}", text(output)));
    let error =
        parse(&output.stderr).unwrap_or_else(|error| panic!("ferry {args:?}: {error}: {}", text(output)));
    let all = [out, error].concat();
    assert!(!all.is_empty(), "ferry {args:?} said nothing");
    all
}

#[test]
fn every_verb_speaks_json() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    let mut walked = BTreeSet::new();
    let mut say = |node: &Node, args: &[&str]| -> Vec<Value> {
        walked.insert(args[0].to_owned());
        values(args, &node.run(&[&["--json"], args].concat()))
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    say(alpha, &["check"]);
    say(alpha, &["node", "status"]);
    say(alpha, &["node", "token", "gamma"]);
    say(alpha, &["node", "operator", "alice", "--out", &path("alice")]);
    say(alpha, &["node", "rm", "alice"]);
    say(alpha, &["host", "ls"]);
    say(alpha, &["host", "show", "beta"]);
    assert_eq!(
        say(alpha, &["run", "--name", "count", "--", "/usr/bin/perl", "-e", COUNT])[0]["name"],
        "count"
    );
    until("it counts", || !alpha.ok(&["logs", "count"]).is_empty());
    for args in [
        &["ps"][..],
        &["show", "count"],
        &["logs", "count"],
        &["plan", "count", "--to", "beta"],
        &["estimate", "count", "--to", "beta"],
        &["recover", "count"],
        &["moves", "ls"],
        &["clone", "count", "--to", "beta", "--name", "twin"],
    ] {
        say(alpha, args);
    }
    let moved = say(alpha, &["move", "count", "--to", "beta"]);
    let id = moved.last().unwrap()["id"].as_str().unwrap_or_else(|| panic!("{moved:?}")).to_owned();
    assert_eq!(moved.last().unwrap()["state"], "done", "{moved:?}{}{}", alpha.log(), beta.log());
    say(alpha, &["moves", "show", &id]);
    assert!(say(alpha, &["moves", "follow", &id]).len() > 3);
    say(alpha, &["moves", "cancel", &id]);
    say(alpha, &["pull", "count", "--from", "beta"]);
    for args in [
        &["stop", "count"][..],
        &["wait", "count"],
        &["kill", "count"],
        &["rm", "count"],
        &["doctor"],
        &["man", &path("man")],
        // What these say when they cannot.
        &["adopt", "999999999"],
        &["checkpoint", "999999999", &path("image")],
        &["restore", &path("nothing")],
        &["attach", "nobody"],
        &["exec", "nobody", "--", "true"],
    ] {
        say(alpha, args);
    }
    // A script for a shell is what it is; the demo's JSON has a test of its own.
    walked.extend(["completions", "demo", "help"].map(str::to_owned));
    let missed: Vec<String> = verbs().difference(&walked).cloned().collect();
    assert!(missed.is_empty(), "no --json was tried of {missed:?}");
}

#[test]
fn exit_codes_say_what_became_of_it() {
    let mut fleet = Fleet::of(&["alpha", "beta"]);
    {
        let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
        alpha.fails(&["node", "up"], 1);
        alpha.fails(&["move", "count"], 2);
        alpha.fails(&["show", "nobody"], 2);
        running(alpha, "large", LARGE);
        std::fs::write(beta.state().join("policy.toml"), "[receive]\nfrom = []\n").unwrap();
        alpha.fails(&["move", "large", "--to", "beta"], 3);
        std::fs::remove_file(beta.state().join("policy.toml")).unwrap();
        // Where the target wants to put it there is something else: it fails there, and goes on here.
        let id = alpha.json(&["ps"])[0]["id"].as_str().unwrap().to_owned();
        let in_the_way = beta.state().join("workloads").join(&id);
        std::fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
        std::fs::write(&in_the_way, "").unwrap();
        let said = alpha.fails(&["move", "large", "--to", "beta"], 4);
        assert!(said.contains("Failed and rolled back"), "{said}");
        std::fs::remove_file(&in_the_way).unwrap();
        assert_eq!(alpha.json(&["ps"])[0]["state"], "running");
    }
    // In the middle of a move the target hangs and the node that was asked is gone: nobody knows yet how it ends.
    let mut client = fleet.nodes[0].command(&["move", "large", "--to", "beta"]);
    let mut client =
        client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("large: freeze ")), "the move began");
    fleet.nodes[1].hang(true);
    fleet.nodes[0].crash();
    let said: Vec<String> = lines.collect();
    fleet.nodes[1].hang(false);
    assert_eq!(client.wait().unwrap().code(), Some(5), "{said:?}");
    assert!(said.iter().any(|line| line.contains("hint: ")), "{said:?}");
    fleet.nodes[0].up();
    let runs =
        |node: &Node| node.json(&["ps"]).as_array().unwrap().iter().any(|one| one["state"] == "running");
    until("it runs on, at one of them", || runs(&fleet.nodes[0]) != runs(&fleet.nodes[1]));
    // The other's part of it is thrown away only when both have spoken: what is frozen there would outlive the test.
    let copies = |node: &Node| {
        let all = std::fs::read_dir(node.state().join("workloads")).into_iter().flatten().flatten();
        all.filter(|entry| entry.path().join("shim.sock").exists()).count()
    };
    until("one copy is left", || fleet.nodes.iter().map(copies).sum::<usize>() == 1);
}

#[test]
fn errors_come_with_a_hint() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    running(alpha, "count", COUNT);
    for (node, args) in [
        (alpha, &["node", "up"][..]),
        (alpha, &["show", "nobody"]),
        (alpha, &["run", "--", "./here"]),
        (alpha, &["exec", "nobody", "--", "true"]),
        (alpha, &["attach", "nobody"]),
        (alpha, &["host", "show", "nobody"]),
        (alpha, &["move", "count", "--to", "nobody"]),
        (alpha, &["move", "nobody", "--to", "beta"]),
        (alpha, &["moves", "show", "m-00000000000000000000000000000000"]),
        (alpha, &["run", "--name", "count", "--", "true"]),
        (alpha, &["run", "-i", "--", "true"]),
        (alpha, &["rm", "count"]),
        (alpha, &["node", "init"]),
        (alpha, &["node", "token", "beta"]),
        (beta, &["node", "token", "gamma"]),
    ] {
        let output = node.run(args);
        assert!(matches!(output.status.code(), Some(1..=3)), "{args:?}: {}", text(&output));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("hint: "), "ferry {args:?} says not what to do:\n{said}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error_and_colours_are_for_terminals() {
    let fleet = Fleet::of(&["alpha"]);
    let alpha = &fleet.nodes[0];
    let program = format!(
        "set -o pipefail; '{}' --state '{}' --run '{}' ps | head -c 0",
        env!("CARGO_BIN_EXE_ferry"),
        alpha.state().display(),
        alpha.run_dir().display()
    );
    let piped = Command::new("/bin/bash").args(["-c", &program]).output().unwrap();
    assert_eq!((piped.status.code(), piped.stderr.as_slice()), (Some(0), &b""[..]), "{}", text(&piped));

    let plain = alpha.run(&["check"]);
    assert!(!text(&plain).contains('\u{1b}'), "{}", text(&plain));
    let code = plain.status.code().unwrap();
    let shown = Person::runs(alpha, &["check"]).ends_with(code);
    assert!(shown.contains("\u{1b}["), "{shown:?}");
    let error = Person::runs(alpha, &["show", "nobody"]).ends_with(2);
    assert!(error.contains("\u{1b}["), "{error:?}");
}

#[test]
fn what_takes_a_while_shows_how_far_it_is() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    running(alpha, "large", LARGE);
    // Off a terminal: a plain line for each phase.
    let moved = alpha.run(&["move", "large", "--to", "beta"]);
    assert!(moved.status.success(), "{}", text(&moved));
    let said = String::from_utf8_lossy(&moved.stderr).into_owned();
    for phase in ["plan", "freeze", "state", "finish"] {
        assert!(said.lines().any(|line| line.starts_with(&format!("large: {phase} "))), "{phase}: {said:?}");
    }
    assert!(!said.contains('\u{1b}') && !said.contains('\r'), "{said:?}");
    // On one: a line that is drawn over and over, and is gone at the end. With --json nothing.
    let shown = Person::runs(beta, &["move", "large", "--to", "alpha"]).ends_with(0);
    assert!(shown.contains("large: ") && shown.contains("\u{1b}["), "{shown:?}");
    let moved = alpha.run(&["--json", "move", "large", "--to", "beta"]);
    assert!(moved.status.success() && moved.stderr.is_empty(), "{}", text(&moved));
}

#[test]
fn the_doctor_takes_away_only_what_belongs_to_nobody() {
    let fleet = Fleet::of(&["alpha"]);
    let alpha = &fleet.nodes[0];
    running(alpha, "count", COUNT);
    assert!(alpha.ok(&["doctor"]).contains("All is well"));
    assert_eq!(alpha.json(&["doctor"])["findings"], Value::Array(vec![]));

    // One that was begun and never became a workload; and one that may be somebody's, whose shim is gone.
    let workloads = alpha.state().join("workloads");
    let begun = workloads.join("w-00000000000000000000000000000001");
    let owned = workloads.join("w-00000000000000000000000000000002");
    for dir in [&begun, &owned] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(owned.join("shim.cbor"), b"x").unwrap();
    let said = alpha.fails(&["doctor"], 6);
    assert!(said.contains(begun.to_str().unwrap()) && said.contains("of nobody"), "{said}");
    assert!(said.contains("(of w-00000000000000000000000000000002)"), "{said}");
    assert!(begun.exists(), "looking changes nothing");
    let said = alpha.fails(&["doctor", "--clean"], 6);
    assert!(said.contains("removed") && !begun.exists() && owned.exists(), "{said}");
    assert_eq!(alpha.json(&["ps"])[0]["state"], "running", "what is somebody's goes on");
    std::fs::remove_dir_all(&owned).unwrap();
    assert!(alpha.ok(&["doctor", "--clean"]).contains("All is well"));
}
