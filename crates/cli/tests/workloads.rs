//! The life of a workload: run, looked at, entered, ended, forgotten; and a node that crashes meanwhile.

mod common;

use common::{Fleet, until};

#[test]
fn a_workload_runs_writes_is_entered_and_ends() {
    let fleet = Fleet::of(&["alpha"]);
    let alpha = &fleet.nodes[0];
    let script = "echo hello $NAME; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo bye >&2; exit 7";
    let printed = alpha.ok(&["run", "--name", "job", "--env", "NAME=ferry", "--", "/bin/sh", "-c", script]);
    assert_eq!(printed, "job\n");
    until("it has written", || alpha.ok(&["logs", "job"]).contains("hello ferry"));
    let listed = alpha.json(&["ps"]);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["state"], &listed[0]["epoch"]),
        (&"job".into(), &"running".into(), &1.into())
    );
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(alpha.json(&["show", &id[..10]])["name"], "job", "the beginning of an id names it");
    assert!(alpha.fails(&["run", "--name", "job", "--", "/bin/true"], 3).contains("already"));

    // Another program sees the workload's processes and files, and gives its code.
    assert_eq!(alpha.run(&["exec", "job", "--", "/bin/sh", "-c", "exit 5"]).status.code(), Some(5));
    let passed = alpha.ok_with_input(&["exec", "-i", "job", "--", "/bin/cat"], b"through the capsule");
    assert_eq!(passed, "through the capsule");
    let last = "cat /proc/sys/kernel/hostname; touch /tmp/go";
    assert_eq!(alpha.ok(&["exec", "job", "--", "/bin/sh", "-c", last]), "job\n");
    assert_eq!(alpha.run(&["wait", "job"]).status.code(), Some(7));
    let log = alpha.ok(&["logs", "--follow", "job"]);
    assert_eq!(log, "hello ferry\nbye\n");
    assert_eq!(alpha.json(&["ps"])[0]["exit"]["code"], 7);
    alpha.ok(&["rm", "job"]);
    assert_eq!(alpha.json(&["ps", "--all"]).as_array().unwrap().len(), 0);
    assert!(alpha.fails(&["logs", "job"], 2).contains("There is no workload 'job'"));
    assert!(
        std::fs::read_dir(alpha.state().join("workloads")).unwrap().next().is_none(),
        "nothing is left of it"
    );
}

#[test]
fn stop_asks_first_and_kill_does_not() {
    let fleet = Fleet::of(&["alpha"]);
    let alpha = &fleet.nodes[0];
    let polite = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    alpha.ok(&["run", "--name", "polite", "--", "/bin/sh", "-c", polite]);
    alpha.ok(&[
        "run",
        "--name",
        "deaf",
        "--",
        "/bin/sh",
        "-c",
        "trap '' TERM; echo up; while :; do sleep 0.05; done",
    ]);
    until("both are up", || ["polite", "deaf"].iter().all(|name| alpha.ok(&["logs", name]).contains("up")));
    assert!(alpha.fails(&["rm", "polite"], 3).contains("still runs"));
    assert!(alpha.ok(&["stop", "polite"]).contains("exited (0)"));
    assert!(alpha.ok(&["logs", "polite"]).contains("asked"));
    assert!(alpha.ok(&["stop", "--grace", "200ms", "deaf"]).contains("ended by signal 9"));
    alpha.ok(&["rm", "polite", "deaf"]);
}

#[test]
fn a_workload_outlives_its_node() {
    let mut fleet = Fleet::of(&["alpha"]);
    let count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    fleet.nodes[0].ok(&["run", "--name", "count", "--", "/bin/sh", "-c", count]);
    let alpha = &mut fleet.nodes[0];
    until("it counts", || alpha.ok(&["logs", "count"]).lines().count() > 2);
    let pid = alpha.json(&["ps"])[0]["pid"].clone();
    alpha.crash();
    alpha.up();
    let after = alpha.json(&["ps"]);
    assert_eq!(
        (&after[0]["pid"], &after[0]["state"]),
        (&pid, &"running".into()),
        "the same process goes on: {after}"
    );
    let lines = |text: String| text.lines().map(|line| line.parse::<u64>().unwrap()).collect::<Vec<_>>();
    let before = lines(alpha.ok(&["logs", "count"])).len();
    until("it counts on", || lines(alpha.ok(&["logs", "count"])).len() > before + 2);
    let counted = lines(alpha.ok(&["logs", "count"]));
    assert!(counted.windows(2).all(|pair| pair[1] == pair[0] + 1), "and lost nothing");
    alpha.ok(&["rm", "--force", "count"]);
}
