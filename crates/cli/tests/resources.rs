//! The resource segment between two hosts: libraries that differ, paths that are named, a file system that both share, and hosts that
//! do not fit, which the plan refuses by name before anything is touched.

mod support;

use ferry_lab::{Fleet, Host};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{
    NAME, Verdict, carry, clear, ferry, go, host, run_until_ready, start, try_ferry, wait_for_line, words,
};

/// Where beta's node reads the facts that replace its own.
const FACTS: &str = "/root/facts.json";

fn main() -> std::process::ExitCode {
    let trial = |name: &str, test: fn() -> Verdict| Trial::test(name, move || test().map_err(Failed::from));
    let trials = vec![
        trial("libraries_of_the_source_are_seen_where_the_target_has_others", libraries),
        trial("a_named_directory_moves_and_what_is_written_to_it_is_not_lost", named_directory),
        trial("a_shared_file_system_is_bound_again_and_not_copied", shared),
        trial("a_host_that_does_not_fit_is_refused_by_name", unfit),
        trial("a_host_without_room_is_refused", no_room),
        trial("where_nothing_tells_what_is_written_auto_goes_by_post_copy", nothing_tracks),
        trial("where_no_page_can_follow_it_stops_instead_which_is_said_before", nothing_follows),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A folder of the machine's for one test; it goes with the value.
fn scratch() -> Result<tempfile::TempDir, String> {
    tempfile::Builder::new().prefix("resources-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(words)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/resources")
}

fn compile(source: &str, options: &[&str], to: PathBuf) -> Result<PathBuf, String> {
    let source = sources().join(source);
    let built = Command::new("gcc").args(["-O1", "-Wall", "-o"]).arg(&to).arg(source).args(options).output();
    let built = built.map_err(|error| format!("gcc cannot be started: {error}"))?;
    if built.status.success() { Ok(to) } else { Err(String::from_utf8_lossy(&built.stderr).into_owned()) }
}

fn library(answer: u32, to: PathBuf) -> Result<PathBuf, String> {
    compile("library.c", &["-shared", "-fPIC", &format!("-DANSWER={answer}")], to)
}

/// It says that all is well, and ends so.
fn ends_well(at: &Host) -> Verdict {
    go(at)?;
    wait_for_line(at, &["OK"])?;
    let code = ferry(at, &["wait", NAME])?;
    if code.trim() == "0" { Ok(()) } else { Err(format!("the program ended with {code}")) }
}

fn plan(from: &Host, to: &str) -> Result<(i32, Value), String> {
    let output = try_ferry(from, &["--json", "plan", NAME, "--to", to])?;
    let plan = serde_json::from_str(&output.stdout);
    Ok((output.code, plan.map_err(|error| format!("{error}: {}{}", output.stdout, output.stderr))?))
}

fn item<'a>(plan: &'a Value, name: &str) -> Result<&'a Value, String> {
    let items = plan["items"].as_array().into_iter().flatten();
    let mut found = items.filter(|item| item["resource"]["name"] == name);
    found.next().ok_or_else(|| format!("the plan does not name {name}: {plan}"))
}

fn libraries() -> Verdict {
    let place = scratch()?;
    let at = |name: &str| place.path().join(name);
    let program = compile("user.c", &["-pthread", "-ldl"], at("user"))?;
    let (ours, theirs) = (library(1, at("ours.so"))?, library(7, at("theirs.so"))?);
    let (late, other) = (library(2, at("late.so"))?, library(9, at("other.so"))?);
    let (early, plugin) = ("/usr/local/lib/libearly.so", "/opt/plugins/late.so");
    let alpha = host("alpha").install(&program, "/opt/user").install(&ours, early).install(&late, plugin);
    // The same names, other content; and no program.
    let beta = host("beta").install(&theirs, early).install(&other, plugin);
    let fleet = start(vec![alpha, beta])?;
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    run_until_ready(alpha, &["--with", "/opt/plugins"], &["/opt/user", plugin])?;
    let (code, plan) = plan(alpha, "beta")?;
    if code != 0 {
        return Err(format!("the plan: {plan}"));
    }
    for (name, action) in [(early, "CP"), ("/opt/plugins", "MV"), ("/opt/user", "CP")] {
        let found = item(&plan, name)?;
        if found["action"] != action {
            return Err(format!("{name} is not {action}: {found}"));
        }
    }
    carry(alpha, beta)?;
    ends_well(beta)?;
    clear(fleet)
}

fn named_directory() -> Verdict {
    let script = sources().join("writer.py");
    let spec = |name: &str| host(name).install(&script, "/srv/writer.py");
    let fleet = start(vec![spec("alpha"), spec("beta")])?;
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    let made =
        "mkdir -p /data/deep && echo kept > /data/deep/kept && chown -R 1000:1000 /data && chmod 750 /data";
    alpha.sh(made).map_err(words)?;
    let command = ["/usr/bin/python3", "/srv/writer.py", "/data/deep/log", "/var/tmp/own"];
    run_until_ready(alpha, &["--with", "/data"], &command)?;
    carry(alpha, beta)?;
    let look = ["exec", NAME, "--", "/bin/sh", "-c", "stat -c '%u %a' /data; cat /data/deep/kept"];
    let seen = ferry(beta, &look)?;
    if seen != "1000 750\nkept\n" {
        return Err(format!("the named directory arrived as {seen:?}"));
    }
    ends_well(beta)?;
    clear(fleet)
}

fn shared() -> Verdict {
    let (place, script) = (scratch()?, sources().join("writer.py"));
    std::fs::write(place.path().join(".ferry-shared"), "volume-1\n").map_err(words)?;
    let spec = |name: &str| {
        let mut spec = host(name).install(&script, "/srv/writer.py");
        spec.shared = Some(ferry_lab::Shared { from: place.path().to_owned(), at: "/shared".into() });
        spec
    };
    let fleet = start(vec![spec("alpha"), spec("beta")])?;
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    let command = ["/usr/bin/python3", "/srv/writer.py", "/shared/log"];
    run_until_ready(alpha, &["--with", "/shared"], &command)?;
    let inode =
        || std::fs::metadata(place.path().join("log")).map(|meta| std::os::unix::fs::MetadataExt::ino(&meta));
    let before = inode().map_err(words)?;
    let (code, plan) = plan(alpha, "beta")?;
    for name in ["/shared", "/shared/log"] {
        let found = item(&plan, name)?;
        if code != 0 || found["action"] != "RB" || found["bytes"] != 0 {
            return Err(format!("{name} is not bound again ({code}): {found} {}", plan["blockers"]));
        }
    }
    carry(alpha, beta)?;
    let copies = beta.sh("find /var/lib/ferry/workloads/*/upper -name log | wc -l").map_err(words)?;
    if copies.trim() != "0" {
        return Err("what is shared was copied".into());
    }
    ends_well(beta)?;
    if inode().map_err(words)? != before {
        return Err("the shared file is another one now".into());
    }
    clear(fleet)
}

/// A fleet of which beta says of itself what is written to [`FACTS`], and gamma's kernel lacks a feature; with a workload on alpha.
fn odd_fleet() -> Result<Fleet, String> {
    let place = scratch()?;
    let facts = place.path().join("facts.json");
    std::fs::write(&facts, "{}").map_err(words)?;
    let beta = host("beta").install(&facts, FACTS).env("FERRY_FACTS", FACTS);
    let gamma = host("gamma").env("FERRY_FEATURES_WITHOUT", "ptrace-seize");
    let fleet = start(vec![host("alpha"), beta, gamma])?;
    ferry(&fleet.nodes[0], &["run", "--name", NAME, "--", "/bin/sleep", "1000"])?;
    Ok(fleet)
}

/// Writes to page after page, faster than two rounds can tell.
const WRITES: &str = r#"
$| = 1;
my ($memory, $n) = ("x" x (16 << 20), 0);
print "READY\n";
until (-e "/tmp/go") {
    substr($memory, ($n++ * 4096) % length $memory, 1) = chr(65 + $n % 26) for 1 .. 200;
    select(undef, undef, undef, 0.002);
}
print "OK\n";
"#;

fn says(at: &Host, words: &[&str], code: i32, told: &str) -> Verdict {
    let said = try_ferry(at, words)?;
    let text = format!("{}{}", said.stdout, said.stderr);
    let right = said.code == code && text.contains(told);
    if right { Ok(()) } else { Err(format!("{words:?} ended with {}, not {told:?}: {text}", said.code)) }
}

/// A source whose kernel tells nothing of what is written has no rounds; unless it is told otherwise, it does not stop for all memory.
fn nothing_tracks() -> Verdict {
    let alpha = host("alpha").env("FERRY_FEATURES_WITHOUT", "userfaultfd-wp-async");
    let fleet = start(vec![alpha, host("beta")])?;
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    run_until_ready(alpha, &[], &["/usr/bin/perl", "-e", WRITES])?;
    says(alpha, &["move", NAME, "--to", "beta", "--method", "pre-copy"], 3, "userfaultfd-wp-async")?;
    let line = ["--json", "move", NAME, "--to", "beta"];
    says(alpha, &[&line[..], &["--method", "auto"]].concat(), 0, "post-copy, at most")?;
    ends_well(beta)?;
    clear(fleet)
}

/// Of a target that cannot wait for pages nothing is asked that needs it: by name it is refused, and what does not converge is stopped.
fn nothing_follows() -> Verdict {
    let beta = host("beta").env("FERRY_FEATURES_WITHOUT", "userfaultfd-missing");
    let fleet = start(vec![host("alpha"), beta])?;
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    run_until_ready(alpha, &[], &["/usr/bin/perl", "-e", WRITES])?;
    let says = |words: &[&str], code: i32, told: &str| says(alpha, words, code, told);
    let lacks = "lacks userfaultfd-missing";
    says(&["move", NAME, "--to", "beta", "--method", "post-copy"], 3, lacks)?;
    let named = format!("the rest travels while it stands still: beta {lacks}");
    says(&["plan", NAME, "--to", "beta", "--method", "pre-copy"], 0, &named)?;
    let never = "--method pre-copy --downtime-max 1us --rounds-max 2 --on-no-convergence switch";
    let never: Vec<&str> = never.split(' ').collect();
    let instead = "post-copy is not possible here, so the rest travels while it stands still";
    says(&[&["--json", "move", NAME, "--to", "beta"], &never[..]].concat(), 0, instead)?;
    ends_well(beta)?;
    clear(fleet)
}

/// Plan and move are refused with all of `named` in the reason; the workload runs on, and the target was not touched.
fn refused(from: &Host, to: &Host, named: &[&str]) -> Verdict {
    for verb in ["plan", "move"] {
        let said = try_ferry(from, &[verb, NAME, "--to", to.name()])?;
        let text = format!("{}{}", said.stdout, said.stderr);
        if said.code != 3 || !named.iter().all(|name| text.contains(name)) {
            return Err(format!("{verb} ended with {} and does not name {named:?}: {text}", said.code));
        }
    }
    let here: Value = serde_json::from_str(&ferry(from, &["--json", "ps"])?).map_err(words)?;
    if here[0]["state"] != "running" {
        return Err(format!("it does not run on: {here}"));
    }
    let touched = to.sh("find /var/lib/ferry/workloads -mindepth 1 2>/dev/null || true").map_err(words)?;
    if touched.is_empty() { Ok(()) } else { Err(format!("the target was touched: {touched}")) }
}

fn unfit() -> Verdict {
    let fleet = odd_fleet()?;
    let [alpha, beta, gamma] = [0, 1, 2].map(|number| &fleet.nodes[number]);
    let zeros = "0".repeat(64);
    let cases = [
        (json!({"cpu_flags_without": ["sse2"]}), "sse2"),
        (json!({"xsave_bytes": 512}), "512 bytes"),
        (json!({"vdso": zeros}), "vDSO"),
        (json!({"architecture": "riscv64"}), "riscv64"),
        (json!({"kernel_features_without": ["clone3-set-tid"]}), "clone3-set-tid"),
        (json!({"memory_available_bytes": 0}), "memory"),
    ];
    for (facts, named) in cases {
        beta.write(FACTS, facts.to_string().as_bytes()).map_err(words)?;
        refused(alpha, beta, &["beta", named])?;
    }
    refused(alpha, gamma, &["gamma", "ptrace-seize"])?;
    // Without what stands in the way it moves.
    beta.write(FACTS, b"{}").map_err(words)?;
    carry(alpha, beta)?;
    ferry(beta, &["kill", NAME])?;
    clear(fleet)
}

fn no_room() -> Verdict {
    let mut beta = host("beta");
    beta.state_bytes_max = Some(16 << 20);
    let fleet = start(vec![host("alpha"), beta])?;
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    let command = "head -c 40000000 /dev/urandom > /srv/big; echo READY; exec sleep 1000";
    run_until_ready(alpha, &[], &["/bin/sh", "-c", command])?;
    refused(alpha, beta, &["beta", "files", "room"])?;
    clear(fleet)
}
