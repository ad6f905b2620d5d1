//! What a host keeps of the memory of workloads that have left it, by the real binary: who comes back brings only what has changed.

mod common;

use common::{Fleet, Node, until};
use serde_json::Value;
use std::path::PathBuf;

/// 32 MiB of which each page is another, and which it looks through all the time. It changes one of the first 256 pages now and then.
const KEEPER: &str = r#"$| = 1; my ($pages, @was) = (8192);
    my $x = ""; for (1 .. $pages) { $x .= pack("N", $_) x 1024; $was[$_ - 1] = $_ }
    while (1) {
        my $p = int rand 256; $was[$p] = int rand 1 << 31; substr($x, 4096 * $p, 4096, pack("N", $was[$p]) x 1024);
        for (1 .. 200) { my $q = int rand $pages; die "page $q" unless substr($x, 4096 * $q, 4096) eq pack("N", $was[$q]) x 1024 }
        print ++$i, "\n"; select(undef, undef, undef, 0.01)
    }"#;

const MIB: u64 = 1 << 20;

/// A fleet that keeps so much, with the program on alpha.
fn keeping(size: &str) -> Fleet {
    let fleet = Fleet::with(&["alpha", "beta"], &["--visits-max", size]);
    fleet.nodes[0].ok(&["run", "--name", "keeper", "--", "/usr/bin/perl", "-e", KEEPER]);
    goes_on(&fleet.nodes[0]);
    fleet
}

fn goes_on(node: &Node) {
    let before = node.ok(&["logs", "keeper"]).lines().count();
    until("it goes on", || node.ok(&["logs", "keeper"]).lines().count() > before + 10);
}

/// The last move away from a host.
fn last_of(node: &Node) -> String {
    let moves = node.json(&["moves", "ls"]);
    let mut away = moves.as_array().unwrap().iter().filter(|one| one["source"] == node.name.as_str());
    away.next_back().unwrap()["id"].as_str().unwrap().to_owned()
}

/// Moves it; what the target had already, what was sent, and how many bytes that were on the wire, as the report says.
fn moved(from: &Node, to: &Node, options: &[&str]) -> [u64; 3] {
    let mut args = vec!["move", "keeper", "--to", &to.name, "--method", "pre-copy", "--compress", "off"];
    args.extend(options);
    from.ok(&args);
    goes_on(to);
    let shown = from.json(&["moves", "show", &last_of(from)]);
    let figure = |name: &str| shown["summary"][name].as_u64().unwrap_or_else(|| panic!("{name}: {shown}"));
    [figure("reused_bytes"), figure("sent_bytes"), figure("wire_bytes")]
}

fn kept(node: &Node) -> Vec<PathBuf> {
    let all = std::fs::read_dir(node.state().join("visits"));
    let all = all.map(|all| all.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()).unwrap_or_default();
    all.into_iter().filter(|place| place.extension().is_none()).collect()
}

#[test]
fn who_comes_back_brings_only_what_has_changed() {
    let fleet = keeping("1G");
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    let [reused, sent, wire] = moved(alpha, beta, &[]);
    assert!(reused == 0 && sent > 32 * MIB && wire > 30 * MIB, "{reused} {sent} {wire}");
    until("what it was is on disk", || kept(alpha).len() == 1);
    let [reused, sent, wire] = moved(beta, alpha, &[]);
    assert!(reused > 30 * MIB && sent < 8 * MIB && wire < 9 * MIB, "{reused} {sent} {wire}");
    let status = alpha.ok(&["node", "status"]);
    assert!(status.contains(" of at most 1.0 GiB of the memory of workloads that have left"), "{status}");
    let report = beta.ok(&["moves", "report", &last_of(beta)]);
    assert!(report.contains("there from an earlier visit"), "{report}");
    // It is here now: what was kept of it goes; and beta keeps what has left it.
    until("what was kept has gone", || kept(alpha).is_empty());
    until("beta keeps it", || kept(beta).len() == 1);
    let [reused, ..] = moved(alpha, beta, &["--streams", "4"]);
    assert!(reused > 30 * MIB, "{reused}");
}

#[test]
fn what_was_kept_and_is_damaged_makes_no_move_wrong() {
    let fleet = keeping("1G");
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    moved(alpha, beta, &[]);
    until("what it was is on disk", || kept(alpha).len() == 1);
    let pages = kept(alpha)[0].join("pages");
    let bytes: Vec<u8> = std::fs::read(&pages).unwrap().into_iter().map(|byte| byte ^ 1).collect();
    std::fs::write(&pages, bytes).unwrap();
    let said = beta.fails(&["move", "keeper", "--to", "alpha", "--method", "pre-copy"], 4);
    assert!(said.contains("What was kept of its last visit is damaged"), "{said}");
    goes_on(beta);
    // It is of no use any more: the next move goes without it.
    until("it has gone", || kept(alpha).is_empty());
    let [reused, sent, _] = moved(beta, alpha, &[]);
    assert!(reused == 0 && sent > 32 * MIB, "{reused} {sent}");
}

#[test]
fn a_host_that_keeps_little_keeps_a_part_and_one_that_keeps_nothing_nothing() {
    let fleet = keeping("8M");
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    moved(alpha, beta, &[]);
    until("what it was is on disk", || kept(alpha).len() == 1);
    let size = std::fs::metadata(kept(alpha)[0].join("pages")).unwrap().len();
    assert!((7 * MIB..=8 * MIB).contains(&size), "{size}");
    let [reused, sent, _] = moved(beta, alpha, &[]);
    assert!(reused > MIB && reused <= 8 * MIB && sent > 20 * MIB, "{reused} {sent}");

    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    alpha.ok(&["run", "--name", "keeper", "--", "/usr/bin/perl", "-e", KEEPER]);
    goes_on(alpha);
    moved(alpha, beta, &[]);
    assert_eq!(kept(alpha), Vec::<PathBuf>::new());
    let shown: Value = alpha.json(&["ps", "--all"]);
    assert_eq!(shown[0]["state"], "gone");
}
