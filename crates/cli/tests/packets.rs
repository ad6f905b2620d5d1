//! What a connection's peer, on a host of its own, notices of a move: nothing that was sent in the pause is sent again, nothing that
//! was not sent yet is lost, and what a program had closed before is told to its end.

mod support;

use ferry_lab::{FERRY, Fleet, Host, HostSpec, Process, Shared};
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::Path;
use std::time::{Duration, Instant};
use support::{NAME, PROGRAM, STEP_MAX, Verdict, ferry, run_until_ready, try_ferry, wait_for_line, words};

/// The workload's own address, which moves with it.
const ADDRESS: &str = "10.77.0.90";
const PORT: &str = "7000";
/// Where program and switches are on every host.
const SCRIPT: &str = "/srv/packets.py";
const SWITCHES: &str = "/faults";
/// Nothing that TCP sends again is sent again before this time.
const SENT_AGAIN_AFTER_S: u64 = 20;

fn main() -> std::process::ExitCode {
    let trial = |name: &str, test: fn() -> Verdict| Trial::test(name, move || test().map_err(Failed::from));
    let trials = vec![
        trial("what_is_sent_in_the_pause_is_answered_without_being_sent_again", asked_in_the_pause),
        trial("what_was_not_sent_outlives_the_targets_shim", shim_killed),
        trial("what_a_closed_connection_has_to_send_is_waited_for_or_stands_in_the_way", closed),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// `alpha` and `beta` with a node each and the server on the first, and `gamma` with the clients.
struct Stage {
    fleet: Fleet,
    gamma: Host,
    switches: tempfile::TempDir,
}

impl Stage {
    fn set() -> Result<Self, String> {
        ferry_lab::sweep::sweep_all();
        let prefix = ferry_lab::sweep::own_prefix();
        let switches = tempfile::Builder::new().prefix(&prefix).tempdir().map_err(words)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs/packets.py");
        let host = |name: &str| {
            let mut spec = HostSpec::new(name).install(&script, SCRIPT).env("FERRY_FAULTS", SWITCHES);
            spec.shared = Some(Shared { from: switches.path().to_owned(), at: SWITCHES.into() });
            spec
        };
        let mut fleet = Fleet::start(Path::new(PROGRAM), vec![host("alpha"), host("beta")]).map_err(words)?;
        let gamma = fleet.lab.add(HostSpec::new("gamma").install(&script, SCRIPT)).map_err(words)?;
        let server = ["/usr/bin/python3", SCRIPT, "serve", PORT];
        run_until_ready(&fleet.nodes[0], &["--net", &format!("{ADDRESS}/24")], &server)?;
        Ok(Self { fleet, gamma, switches })
    }

    fn alpha(&self) -> &Host {
        &self.fleet.nodes[0]
    }

    fn beta(&self) -> &Host {
        &self.fleet.nodes[1]
    }

    /// Starts a client and waits until it is connected; the words after `READY`.
    fn client(&self, args: &[&str]) -> Result<(Process, String), String> {
        let command = [&["/usr/bin/python3", SCRIPT, args[0], ADDRESS, PORT], &args[1..]].concat();
        let client = self.gamma.spawn(&command).map_err(words)?;
        let said = heard(&client, "READY")?;
        Ok((client, said))
    }

    fn switch(&self, name: &str) -> Result<(), String> {
        std::fs::write(self.switches.path().join(name), "").map_err(words)
    }

    /// Begins a move that stands still when `step` is on the disk of `host`.
    fn move_until(&self, [from, to]: [&Host; 2], host: &str, step: &str) -> Verdict {
        for old in ["at", "go"] {
            let _ = std::fs::remove_file(self.switches.path().join(format!("{host}.{old}")));
        }
        std::fs::write(self.switches.path().join(format!("{host}.stop")), step).map_err(words)?;
        ferry(from, &["move", NAME, "--to", to.name(), "--detach"])?;
        let at = self.switches.path().join(format!("{host}.at"));
        until(&format!("{host} stands at {step}"), || Ok(at.exists())).map_err(|why| self.explain(&why))
    }

    /// What a failure is to be understood by.
    fn explain(&self, why: &str) -> String {
        let moves = |host| ferry(host, &["--json", "moves", "ls"]).unwrap_or_default();
        let logs = [self.alpha(), self.beta()].map(|host| moves(host) + &support::shim_logs(host));
        format!("{why}: {}", logs.join("\n"))
    }

    fn go_on(&self, host: &str) -> Verdict {
        self.switch(&format!("{host}.go"))
    }

    fn clear(self) -> Verdict {
        support::clear(self.fleet)
    }
}

fn until(what: &str, done: impl Fn() -> Result<bool, String>) -> Verdict {
    let end = Instant::now() + STEP_MAX;
    while !done()? {
        if Instant::now() > end {
            return Err(format!("waited too long: {what}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Waits for a line of a client that begins so; what follows.
fn heard(client: &Process, beginning: &str) -> Result<String, String> {
    let line = || {
        let said = client.stdout();
        let found = said.lines().find_map(|line| line.strip_prefix(beginning))?;
        said.ends_with('\n').then(|| found.trim().to_owned())
    };
    let told = until(beginning, || {
        if client.stdout().contains("WRONG") || client.has_ended() && line().is_none() {
            return Err(format!("{}{}", client.stdout(), client.stderr()));
        }
        Ok(line().is_some())
    });
    told.map_err(|why| format!("{why}: {}{}", client.stdout(), client.stderr()))?;
    Ok(line().unwrap_or_default())
}

/// Has the client ask, while the workload stands still.
fn ask(stage: &Stage, client: &Process, number: u32) -> Verdict {
    stage.gamma.sh(&format!("touch /tmp/ask{number}")).map_err(words)?;
    heard(client, &format!("SENT {number}")).map(drop)
}

/// The answer has come, sooner than anything could be sent again.
fn answered(client: &Process, number: u32) -> Verdict {
    let said = heard(client, &format!("ANSWER {number} "))?;
    eprintln!("answer {number}: {said}");
    if said.ends_with("sent again: 0") { Ok(()) } else { Err(format!("answer {number} came after {said}")) }
}

fn asked_in_the_pause() -> Verdict {
    let stage = Stage::set()?;
    // However long this busy machine takes: an answer that comes came by the packet that was sent in the pause.
    let route = format!(
        "set -- $(ip -4 route show 10.77.0.0/24); ip route replace \"$@\" rto_min {SENT_AGAIN_AFTER_S}s"
    );
    stage.gamma.sh(&route).map_err(words)?;
    let (client, _) = stage.client(&["ask"])?;

    // A move that fails.
    stage.move_until([stage.alpha(), stage.beta()], "alpha", "FROZEN")?;
    ask(&stage, &client, 1)?;
    // Nothing is left there that could become the workload.
    kill_shim(stage.beta())?;
    stage.go_on("alpha")?;
    answered(&client, 1)?;
    until("the failed move is over", || {
        let listed: serde_json::Value =
            serde_json::from_str(&ferry(stage.alpha(), &["--json", "ps"])?).map_err(words)?;
        Ok(listed[0]["state"] == "running")
    })?;

    // Asked before the move is decided.
    stage.move_until([stage.alpha(), stage.beta()], "beta", "PREPARED")?;
    ask(&stage, &client, 2)?;
    stage.go_on("beta")?;
    answered(&client, 2)?;
    until("the move is over", || Ok(!ferry(stage.alpha(), &["ps"])?.contains(NAME)))?;

    // Asked between the commit and the start, on the way back.
    stage.move_until([stage.beta(), stage.alpha()], "alpha", "STARTING")?;
    ask(&stage, &client, 3)?;
    stage.go_on("alpha")?;
    answered(&client, 3)?;
    until("the move back is over", || Ok(!ferry(stage.beta(), &["ps"])?.contains(NAME)))?;
    stage.clear()
}

/// Kills the one shim of a host, by its pid.
fn kill_shim(host: &Host) -> Verdict {
    let each = "for each in /proc/[0-9]*; do if grep -qs '^ferry-shim$' $each/comm; then echo ${each#/proc/}; fi; done";
    let found = host.sh(each).map_err(words)?;
    let pids: Vec<&str> = found.split_whitespace().collect();
    let [pid] = pids[..] else { return Err(format!("shims on {}: {pids:?}", host.name())) };
    host.sh(&format!("kill -9 {pid}")).map(drop).map_err(words)
}

fn shim_killed() -> Verdict {
    let stage = Stage::set()?;
    let (client, _) = stage.client(&["read", "pour 2000000"])?;
    let poured = poured(stage.alpha(), "POURED")?;
    // Whole, this host's, and about to be resumed.
    stage.move_until([stage.alpha(), stage.beta()], "beta", "STARTING")?;
    kill_shim(stage.beta())?;
    stage.go_on("beta")?;
    let runs = || Ok(ferry(stage.beta(), &["ps"])?.contains(NAME));
    until("it runs there", runs).map_err(|why| stage.explain(&why))?;
    stage.gamma.sh("touch /tmp/read").map_err(words)?;
    let got = heard(&client, "GOT")?;
    if got != format!("{poured} right") {
        return Err(format!("{poured} bytes were written, and {got} came"));
    }
    stage.clear()
}

/// How many bytes the server says that it has put into a connection.
fn poured(host: &Host, word: &str) -> Result<String, String> {
    let log = wait_for_line(host, &[word])?;
    let line = log.lines().rev().find_map(|line| line.strip_prefix(word));
    Ok(line.unwrap_or_default().trim().to_owned())
}

fn closed() -> Verdict {
    let stage = Stage::set()?;
    let (client, port) = stage.client(&["read", "bye 100000"])?;
    let all = poured(stage.alpha(), "CLOSED")?;
    if all != "100000" {
        return Err(format!("only {all} bytes fit into the queue"));
    }
    // Its peer reads nothing: named, and not moved.
    let refused = try_ferry(stage.alpha(), &["move", NAME, "--to", "beta"])?;
    let said = refused.stderr.clone() + &refused.stdout;
    if refused.code == 0 || !said.contains(&format!(":{port}")) || !said.contains("--end-connections") {
        return Err(format!("not refused by name: {} {said}", refused.code));
    }
    if !ferry(stage.alpha(), &["ps"])?.contains("running") {
        return Err("it does not run on".into());
    }
    // Its peer begins to read while the move waits for it.
    let moving = stage.alpha().spawn(&[FERRY, "move", NAME, "--to", "beta"]).map_err(words)?;
    stage.gamma.sh("touch /tmp/read").map_err(words)?;
    let ended = moving.wait(STEP_MAX).map_err(words)?;
    let got = heard(&client, "GOT")?;
    if ended.code != 0 || got != format!("{all} right") {
        return Err(format!("{} {}{}, the peer got {got}", ended.code, ended.stdout, ended.stderr));
    }
    stage.clear()
}
