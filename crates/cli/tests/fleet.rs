//! Two nodes trust each other, by the real binary.

mod common;

use common::{Fleet, mode};

#[test]
fn a_host_joins_by_a_token_is_listed_and_is_put_out() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    let status = beta.json(&["node", "status"]);
    assert_eq!((&status["name"], &status["authority"]["node"]), (&"beta".into(), &"alpha".into()));
    let shown = beta.json(&["host", "show", "alpha"]);
    assert_eq!(shown["reachable"], true);
    assert!(shown["facts"]["memory_available_bytes"].as_u64().unwrap() > 0, "{shown}");

    assert!(beta.fails(&["node", "token", "gamma"], 3).contains("Only alpha"));
    assert!(alpha.fails(&["node", "token", "beta"], 3).contains("already"));
    assert!(alpha.fails(&["host", "show", "nobody"], 2).contains("There is no host nobody"));
    assert!(alpha.fails(&["node", "init", "--name", "other"], 3).contains("already belongs to a fleet"));

    alpha.ok(&["node", "rm", "beta"]);
    let hosts = alpha.json(&["host", "ls"]);
    assert_eq!(hosts.as_array().unwrap().len(), 1, "{hosts}");
    let seen = beta.json(&["host", "ls"]);
    let reachable =
        seen.as_array().unwrap().iter().any(|host| host["name"] == "alpha" && host["reachable"] == true);
    assert!(!reachable, "who was put out reaches nobody: {seen}");
}

#[test]
fn the_socket_and_the_secrets_are_the_owners_alone_and_the_doctor_says_when_not() {
    let fleet = Fleet::of(&["alpha"]);
    let alpha = &fleet.nodes[0];
    assert_eq!(mode(&alpha.socket()), 0o600);
    assert_eq!(mode(&alpha.run_dir()), 0o700);
    for secret in ["trust/node.key", "authority/authority.key"] {
        assert_eq!(mode(&alpha.state().join(secret)), 0o600, "{secret}");
    }
    assert!(alpha.ok(&["doctor"]).contains("All is well"));

    let log = alpha.state().join("audit.log");
    alpha.ok(&["node", "token", "beta"]);
    let changed = std::fs::read_to_string(&log).unwrap().replace("beta", "mallory");
    std::fs::write(&log, changed).unwrap();
    assert!(alpha.fails(&["doctor"], 6).contains("line 1 was changed"));
}

#[test]
fn two_nodes_cannot_share_a_state_directory_and_no_node_is_one_clear_sentence() {
    let mut fleet = Fleet::of(&["alpha"]);
    let second = fleet.nodes[0].fails(&["node", "up"], 1);
    assert!(second.contains("Another node uses"), "{second}");
    fleet.nodes[0].crash();
    let said = fleet.nodes[0].fails(&["ps"], 1);
    assert!(said.contains("Cannot: No node answers at") && said.contains("hint: start one"), "{said}");
    let json = fleet.nodes[0].fails(&["--json", "ps"], 1);
    let error: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(error["error"]["kind"], "unable");
    // What a killed node left behind does not stop the next.
    fleet.nodes[0].up();
    fleet.nodes[0].ok(&["node", "status"]);
}
