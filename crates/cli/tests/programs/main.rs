//! Real programs, each moved twice under load and each checked for its own correctness. They are examples of what users have,
//! not the list of what must work. With `FERRY_SOAK=1` each is moved ten times there and back.

mod redis_saves;
#[path = "../support/mod.rs"]
mod support;

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::Path;
use std::time::Duration;
use support::{Verdict, carry_by, fleet, run_until_ready, verify};

/// How they travel. By the last, rounds that can never be enough: what writes at all goes on by post-copy.
const WAYS: [(&str, &str); 5] = [
    ("", "stop-and-copy"),
    ("live_", "pre-copy"),
    ("postcopy_", "post-copy"),
    ("hybrid_", "hybrid"),
    ("switch_", "pre-copy --downtime-max 1us --rounds-max 2 --on-no-convergence switch"),
];

fn main() -> std::process::ExitCode {
    let programs: [(&str, &[&str]); 4] = [
        ("python.py", &["/usr/bin/python3", "/srv/python.py"]),
        ("pipeline.sh", &["/bin/bash", "/srv/pipeline.sh"]),
        ("sqlite.sh", &["/bin/bash", "/srv/sqlite.sh"]),
        ("terminal.py", &["/usr/bin/python3", "/srv/terminal.py"]),
    ];
    let mut trials = Vec::new();
    for (file, command) in programs {
        for (way, method) in WAYS {
            let name = format!("heavy::{way}{}", file.split('.').next().unwrap_or(file));
            trials.push(Trial::test(name, move || moved_twice(file, command, method).map_err(Failed::from)));
        }
    }
    trials.push(Trial::test("heavy::redis", || {
        played(&["--workload", "redis", "--size", "64"]).map_err(Failed::from)
    }));
    trials
        .push(Trial::test("heavy::redis_saves_in_rounds", || redis_saves::in_rounds().map_err(Failed::from)));
    trials.push(Trial::test("heavy::redis_saves_in_drain", || redis_saves::in_drain().map_err(Failed::from)));
    trials.push(Trial::test("heavy::demo", || played(&["--size", "256"]).map_err(Failed::from)));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// There and back while it works; then it is told to come to its end, and says whether all was right.
fn moved_twice(file: &str, command: &[&str], method: &str) -> Verdict {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs").join(file);
    let place = format!("/srv/{file}");
    let fleet = fleet(&[(&source, &place)])?;
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    run_until_ready(alpha, &["--net", "10.77.0.90/24"], command)?;
    let legs = if std::env::var_os("FERRY_SOAK").is_some() { 20 } else { 2 };
    for (from, to) in [(alpha, beta), (beta, alpha)].into_iter().cycle().take(legs) {
        carry_by(method, from, to)?;
        // It works on for a while before it is moved again.
        std::thread::sleep(Duration::from_millis(300));
    }
    verify(fleet)
}

/// The demo is the scenario: verifying clients write and read over open connections while the server moves there and back.
fn played(args: &[&str]) -> Verdict {
    let output = std::process::Command::new(support::PROGRAM)
        .args(["--json", "demo"])
        .args(args)
        .output()
        .map_err(support::words)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let heard = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the demo ended with {}: {said}{heard}", output.status));
    }
    let result: serde_json::Value = serde_json::from_str(&said).map_err(support::words)?;
    let zero = ["replies_lost", "replies_wrong", "replies_doubled", "connections_broken"];
    let clean = zero.iter().all(|name| result[name] == 0) && result["leftovers"] == serde_json::json!([]);
    if clean && result["moves"] == 2 && result["replies"].as_u64() > Some(1000) {
        Ok(())
    } else {
        Err(format!("{result}"))
    }
}
