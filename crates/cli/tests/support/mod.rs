//! What the tests of whole moves share: the program under test, compiled C programs, a fleet of two, moves with every precaution.
#![allow(dead_code)]

use ferry_lab::{FERRY, Fleet, Host, HostSpec, Output};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ferry");
/// Name of the workload.
pub const NAME: &str = "object";
/// How long a program may take for anything.
pub const STEP_MAX: Duration = Duration::from_secs(40);
/// Where a node is told to hold what has arrived before it resumes it (`ferry_session::movement::hold`).
const HOLD: &str = "/run/ferry-hold";

/// What a scenario ends with: nothing, or what went wrong.
pub type Verdict = Result<(), String>;

/// Turns any error into words.
pub fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The folder of the self-verifying programs.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/objects")
}

/// Builds a program, unless that was done since its source or a header changed.
pub fn build(source: &Path) -> Result<PathBuf, String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("objects");
    std::fs::create_dir_all(&directory).map_err(words)?;
    let program = directory.join(source.file_stem().unwrap_or_default());
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let headers = [sources().join("object.h"), sources().join("tcp.h")];
    let newest = headers.iter().map(PathBuf::as_path).chain([source]).filter_map(changed).max();
    if changed(&program) > newest {
        return Ok(program);
    }
    // Under another name first: tests run beside each other.
    let fresh = program.with_extension(std::process::id().to_string());
    let built = Command::new("gcc")
        .args(["-O1", "-g", "-Wall", "-Wextra", "-pthread", "-o"])
        .arg(&fresh)
        .arg(source)
        .args(["-lrt", "-lutil"])
        .output()
        .map_err(|error| format!("gcc cannot be started: {error}"))?;
    if !built.status.success() {
        return Err(format!("gcc: {}", String::from_utf8_lossy(&built.stderr)));
    }
    std::fs::rename(&fresh, &program).map_err(words)?;
    Ok(program)
}

/// Two hosts, `alpha` and `beta`, with nodes that trust each other, and these files installed on both.
pub fn fleet(install: &[(&Path, &str)]) -> Result<Fleet, String> {
    let spec = |name: &str| install.iter().fold(host(name), |spec, (from, to)| spec.install(*from, *to));
    start(vec![spec("alpha"), spec("beta")])
}

/// A host whose node holds what arrives, when [`carry`] asks for it.
pub fn host(name: &str) -> HostSpec {
    HostSpec::new(name).env("FERRY_HOLD_RESUME", HOLD)
}

/// Hosts with nodes that trust each other.
pub fn start(hosts: Vec<HostSpec>) -> Result<Fleet, String> {
    let fleet = Fleet::start(Path::new(PROGRAM), hosts).map_err(words)?;
    for host in &fleet.nodes {
        host.ok(&["/bin/mkdir", "-p", HOLD]).map_err(words)?;
    }
    Ok(fleet)
}

/// As [`fleet`], with the files on `alpha` alone: what the workload needs of them has to travel.
pub fn uneven_fleet(install: &[(&Path, &str)]) -> Result<Fleet, String> {
    let alpha = install.iter().fold(host("alpha"), |spec, (from, to)| spec.install(*from, *to));
    start(vec![alpha, host("beta")])
}

/// Runs `ferry` on a host; its output, if it succeeded.
pub fn ferry(host: &Host, args: &[&str]) -> Result<String, String> {
    host.ok(&[&[FERRY], args].concat()).map_err(|error| format!("{error}{}", shim_logs(host)))
}

/// Runs `ferry` on a host, whatever comes of it.
pub fn try_ferry(host: &Host, args: &[&str]) -> Result<Output, String> {
    host.run(&[&[FERRY], args].concat()).map_err(words)
}

/// Starts a workload and waits until it says `READY`.
pub fn run_until_ready(host: &Host, args: &[&str], command: &[&str]) -> Verdict {
    ferry(host, &[&["run", "--name", NAME], args, &["--"], command].concat())?;
    wait_for_line(host, &["READY"]).map(drop)
}

/// Waits for one of several lines in the workload's log, wherever in it; the whole log then.
pub fn wait_for_line(host: &Host, beginnings: &[&str]) -> Result<String, String> {
    let deadline = Instant::now() + STEP_MAX;
    loop {
        let log = try_ferry(host, &["logs", NAME])?;
        let lines = log.stdout.lines();
        let told = |line: &str| beginnings.iter().any(|one| line.starts_with(one));
        if lines.clone().any(told) {
            return Ok(log.stdout);
        }
        let wrong = lines.clone().any(|line| line.starts_with("SET-UP") || line.starts_with("WRONG"));
        if wrong || Instant::now() > deadline {
            return Err(format!(
                "waited for {beginnings:?} on {}: {}{}{}",
                host.name(),
                log.stdout,
                log.stderr,
                shim_logs(host)
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A whole move. Before the workload is resumed the source's network is cut and nothing of its root can be reached; only when it has run
/// at the target alone for a while the source is there again, hears of it, and the move ends.
pub fn carry(from: &Host, to: &Host) -> Verdict {
    carry_by("stop-and-copy", from, to)
}

/// As [`carry`], with state travelling as `method` says: its name, and options behind it.
pub fn carry_by(method: &str, from: &Host, to: &Host) -> Verdict {
    let hold = to.outside(HOLD).ok_or("the target is gone")?;
    let (armed, held) = (hold.join("armed"), hold.join("held"));
    std::fs::write(&armed, "").map_err(words)?;
    let mut command = vec![FERRY, "move", NAME, "--to", to.name(), "--method"];
    command.extend(method.split(' '));
    let moving = from.spawn(&command).map_err(words)?;
    let deadline = Instant::now() + STEP_MAX;
    while !held.exists() {
        if moving.has_ended() || Instant::now() > deadline {
            let _ = std::fs::remove_file(&armed);
            return Err(format!(
                "the move did not come to its resume: {}{}{}{}{}",
                moving.stdout(),
                moving.stderr(),
                try_ferry(from, &["logs", NAME])?.stdout,
                shim_logs(from),
                shim_logs(to)
            ));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    from.cut_link().map_err(words)?;
    let alone = run_alone(from, to, &armed);
    from.heal_link().map_err(words)?;
    alone?;
    let ended = moving.wait(STEP_MAX).map_err(words)?;
    match ended.code {
        0 => Ok(()),
        code => Err(format!("the move ended with {code}: {}{}", ended.stdout, ended.stderr)),
    }
}

fn run_alone(from: &Host, to: &Host, armed: &Path) -> Verdict {
    let reached = to.reaches(from);
    std::fs::remove_file(armed).map_err(words)?;
    if !reached.is_empty() {
        return Err(format!("the target reaches the source's files: {}", reached.join("; ")));
    }
    // The target's node lists it as soon as it has been resumed.
    let deadline = Instant::now() + STEP_MAX;
    let runs = || -> Result<bool, String> {
        let listed: serde_json::Value =
            serde_json::from_str(&ferry(to, &["--json", "ps"])?).map_err(words)?;
        let here = |each: &serde_json::Value| each["name"] == NAME && each["state"] != "gone";
        Ok(listed.as_array().into_iter().flatten().any(here))
    };
    while !runs()? {
        if Instant::now() > deadline {
            return Err(format!("it does not run at the target{}", shim_logs(to)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Long enough to fail, if anything of the source is missing.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

/// Makes the file for which self-verifying programs wait, inside of the capsule. The program may verify itself and end before
/// the end of `touch` is reported, and takes the capsule with it: what it has said is what counts.
pub fn go(host: &Host) -> Verdict {
    let done = try_ferry(host, &["exec", NAME, "--", "/bin/touch", "/tmp/go"])?;
    let ended = done.stderr.contains("its capsule is gone");
    if done.code == 0 || ended { Ok(()) } else { Err(format!("exec: {}{}", done.stdout, done.stderr)) }
}

/// What the shims of a host have logged: the place to look when a workload has vanished.
pub fn shim_logs(host: &Host) -> String {
    let logs =
        host.sh("tail -n 20 /var/lib/ferry/workloads/*/shim.log 2>/dev/null || true").unwrap_or_default();
    if logs.is_empty() { logs } else { format!("\n{}: {logs}", host.name()) }
}

/// Lets the program on the first host of the fleet verify itself, and ends the fleet when it found nothing wrong.
pub fn verify(fleet: Fleet) -> Verdict {
    let host = &fleet.nodes[0];
    go(host)?;
    wait_for_line(host, &["OK"])?;
    let code = ferry(host, &["wait", NAME])?;
    if code.trim() != "0" {
        return Err(format!("the program ended with {code}"));
    }
    clear(fleet)
}

/// Ends the fleet and checks that nothing is left of it.
pub fn clear(fleet: Fleet) -> Verdict {
    let left = fleet.lab.clear();
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {}", left.join("; "))) }
}
