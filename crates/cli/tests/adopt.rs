//! Programs that run on a host before any node knows them: adopted, moved, let go of; and what is refused.

mod support;

use ferry_lab::{Host, HostSpec, Process};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::{NAME, STEP_MAX, Verdict, carry, clear, ferry, fleet, go, shim_logs, try_ferry, words};

type Scenario = (&'static str, fn() -> Verdict);

fn main() -> std::process::ExitCode {
    let scenarios: [Scenario; 7] = [
        ("there_and_back_with_threads_children_and_connections", there_and_back),
        ("a_shim_and_a_node_that_die_leave_it_as_it_was", outlives),
        ("let_go_of_it_is_where_it_was", let_go),
        ("refusals_by_name", refusals),
        ("what_it_uses_of_the_hosts_system_v_objects_stands_in_the_way", system_v),
        ("a_directory_that_is_written_to_is_named_or_stands_in_the_way", declared),
        ("a_frozen_trees_connection_is_held_back_and_goes_on", held_back),
    ];
    let trial = |(name, run): Scenario| Trial::test(name, move || run().map_err(Failed::from));
    libtest_mimic::run(&Arguments::from_args(), scenarios.into_iter().map(trial).collect()).exit_code()
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs").join(name)
}

fn until(what: &str, mut done: impl FnMut() -> Result<bool, String>) -> Verdict {
    let deadline = Instant::now() + STEP_MAX;
    while !done()? {
        if Instant::now() > deadline {
            return Err(format!("waited too long: {what}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Starts a program as a person would in the background; its pid, once it has said that it is ready.
fn start(host: &Host, command: &str) -> Result<i32, String> {
    let line = format!("setsid {command} > /root/log 2>&1 < /dev/null & echo $!");
    let pid = host.sh(&line).map_err(words)?;
    until("it is ready", || {
        // The shell that makes it may not have come that far.
        let log = host.read("/root/log").unwrap_or_default();
        if log.contains("Traceback") { Err(log) } else { Ok(log.contains("READY")) }
    })?;
    pid.trim().parse().map_err(words)
}

fn adopt(host: &Host, pid: i32) -> Verdict {
    // Where its output goes is written to; nothing else there is its own.
    let said = ferry(host, &["adopt", &pid.to_string(), "--name", NAME, "--with", "/root/log"])?;
    if said.trim() == NAME { Ok(()) } else { Err(format!("adopt said {said:?}")) }
}

fn workload(host: &Host) -> Result<serde_json::Value, String> {
    let all: serde_json::Value =
        serde_json::from_str(&ferry(host, &["--json", "ps", "--all"])?).map_err(words)?;
    Ok(all.as_array().and_then(|all| all.first().cloned()).unwrap_or_default())
}

fn cgroup(host: &Host, pid: i32) -> Result<String, String> {
    let text = host.read(&format!("/proc/{pid}/cgroup")).map_err(words)?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.map(str::to_owned).ok_or_else(|| format!("no cgroup: {text}"))
}

fn is_gone(host: &Host, pid: i32) -> Result<bool, String> {
    Ok(host.run(&["/bin/kill", "-0", &pid.to_string()]).map_err(words)?.code != 0)
}

fn expect(what: &str, holds: bool) -> Verdict {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// A Python program with threads, a subprocess and a connection to itself, in the midst of its work.
fn there_and_back() -> Verdict {
    let source = program("python.py");
    let fleet = fleet(&[(&source, "/srv/python.py")])?;
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    let pid = start(alpha, "/usr/bin/python3 /srv/python.py")?;
    adopt(alpha, pid)?;
    let shown = workload(alpha)?;
    expect(
        &format!("ps shows {shown}"),
        shown["pid"] == pid && shown["adopted"] == true && shown["state"] == "running",
    )?;
    let log = ferry(alpha, &["logs", NAME])?;
    expect(&format!("logs says {log:?}"), log.contains("where it went before: /root/log"))?;
    let show = ferry(alpha, &["show", NAME])?;
    expect(&format!("show says {show}"), show.contains("python"))?;
    carry(alpha, beta)?;
    until("nothing of it is left at the source", || is_gone(alpha, pid))?;
    expect("it is adopted no more", workload(beta)?["adopted"] == false)?;
    std::thread::sleep(Duration::from_millis(200));
    carry(beta, alpha)?;
    go(alpha)?;
    let code = ferry(alpha, &["wait", NAME])?;
    expect(&format!("it ended with {code}"), code.trim() == "0")?;
    clear(fleet)
}

/// It never notices; what comes after knows it again, and how it ends.
fn outlives() -> Verdict {
    let mut fleet = fleet(&[])?;
    let alpha = fleet.nodes[0].clone();
    let pid = start(&alpha, "/bin/sh -c 'trap \"exit 7\" TERM; echo READY; while :; do sleep 0.05; done'")?;
    adopt(&alpha, pid)?;
    let refused = try_ferry(&alpha, &["exec", NAME, "--", "/bin/true"])?;
    expect(
        &format!("exec: {}", refused.stderr),
        refused.code == 3 && refused.stderr.contains("on the host itself"),
    )?;
    let shim = alpha
        .sh("for i in /proc/[0-9]*; do [ \"$(cat $i/comm)\" = ferry-shim ] && echo ${i#/proc/}; done; true");
    let shim: i32 = shim.map_err(words)?.trim().parse().map_err(words)?;
    fleet.daemon(0).signal(Signal::KILL).map_err(words)?;
    alpha.kill(shim, Signal::KILL).map_err(words)?;
    until("the node is gone", || Ok(fleet.daemon(0).has_ended()))?;
    fleet.restart_node(0).map_err(words)?;
    until("it is known again", || Ok(workload(&alpha)?["state"] == "running"))?;
    expect("another process", workload(&alpha)?["pid"] == pid)?;
    ferry(&alpha, &["stop", NAME])?;
    until("all of it has ended", || Ok(workload(&alpha)?["state"] == "exited"))?;
    let ended = workload(&alpha)?;
    expect(&format!("{ended}"), ended["exit"]["code"] == 7)?;
    ferry(&alpha, &["rm", NAME])?;
    expect(
        "its cgroup is left",
        alpha.run(&["/usr/bin/test", "-e", "/sys/fs/cgroup/ferry"]).map_err(words)?.code != 0,
    )?;
    clear(fleet)
}

fn let_go() -> Verdict {
    let fleet = fleet(&[])?;
    let alpha = &fleet.nodes[0];
    alpha.sh("mkdir /sys/fs/cgroup/home").map_err(words)?;
    let pid = start(
        alpha,
        "/bin/sh -c 'echo 0 > /sys/fs/cgroup/home/cgroup.procs; sleep 1000 & echo READY; wait'",
    )?;
    adopt(alpha, pid)?;
    let place = cgroup(alpha, pid)?;
    expect(&format!("it is in {place}"), place.contains("/ferry/w-"))?;
    let again = try_ferry(alpha, &["adopt", &pid.to_string()])?;
    expect(&again.stderr, again.code == 3 && again.stderr.contains("already"))?;
    ferry(alpha, &["rm", NAME])?;
    expect("it is not where it was", cgroup(alpha, pid)? == "/home")?;
    let home = alpha.read("/sys/fs/cgroup/home/cgroup.procs").map_err(words)?;
    expect(&format!("of two processes: {home}"), home.lines().count() == 2)?;
    let listed: serde_json::Value =
        serde_json::from_str(&ferry(alpha, &["--json", "ps", "--all"])?).map_err(words)?;
    expect(&format!("{listed}"), listed.as_array().is_some_and(Vec::is_empty))?;
    expect(
        "its cgroup is left",
        alpha.run(&["/usr/bin/test", "-e", "/sys/fs/cgroup/ferry"]).map_err(words)?.code != 0,
    )?;
    // It may be adopted again, and killed as a whole.
    adopt(alpha, pid)?;
    ferry(alpha, &["rm", "--force", NAME])?;
    until("all of it has ended", || {
        let home = alpha.read("/sys/fs/cgroup/home/cgroup.procs").map_err(words)?;
        Ok(home.is_empty() && is_gone(alpha, pid)?)
    })?;
    alpha.sh("rmdir /sys/fs/cgroup/home").map_err(words)?;
    clear(fleet)
}

/// A data base with a journal, logs that are put aside, files that were open once. The plan names the directory with the line to type; so
/// named it moves, with everything that nobody has open. A directory that is only read is nobody's matter.
fn declared() -> Verdict {
    let source = program("keeper.py");
    let fleet = fleet(&[(&source, "/srv/keeper.py")])?;
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    alpha
        .sh("mkdir -p /var/lib/keeper /opt/reference /tmp/aside && echo never touched > /var/lib/keeper/kept && \
             echo read only > /opt/reference/text && echo in memory > /tmp/aside/kept")
        .map_err(words)?;
    let pid = start(alpha, "/usr/bin/python3 /srv/keeper.py /var/lib/keeper /opt/reference/text")?;
    adopt(alpha, pid)?;
    for verb in ["plan", "move"] {
        let said = try_ferry(alpha, &[verb, NAME, "--to", "beta"])?;
        let text = format!("{}{}", said.stdout, said.stderr);
        let named =
            ["/var/lib/keeper is written to", &format!("pid {pid}, descriptor "), "/var/lib/keeper/base"];
        let line = format!("ferry adopt {pid} --with /var/lib/keeper");
        let named = named.iter().all(|name| text.contains(name)) && text.contains(&line);
        let others =
            ["/root is written", "/opt/reference is", "/srv is"].iter().any(|other| text.contains(other));
        expect(&format!("{verb} ended with {}: {text}", said.code), said.code == 3 && named && !others)?;
    }
    let link = "ln -s /var/lib/keeper /root/link";
    alpha.sh(link).map_err(words)?;
    let refused = try_ferry(alpha, &["plan", NAME, "--to", "beta", "--with", "/root/link"])?;
    expect(&refused.stderr, refused.code == 2 && refused.stderr.contains("--with /var/lib/keeper"))?;

    // What a plan is told it does not note; what a move is told, it does.
    let with = ["--with", "/var/lib/keeper", "--with", "/tmp/aside"];
    let plan = try_ferry(alpha, &[&["plan", NAME, "--to", "beta"], &with[..]].concat())?;
    expect(&format!("plan: {}{}", plan.stdout, plan.stderr), plan.code == 0)?;
    expect("the plan was noted", try_ferry(alpha, &["plan", NAME, "--to", "beta"])?.code == 3)?;
    ferry(alpha, &["rm", NAME])?;
    let again = ["adopt", &pid.to_string(), "--name", NAME, "--with", "/root/log", "--with", "/tmp/aside"];
    ferry(alpha, &again)?;
    expect("half of it is enough", try_ferry(alpha, &["plan", NAME, "--to", "beta"])?.code == 3)?;
    ferry(alpha, &["move", NAME, "--to", "beta", "--with", "/var/lib/keeper"])?;
    until("nothing of it is left at the source", || is_gone(alpha, pid))?;
    carry(beta, alpha)?;
    let seen = ferry(alpha, &["exec", NAME, "--", "/bin/cat", "/tmp/aside/kept"])?;
    expect(&format!("what was named of /tmp arrived as {seen:?}"), seen == "in memory\n")?;
    go(alpha)?;
    let code = ferry(alpha, &["wait", NAME])?;
    let log = alpha.sh("cat /var/lib/ferry/workloads/*/upper/root/log").map_err(words)?;
    expect(&format!("it ended with {code}: {log}"), code.trim() == "0" && log.contains("OK"))?;
    clear(fleet)
}

fn system_v() -> Verdict {
    const PROGRAM: &str = "import ctypes, struct, time\n\
        c = ctypes.CDLL(None)\n\
        s, q, m = c.semget(0, 1, 0o1600), c.msgget(0, 0o1600), c.shmget(0, 4096, 0o1600)\n\
        assert min(s, q, m) >= 0\n\
        assert c.semop(s, struct.pack('HHH', 0, 1, 0), 1) == 0\n\
        assert c.msgsnd(q, struct.pack('q', 1) + b'text', 4, 0) == 0\n\
        print('READY', flush=True)\n\
        time.sleep(1000)\n";
    let fleet = fleet(&[])?;
    let alpha = &fleet.nodes[0];
    alpha.write("/srv/user.py", PROGRAM.as_bytes()).map_err(words)?;
    let pid = start(alpha, "/usr/bin/python3 /srv/user.py")?;
    adopt(alpha, pid)?;
    let plan = try_ferry(alpha, &["plan", NAME, "--to", "beta"])?;
    for what in ["segment", "semaphores", "queue"] {
        let line = format!("Process {pid} uses the System V {what} ");
        expect(
            &format!("{what}: {}{}", plan.stdout, plan.stderr),
            plan.code == 3 && plan.stdout.contains(&line),
        )?;
    }
    ferry(alpha, &["rm", "--force", NAME])?;
    clear(fleet)
}

fn refusals() -> Verdict {
    let fleet = fleet(&[])?;
    let alpha = &fleet.nodes[0];
    let said = |pid: &str, code: i32, words: &str| {
        let output = try_ferry(alpha, &["adopt", pid])?;
        let right = output.code == code && output.stderr.contains(words);
        expect(&format!("adopt {pid}: {} {}", output.code, output.stderr), right)
    };
    said("1", 3, "init")?;
    said("999999", 2, "no process 999999")?;
    let node =
        alpha.sh("for i in /proc/[0-9]*; do [ \"$(cat $i/comm)\" = ferry ] && echo ${i#/proc/}; done; true");
    said(node.map_err(words)?.lines().next().unwrap_or_default(), 3, "Ferry itself")?;
    ferry(alpha, &["run", "--name", "other", "--", "/bin/sleep", "1000"])?;
    let other = workload(alpha)?["pid"].to_string();
    said(&other, 3, "already")?;
    ferry(alpha, &["rm", "--force", "other"])?;
    let own = alpha.run(&["/bin/sh", "-c", "/usr/local/bin/ferry adopt $$; exit $?"]).map_err(words)?;
    expect(&own.stderr, own.code == 3 && own.stderr.contains("This very command"))?;
    let left = ferry(alpha, &["--json", "ps", "--all"])?;
    expect(&format!("something was registered: {left}"), left.trim() == "[]")?;
    clear(fleet)
}

/// The connection of a client on a third host is to the host's own address: it stands in the way until the user gives it up. A move that
/// is given up leaves it as it was: while the tree was frozen no reset came, and it goes on.
fn held_back() -> Verdict {
    let source = program("echo.py");
    let mut fleet = fleet(&[(&source, "/srv/echo.py")])?;
    let client = HostSpec::new("gamma").install(program("ask.py"), "/srv/ask.py");
    let gamma = fleet.lab.add(client).map_err(words)?;
    let [alpha, beta] = [&fleet.nodes[0], &fleet.nodes[1]];
    let pid = start(alpha, "/usr/bin/python3 /srv/echo.py")?;
    adopt(alpha, pid)?;
    let asking =
        gamma.spawn(&["/usr/bin/python3", "/srv/ask.py", &alpha.address().to_string()]).map_err(words)?;
    let answers = |asking: &Process| asking.stdout().lines().count();
    until("the client is answered", || Ok(answers(&asking) > 10))?;
    let plan = try_ferry(alpha, &["plan", NAME, "--to", "beta"])?;
    let named = plan.code == 3 && plan.stdout.contains(":7000") && plan.stdout.contains("--end-connections");
    expect(&format!("plan: {}{}", plan.stdout, plan.stderr), named)?;
    let refused = try_ferry(alpha, &["move", NAME, "--to", "beta"])?;
    expect(&format!("move: {}", refused.stderr), refused.code == 3)?;

    // Slow enough that the move is met in its pause.
    beta.limit_link(8 << 20).map_err(words)?;
    let slowly = ["--end-connections", "--method", "stop-and-copy", "--detach"];
    let begun = ferry(alpha, &[&["move", NAME, "--to", "beta"][..], &slowly].concat())?;
    let mut table = String::new();
    until("it is frozen and locked", || {
        table = alpha.sh("nft list tables").map_err(words)?;
        let shown = ferry(alpha, &["--json", "moves", "show", begun.trim()])?;
        let over = !shown.contains("\"state\":\"running\"") && !shown.contains("\"state\": \"running\"");
        if over {
            Err(format!("it ended: {shown}{}", shim_logs(alpha)))
        } else {
            Ok(table.contains("ferry_w_"))
        }
    })?;
    ferry(alpha, &["moves", "cancel", begun.trim()])?;
    until("it runs on", || Ok(workload(alpha)?["state"] == "running"))?;
    let before = answers(&asking);
    until("its connection goes on", || match asking.has_ended() {
        true => Err(format!("the client ended: {}{}{}", asking.stdout(), asking.stderr(), shim_logs(alpha))),
        false => Ok(answers(&asking) > before + 10),
    })?;
    let table = alpha.sh("nft list tables").map_err(words)?;
    expect(&format!("the lock is left: {table}"), !table.contains("ferry"))?;
    expect("it left its cgroup", cgroup(alpha, pid)?.contains("/ferry/w-"))?;

    beta.limit_link(1 << 30).map_err(words)?;
    ferry(alpha, &["move", NAME, "--to", "beta", "--end-connections"])?;
    until("the client hears of it", || Ok(asking.has_ended()))?;
    expect(&asking.stdout(), asking.stdout().ends_with("RESET\n"))?;
    let ask =
        format!("exec 3<>/dev/tcp/{}/7000; echo check >&3; read answer <&3; echo $answer", beta.address());
    let right = gamma.ok(&["/bin/bash", "-c", &ask]).map_err(words)?;
    expect(&format!("its memory is {right}"), right.trim() == "right")?;
    let table = alpha.sh("nft list tables").map_err(words)?;
    expect(&format!("the lock is left: {table}"), !table.contains("ferry"))?;
    let doctor = ferry(alpha, &["doctor"])?;
    expect(&doctor, doctor.contains("All is well"))?;
    clear(fleet)
}
