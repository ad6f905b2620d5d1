//! A whole move by `curl`: the API is HTTP, and nothing but HTTP is needed.

mod common;

use common::{Fleet, Node, until};
use serde_json::{Value, json};
use std::process::Command;

/// `curl` on a node's socket; the answer's status and body.
fn curl(node: &Node, method: &str, path: &str, body: Option<&Value>) -> (u32, String) {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--no-buffer",
        "--max-time",
        "60",
        "--write-out",
        "\n%{http_code}",
    ]);
    command.arg("--unix-socket").arg(node.socket()).args(["--request", method]);
    if let Some(body) = body {
        command.args(["--header", "content-type: application/json", "--data", &body.to_string()]);
    }
    let output =
        command.arg(format!("http://ferry{path}")).output().expect("curl is needed: apt-get install curl");
    assert!(output.status.success(), "curl {method} {path}: {}{}", common::text(&output), node.log());
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn call(node: &Node, method: &str, path: &str, body: Option<&Value>) -> Value {
    let (status, text) = curl(node, method, path, body);
    assert_eq!(status, 200, "{method} {path}: {text}{}", node.log());
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_whole_move_is_driven_by_curl() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    let document = call(alpha, "GET", "/v1/openapi.json", None);
    assert!(document["paths"]["/v1/moves"]["post"].is_object());

    // It starts no other programs: a tree that is in the middle of a fork is a blocker, for that moment.
    let script = r#"$| = 1; while (1) { print ++$i, "\n"; select(undef, undef, undef, 0.02) }"#;
    let request = json!({ "name": "count", "command": ["/usr/bin/perl", "-e", script] });
    let workload = call(alpha, "POST", "/v1/workloads", Some(&request));
    let id = workload["id"].as_str().unwrap();
    until("it counts", || curl(alpha, "GET", "/v1/workloads/count/logs", None).1.lines().count() > 3);

    let plan = call(alpha, "POST", "/v1/workloads/count/plan", Some(&json!({ "to": "beta" })));
    assert_eq!(plan["blockers"], json!([]), "{plan}");
    let request = json!({ "workloads": ["count"], "to": "beta" });
    let begun = call(alpha, "POST", "/v1/moves", Some(&request));
    let id_of_move = begun[0]["id"].as_str().unwrap();
    let (status, events) = curl(alpha, "GET", &format!("/v1/moves/{id_of_move}/events"), None);
    assert_eq!(status, 200);
    let events: Vec<Value> = events
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["error"]),
        (&"end".into(), &Value::Null),
        "{events:#?}{}{}",
        alpha.log(),
        beta.log()
    );
    assert!(events.iter().any(|event| event["phase"] == "freeze"));
    let ended = call(alpha, "GET", &format!("/v1/moves/{id_of_move}"), None);
    assert_eq!(ended["state"], "done");
    assert!(ended["downtime_us"].as_u64().unwrap() > 0, "{ended}");

    // It is beta's now, with the same identity, one epoch later, and counts on where it was.
    let here = call(beta, "GET", "/v1/workloads/count", None);
    assert_eq!((&here["id"], &here["epoch"], &here["state"]), (&id.into(), &2.into(), &"running".into()));
    assert_eq!(call(alpha, "GET", "/v1/workloads/count", None)["state"], "gone");
    let numbers = |text: String| text.lines().filter_map(|line| line.parse::<u64>().ok()).collect::<Vec<_>>();
    until("it counts on", || numbers(curl(beta, "GET", "/v1/workloads/count/logs", None).1).len() > 3);
    let (left, arrived) = (
        numbers(curl(alpha, "GET", "/v1/workloads/count/logs", None).1),
        numbers(curl(beta, "GET", "/v1/workloads/count/logs", None).1),
    );
    let mut all = left;
    all.extend(arrived);
    all.sort_unstable();
    all.dedup();
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "no number is lost: {all:?}");

    // Back, begun by the receiver.
    let request = json!({ "workloads": ["count"], "to": "alpha", "from": "beta" });
    let pulled = call(alpha, "POST", "/v1/moves", Some(&request));
    let id_of_move = pulled[0]["id"].as_str().unwrap();
    let (_, events) = curl(alpha, "GET", &format!("/v1/moves/{id_of_move}/events"), None);
    assert!(events.contains("\"event\":\"end\",\"error\":null"), "{events}{}{}", alpha.log(), beta.log());
    let back = call(alpha, "GET", "/v1/workloads/count", None);
    assert_eq!((&back["epoch"], &back["state"]), (&3.into(), &"running".into()), "{back}");

    let killed = call(alpha, "POST", "/v1/workloads/count/kill", Some(&json!({ "signal": 15 })));
    assert_eq!(killed["name"], "count");
    assert_eq!(call(alpha, "GET", "/v1/workloads/count/wait", None)["exit"], json!({ "signal": 15 }));
    call(alpha, "DELETE", "/v1/workloads/count", None);
}

#[test]
fn what_is_wrong_is_said_as_data() {
    let fleet = Fleet::of(&["alpha"]);
    let alpha = &fleet.nodes[0];
    let cases = [
        ("GET", "/v1/workloads/nobody", None, 404, "usage"),
        ("GET", "/v1/nonsense", None, 404, "usage"),
        ("POST", "/v1/workloads", Some(json!({ "command": [] })), 400, "usage"),
        ("POST", "/v1/workloads", Some(json!({ "comand": ["true"] })), 400, "usage"),
        ("POST", "/v1/moves", Some(json!({ "workloads": ["x"], "to": "beta" })), 404, "usage"),
        ("POST", "/v1/workloads/x/attach", Some(json!({})), 400, "usage"),
        ("DELETE", "/v1/hosts/alpha", None, 409, "refused"),
    ];
    for (method, path, body, status, kind) in cases {
        let (said, text) = curl(alpha, method, path, body.as_ref());
        let error: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method} {path}: {text}"));
        assert_eq!((said, &error["kind"]), (status, &kind.into()), "{method} {path}: {text}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
}
