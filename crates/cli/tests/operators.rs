//! The API over the network: an operator drives a whole move from elsewhere, by `ferry --api` and by `curl`, and what it did
//! stands in the audit log under its name.

mod common;

use common::{Fleet, Node, mode, text, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Counts, and writes a number fifty times a second. It starts no other programs.
const COUNT: &str = r#"$| = 1; while (1) { print ++$i, "\n"; select(undef, undef, undef, 0.02) }"#;

/// An operator: a directory with its key, and where the node's API is.
struct Operator {
    identity: PathBuf,
    dir: tempfile::TempDir,
}

impl Operator {
    fn made(authority: &Node, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = dir.path().join(name);
        let made = authority.json(&["node", "operator", name, "--out", identity.to_str().unwrap()]);
        assert_eq!(made["name"], name);
        Self { identity, dir }
    }

    /// `ferry` as this operator, with no state of a node within reach.
    fn command(&self, node: &Node, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        let nowhere = self.dir.path().join("nowhere");
        command.arg("--run").arg(&nowhere).arg("--state").arg(&nowhere);
        command.env("FERRY_API", format!("https://{}@{}", node.name, api_address(node)));
        command.env("FERRY_IDENTITY", &self.identity).args(args);
        command
    }

    fn run(&self, node: &Node, args: &[&str]) -> Output {
        self.command(node, args).stdin(Stdio::null()).output().unwrap()
    }

    fn ok(&self, node: &Node, args: &[&str]) -> String {
        let output = self.run(node, args);
        assert!(output.status.success(), "ferry {}: {}{}", args.join(" "), text(&output), node.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// `curl` with the same files.
    fn curl(&self, node: &Node, method: &str, path: &str, body: Option<&Value>) -> Value {
        let address = api_address(node);
        let (host, port) = address.rsplit_once(':').unwrap();
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--max-time",
            "60",
            "--request",
            method,
        ]);
        command.arg("--resolve").arg(format!("{}.node.ferry:{port}:{host}", node.name));
        for (option, file) in
            [("--cacert", "authority.pem"), ("--cert", "operator.pem"), ("--key", "operator.key")]
        {
            command.arg(option).arg(self.identity.join(file));
        }
        if let Some(body) = body {
            command.args(["--header", "content-type: application/json", "--data", &body.to_string()]);
        }
        let output = command.arg(format!("https://{}.node.ferry:{port}{path}", node.name)).output().unwrap();
        assert!(output.status.success(), "curl {method} {path}: {}{}", text(&output), node.log());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

fn api_address(node: &Node) -> String {
    node.json(&["node", "status"])["api"].as_str().unwrap().to_owned()
}

#[test]
fn an_operator_drives_a_whole_move_from_elsewhere() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    let alice = Operator::made(alpha, "alice");
    assert_eq!(mode(&alice.identity), 0o700);
    assert_eq!(mode(&alice.identity.join("operator.key")), 0o600);

    alice.ok(alpha, &["run", "--name", "count", "--", "/usr/bin/perl", "-e", COUNT]);
    let listed: Value = serde_json::from_str(&alice.ok(alpha, &["--json", "ps"])).unwrap();
    assert_eq!(listed[0]["name"], "count");
    until("it counts", || alice.ok(alpha, &["logs", "count"]).lines().count() > 3);
    let plan: Value =
        serde_json::from_str(&alice.ok(alpha, &["--json", "plan", "count", "--to", "beta"])).unwrap();
    assert_eq!(plan["blockers"], json!([]), "{plan}");

    // A stream goes on and on, another carries both directions.
    let mut follow = alice.command(alpha, &["logs", "-f", "count"]);
    let mut follow = follow.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let heard = lines.map_while(Result::ok).take(20).count();
    let _ = follow.kill();
    let _ = follow.wait();
    assert_eq!(heard, 20);
    let mut cat = alice.command(alpha, &["exec", "-i", "count", "--", "/bin/cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let long = "a line of input\n".repeat(20_000);
    cat.stdin.take().unwrap().write_all(long.as_bytes()).unwrap();
    let output = cat.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(output.stdout.len(), long.len());
    assert_eq!(alice.run(alpha, &["exec", "count", "--", "/bin/sh", "-c", "exit 7"]).status.code(), Some(7));

    // There by the CLI, which follows the move to its end; back by curl.
    let moved = alice.run(alpha, &["move", "count", "--to", "beta", "--yes"]);
    assert!(moved.status.success(), "{}{}{}", text(&moved), alpha.log(), beta.log());
    let here = alice.curl(beta, "GET", "/v1/workloads/count", None);
    assert_eq!((&here["epoch"], &here["state"]), (&2.into(), &"running".into()), "{here}");
    let request = json!({ "workloads": ["count"], "to": "alpha" });
    let begun = alice.curl(beta, "POST", "/v1/moves", Some(&request));
    let id = begun[0]["id"].as_str().unwrap();
    let events = alice.curl(beta, "GET", &format!("/v1/moves/{id}/events"), None);
    let events = events.as_str().unwrap();
    assert!(events.contains("\"event\":\"end\",\"error\":null"), "{events}{}{}", alpha.log(), beta.log());
    assert_eq!(alice.curl(alpha, "GET", "/v1/workloads/count", None)["epoch"], 3);

    // Who did it is written down, on the host where it was asked.
    for (node, what) in [
        (alpha, "POST /v1/workloads"),
        (alpha, "POST /v1/workloads/count/exec"),
        (alpha, "POST /v1/moves"),
        (beta, "POST /v1/moves"),
    ] {
        let log = std::fs::read_to_string(node.state().join("audit.log")).unwrap();
        let found = log.lines().any(|line| {
            line.contains("\"who\":\"operator alice\"") && line.contains(&format!("\"what\":\"{what}\""))
        });
        assert!(found, "{what} by alice is not in the audit log of {}:\n{log}", node.name);
    }
    alice.ok(alpha, &["rm", "--force", "count"]);
}

#[test]
fn an_operator_is_made_and_put_out_by_name() {
    let fleet = Fleet::of(&["alpha"]);
    let alpha = &fleet.nodes[0];
    let alice = Operator::made(alpha, "alice");
    assert!(alice.ok(alpha, &["ps"]).contains("NAME") || alice.ok(alpha, &["--json", "ps"]).contains("[]"));
    let status = alpha.json(&["node", "status"]);
    assert_eq!(status["operators"][0]["name"], "alice");
    // Nothing is replaced, neither a directory with something in it nor a name that is taken.
    alpha.fails(&["node", "operator", "bob", "--out", path(&alice.identity)], 3);
    alpha.fails(&["node", "operator", "alice", "--out", path(&alice.dir.path().join("other"))], 3);

    // What is about this host is refused by name while another one is named.
    for verb in [&["check"][..], &["doctor"], &["restore", "/nonexistent"], &["node", "init"]] {
        let refused = alice.run(alpha, verb);
        assert_eq!(refused.status.code(), Some(2), "{verb:?}: {}", text(&refused));
        assert!(text(&refused).contains("is about this host"), "{verb:?}: {}", text(&refused));
    }
    let mut without = alice.command(alpha, &["ps"]);
    let refused = without.env_remove("FERRY_IDENTITY").output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("--identity"), "{}", text(&refused));

    assert!(alpha.ok(&["node", "rm", "alice"]).contains("alice"));
    let refused = alice.run(alpha, &["ps"]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("do not trust each other"), "{}", text(&refused));
    assert_eq!(alpha.json(&["node", "status"])["operators"], json!([]));
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
