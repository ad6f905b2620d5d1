//! One self-verifying program for each kernel object (`tests/objects`): it sets the object up, says that it is ready, is moved,
//! and verifies itself.
//!
//! Each program is a test in each way that it can travel: `unmoved` (it must be right without Ferry), `moved` (to another host and
//! back, all of it in the pause), `live` (the same by pre-copy), `postcopy` (its memory follows), `restored` (checkpoint, end, restore). Those in `refused/` hold what this version cannot move: `plan` must say so, with
//! pid and descriptor. A new file is a new test.
//!
//! `tests/objects/missing` names the trials that this version does not pass, each with its reason. They are reported as ignored,
//! never as passed, and run by `--ignored`; docs/status.md lists them as missing.

mod support;

use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::{
    NAME, STEP_MAX, Verdict, build, carry_by, clear, ferry, fleet, go, run_until_ready, try_ferry, verify,
    wait_for_line, words,
};

/// A network of its own: without one, sockets are the host's, and a move would need references to them.
const NET: &[&str] = &["--net", "10.77.0.90/24"];
/// Where a program is on its host.
const PLACE: &str = "/usr/local/bin/object";

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for source in programs(&support::sources()) {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (way, scenario) in WAYS {
            let source = source.clone();
            trials.push(trial(format!("{way}::{name}"), move || judged(scenario(&source))));
        }
    }
    for source in programs(&support::sources().join("refused")) {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        trials.push(trial(format!("refused::{name}"), move || judged(refused(&source))));
    }
    let threads = support::sources().join("threads.c");
    // Through an image and back, by programs of which each holds something that another way of travelling might lose.
    for name in ["files", "memory", "tcp4", "tree", "unix_sockets"] {
        let source = support::sources().join(name).with_extension("c");
        trials.push(trial(format!("warm::{name}"), move || judged(warm(&source))));
    }
    trials.push(trial("uneven::threads".to_owned(), move || judged(uneven(&threads))));
    for method in ["pre-copy", "post-copy", "hybrid", "auto"] {
        let writers = support::sources().join("writers.c");
        trials.push(trial(format!("uneven::writers_by_{method}"), move || {
            judged(uneven_live(&writers, method))
        }));
    }
    assert!(trials.len() > 60, "the programs in tests/objects were not found");
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    let missing = include_str!("../../../tests/objects/missing").lines();
    let missing = missing.filter_map(|line| line.split_whitespace().next()).any(|one| one == name);
    Trial::test(name, run).with_ignored_flag(missing)
}

type Scenario = fn(&Path) -> Verdict;
const WAYS: [(&str, Scenario); 5] =
    [("unmoved", unmoved), ("moved", moved), ("live", live), ("postcopy", postcopy), ("restored", restored)];

fn judged(verdict: Verdict) -> Result<(), Failed> {
    verdict.map_err(Failed::from)
}

fn programs(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "c")).collect();
    found.sort();
    found
}

/// A program that is wrong by itself would blame the move for it.
fn unmoved(source: &Path) -> Verdict {
    let program = build(source)?;
    let mut lab = ferry_lab::Lab::new(Path::new(support::PROGRAM)).map_err(words)?;
    let host = lab.add(ferry_lab::HostSpec::new("alpha").install(program, PLACE)).map_err(words)?;
    // Under a reaper of its own, as in a capsule: an orphan's parent is then process 1 in both.
    let process = host.spawn(&[
        "/usr/bin/unshare",
        "--pid",
        "--ipc",
        "--mount",
        "--uts",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "/bin/sh",
        "-c",
        "object & wait $!",
    ]);
    let process = process.map_err(words)?;
    let deadline = Instant::now() + STEP_MAX;
    while !process.stdout().contains("READY") {
        if process.has_ended() || Instant::now() > deadline {
            return Err(format!("never ready: {}{}", process.stdout(), process.stderr()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    host.write("/tmp/go", b"").map_err(words)?;
    let output = process.wait(STEP_MAX).map_err(words)?;
    if output.code != 0 {
        return Err(format!("ended with {}: {}{}", output.code, output.stdout, output.stderr));
    }
    Ok(())
}

/// The program is not on the target: it goes along, and the workload sees it at its old path.
fn uneven(source: &Path) -> Verdict {
    let program = build(source)?;
    there_and_back(support::uneven_fleet(&[(&program, PLACE)])?)
}

/// As [`uneven`], while it runs: what is mapped from the file it brings is there in the pause only.
fn uneven_live(source: &Path, method: &str) -> Verdict {
    let program = build(source)?;
    there_and_back_by(method, support::uneven_fleet(&[(&program, PLACE)])?)
}

/// To the other host and back: what went wrong by the first move is seen, and what only a second one breaks as well.
fn moved(source: &Path) -> Verdict {
    let program = build(source)?;
    there_and_back(fleet(&[(&program, PLACE)])?)
}

/// As [`moved`], with memory on its way while the program runs.
fn live(source: &Path) -> Verdict {
    let program = build(source)?;
    there_and_back_by("pre-copy", fleet(&[(&program, PLACE)])?)
}

/// As [`moved`], with its memory following after the resume.
fn postcopy(source: &Path) -> Verdict {
    let program = build(source)?;
    there_and_back_by("post-copy", fleet(&[(&program, PLACE)])?)
}

fn warm(source: &Path) -> Verdict {
    let program = build(source)?;
    there_and_back_by("warm", support::uneven_fleet(&[(&program, PLACE)])?)
}

fn there_and_back(fleet: ferry_lab::Fleet) -> Verdict {
    there_and_back_by("stop-and-copy", fleet)
}

fn there_and_back_by(method: &str, fleet: ferry_lab::Fleet) -> Verdict {
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    run_until_ready(alpha, NET, &[PLACE])?;
    carry_by(method, alpha, beta)?;
    carry_by(method, beta, alpha)?;
    verify(fleet)
}

/// Without a node and without a capsule: the original ends with the checkpoint; what goes on is the restored one.
fn restored(source: &Path) -> Verdict {
    let program = build(source)?;
    let mut lab = ferry_lab::Lab::new(Path::new(support::PROGRAM)).map_err(words)?;
    let host = lab.add(ferry_lab::HostSpec::new("alpha").install(program, PLACE)).map_err(words)?;
    // Its log is a file, so that it can be read whoever writes it.
    let line = format!("setsid {PLACE} > /root/log 2>&1 < /dev/null & echo $!");
    let pid = host.sh(&line).map_err(words)?;
    let until = |word: &str| {
        let deadline = Instant::now() + STEP_MAX;
        loop {
            let log = host.run(&["/bin/cat", "/root/log"]).map_err(words)?.stdout;
            if log.lines().any(|line| line == word) {
                return Ok(());
            }
            if Instant::now() > deadline || log.contains("WRONG") || log.contains("SET-UP") {
                return Err(format!("waited for {word}: {log}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    until("READY")?;
    ferry(&host, &["checkpoint", pid.trim(), "/var/lib/ferry/image"])?;
    if host.run(&["/bin/kill", "-0", pid.trim()]).map_err(words)?.code == 0 {
        return Err("the original is still there".to_owned());
    }
    ferry(&host, &["restore", "/var/lib/ferry/image", "--detach"])?;
    host.write("/tmp/go", b"").map_err(words)?;
    until("OK")
}

/// The program says what the plan must name; a move refuses with the same words and leaves the program as it was.
fn refused(source: &Path) -> Verdict {
    let program = build(source)?;
    let fleet = fleet(&[(&program, PLACE)])?;
    let alpha = &fleet.nodes[0];
    run_until_ready(alpha, NET, &[PLACE])?;
    let log = wait_for_line(alpha, &["REFUSE"])?;
    let line = log.lines().find(|line| line.starts_with("REFUSE")).unwrap_or_default();
    let [_, what, pid, fd] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("the program said {line:?}"));
    };
    let plan = try_ferry(alpha, &["--json", "plan", NAME, "--to", "beta"])?;
    let value: serde_json::Value = serde_json::from_str(&plan.stdout)
        .map_err(|error| format!("{error}: {}{}", plan.stdout, plan.stderr))?;
    let blockers = value["blockers"].as_array().cloned().unwrap_or_default();
    let named = blockers.iter().any(|blocker| {
        let text = blocker["what"].as_str().unwrap_or_default().to_lowercase();
        let numbers: Vec<_> = text.split(|c: char| !c.is_ascii_digit()).collect();
        text.contains(what) && numbers.contains(&pid) && (fd == "-1" || numbers.contains(&fd))
    });
    if !named {
        return Err(format!("no blocker names {what}, pid {pid}, descriptor {fd}: {blockers:?}"));
    }
    let refusal = try_ferry(alpha, &["move", NAME, "--to", "beta"])?;
    if refusal.code != 3 {
        return Err(format!("the move ended with {}: {}{}", refusal.code, refusal.stdout, refusal.stderr));
    }
    go(alpha)?;
    wait_for_line(alpha, &["OK"])?;
    clear(fleet)
}
