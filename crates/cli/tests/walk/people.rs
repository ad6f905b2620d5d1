//! What a person does to a move from the command line: gives it up in time or too late, looks away, takes it back.

use crate::counter;
use crate::fault::{HALF, Must, STEPS, Step};
use crate::rest;
use crate::world::{NAMES, SOURCE, TARGET, WORKLOAD, World, wait_until};
use ferry_lab::FERRY;
use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;
use std::time::Duration;

/// Address and port of a workload that listens.
const ADDRESS: &str = "10.77.0.50";
const PORT: &str = "7000";

/// How long a command may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

type Make = fn() -> Result<World, String>;
type Scenario = fn(&mut World) -> Result<(), String>;

/// All of them; none is left to a sample.
pub fn trials() -> Vec<Trial> {
    let quiet: Make = World::new;
    let listening: Make = || World::listening(&format!("{ADDRESS}/24"), PORT);
    let all: [(&str, Make, Scenario); 9] = [
        ("cancelled_at_each_step_nobody_notices", listening, cancelled),
        ("cancelled_too_late_says_so", quiet, cancelled_too_late),
        ("interrupted_client_harms_no_move", quiet, interrupted),
        ("in_doubt_is_fenced", quiet, fenced),
        ("what_was_won_is_not_taken_back", quiet, won),
        ("what_has_no_copy_is_not_taken_back", quiet, without_copy),
        ("pages_of_a_host_that_is_lost_are_given_up", quiet, given_up),
        ("a_link_that_is_cut_pauses_both_sides_of_a_drain", quiet, paused),
        ("what_ends_by_itself_in_a_drain_has_moved", quiet, ended),
    ];
    all.into_iter().map(|(name, make, scenario)| Trial::test(name, move || run(make, scenario))).collect()
}

fn run(make: Make, scenario: Scenario) -> Result<(), Failed> {
    let mut world = make()?;
    let done = scenario(&mut world);
    done.map_err(|e| format!("{e}\n{}", world.story()))?;
    world.clear().map_err(Failed::from)
}

fn named(name: &str) -> Result<Step, String> {
    STEPS.into_iter().find(|step| step.name == name).ok_or_else(|| format!("no step {name}"))
}

/// At each step before the decision: the workload goes on where it was, a connection to it too, nothing is left at the target,
/// and the next attempt is as good as the first.
fn cancelled(world: &mut World) -> Result<(), String> {
    let client = world.bystander()?;
    let talks = ["/usr/bin/perl", "-e", counter::CLIENT, &format!("{ADDRESS}:{PORT}"), "/tmp/enough"];
    let talk = client.spawn(&talks).map_err(|e| e.to_string())?;
    for name in ["OFFERED", "RESERVED", "DRAFT", "ROUND", "ASIDE", "FROZEN", "PREPARED"] {
        let step = named(name)?;
        world.walk_to(step)?;
        let id = world.move_id()?;
        let cancel = world.node(SOURCE).spawn(&[FERRY, "moves", "cancel", &id]).map_err(|e| e.to_string())?;
        wait_until("the node is asked to give up", LONG, || {
            Ok(world.ask(SOURCE, &["moves", "show", &id])?.to_string().contains("Asked to give up"))
        })?;
        world.go(step)?;
        let ended = cancel.wait(LONG).map_err(|e| e.to_string())?;
        if ended.code != 0 || !ended.stdout.contains("rolled back") {
            return Err(format!(
                "{name}: cancel ended with {}: {}{}",
                ended.code, ended.stdout, ended.stderr
            ));
        }
        rest::check(world, Must::Run).map_err(|e| format!("{name}: {e}"))?;
        let said = talk.stdout().len();
        wait_until(&format!("the client is answered after {name}"), LONG, || {
            Ok(talk.stdout().len() > said + 5)
        })?;
        if world.running()? != [SOURCE] || talk.has_ended() {
            return Err(format!("{name}: runs on {:?}; the client: {}", world.running()?, talk.stderr()));
        }
    }
    client.write("/tmp/enough", b"").map_err(|e| e.to_string())?;
    let talked = talk.wait(LONG).map_err(|e| e.to_string())?;
    if talked.code != 0 || !talked.stdout.contains("lines came back") {
        return Err(format!("the client ended with {}: {}{}", talked.code, talked.stdout, talked.stderr));
    }
    world.ok(SOURCE, &["move", WORKLOAD, "--to", NAMES[TARGET]])?;
    rest::check(world, Must::Run)?;
    match world.running()?.as_slice() {
        [TARGET] => Ok(()),
        other => Err(format!("the last attempt: runs on {other:?}")),
    }
}

fn cancelled_too_late(world: &mut World) -> Result<(), String> {
    let step = named("COMMITTED")?;
    world.walk_to(step)?;
    let id = world.move_id()?;
    let cancel = |world: &World| world.node(SOURCE).run(&[FERRY, "moves", "cancel", &id]);
    let refused = cancel(world).map_err(|e| e.to_string())?;
    if refused.code != 3 || !refused.stderr.contains("can no longer be cancelled") {
        return Err(format!("cancel ended with {}: {}{}", refused.code, refused.stdout, refused.stderr));
    }
    world.go(step)?;
    rest::check(world, Must::Run)?;
    let over = cancel(world).map_err(|e| e.to_string())?;
    match (over.code, world.running()?.as_slice()) {
        (3, [TARGET]) if over.stderr.contains("is over") => Ok(()),
        (code, running) => Err(format!("{code}, runs on {running:?}: {}", over.stderr)),
    }
}

/// Ctrl-C ends the looking-on, and says so.
fn interrupted(world: &mut World) -> Result<(), String> {
    let step = named("FROZEN")?;
    world.order(step)?;
    let line = [FERRY, "move", WORKLOAD, "--to", NAMES[TARGET]];
    let client = world.node(SOURCE).spawn(&line).map_err(|e| e.to_string())?;
    world.arrive(step)?;
    client.signal(Signal::INT).map_err(|e| e.to_string())?;
    let ended = client.wait(LONG).map_err(|e| e.to_string())?;
    world.go(step)?;
    if ended.code != 130 || !ended.stderr.contains("The move goes on") {
        return Err(format!("the client ended with {}: {}{}", ended.code, ended.stdout, ended.stderr));
    }
    rest::check(world, Must::Run)?;
    match world.running()?.as_slice() {
        [TARGET] => Ok(()),
        other => Err(format!("runs on {other:?}")),
    }
}

/// The decider is away after it was asked: both copies stand still. A person takes it back; it is the decider that does it.
fn fenced(world: &mut World) -> Result<(), String> {
    let step = named("DECIDING")?;
    world.walk_to(step)?;
    world.switch("away")?;
    world.go(step)?;
    wait_until("the move is in doubt", LONG, || {
        Ok(world.ask(SOURCE, &["moves", "show", &world.move_id()?])?.to_string().contains("In doubt"))
    })?;
    world.recover(SOURCE, &[], 5, "IN DOUBT")?;
    world.recover(SOURCE, &[], 5, &format!("ferry recover {WORKLOAD} --fence"))?;
    world.recover(SOURCE, &["--commit-to", NAMES[TARGET]], 3, "the decider is asked already")?;
    world.recover(SOURCE, &["--give-up"], 3, "no pages of it are missing")?;
    // Asked for, and not had: the decider is still away.
    world.recover(SOURCE, &["--fence"], 5, "IN DOUBT")?;
    world.unswitch("away");
    rest::check(world, Must::Run)?;
    if world.running()? != [SOURCE] {
        return Err(format!("runs on {:?}", world.running()?));
    }
    world.recover(SOURCE, &["--fence"], 3, "no move of it is in doubt")
}

fn won(world: &mut World) -> Result<(), String> {
    let step = named("COMMITTED")?;
    world.walk_to(step)?;
    world.kill_node(TARGET)?;
    world.go(step)?;
    wait_until("the source stands at committed", LONG, || {
        let said = world.ask(SOURCE, &["moves", "show", &world.move_id()?])?;
        Ok(said.to_string().contains("resume"))
    })?;
    world.recover(SOURCE, &["--fence"], 3, &format!("{} has won it", NAMES[TARGET]))?;
    world.start_node(TARGET)?;
    rest::check(world, Must::Run)?;
    match world.running()?.as_slice() {
        [TARGET] => Ok(()),
        other => Err(format!("runs on {other:?}")),
    }
}

/// The source restarts when the target is whole: only the target has a copy, and no word of a person can change that.
fn without_copy(world: &mut World) -> Result<(), String> {
    let step = named("PREPARED")?;
    world.walk_to(step)?;
    world.reboot(SOURCE)?;
    world.cut()?;
    world.go(step)?;
    world.start_node(SOURCE)?;
    world.recover(SOURCE, &["--commit-to", NAMES[TARGET]], 3, "does not answer")?;
    world.recover(SOURCE, &["--fence"], 3, "not safe now")?;
    world.heal()?;
    rest::check(world, Must::Run)?;
    match world.running()?.as_slice() {
        [TARGET] => Ok(()),
        other => Err(format!("runs on {other:?}")),
    }
}

/// The source's host is gone in the middle of the drain: the workload waits, until a person says that nobody comes back.
fn given_up(world: &mut World) -> Result<(), String> {
    world.walk_to(HALF)?;
    world.recover(TARGET, &["--give-up"], 3, "the host that has them answers")?;
    world.reboot(SOURCE)?;
    wait_until("the target says that it is paused", LONG, || Ok(world.move_on(TARGET)? == "paused"))?;
    if world.state_of(TARGET)? != "paused" {
        return Err(format!("ps says {}", world.state_of(TARGET)?));
    }
    world.recover(TARGET, &[], 0, "--give-up")?;
    world.recover(TARGET, &["--give-up"], 0, "LOST")?;
    let state = world.state_of(TARGET)?;
    if state != "lost-pages" {
        return Err(format!("after it was given up ps says {state}"));
    }
    // The host comes back after all: too late, and it learns so.
    world.go(HALF)?;
    world.start_node(SOURCE)?;
    rest::check(world, Must::HaveLostPages)
}

/// Both sides say that the move is paused, whoever asks; when the link is back it goes on by itself.
fn paused(world: &mut World) -> Result<(), String> {
    world.walk_to(HALF)?;
    world.cut()?;
    world.go(HALF)?;
    for host in [SOURCE, TARGET] {
        let name = format!("{} says that it is paused", NAMES[host]);
        wait_until(&name, LONG, || Ok(world.move_on(host)? == "paused"))?;
    }
    world.heal()?;
    rest::check(world, Must::Run)?;
    match (world.running()?.as_slice(), world.move_on(SOURCE)?.as_str()) {
        ([TARGET], "done") => Ok(()),
        other => Err(format!("it stands at {other:?}")),
    }
}

/// It ends by itself while pages of it are missing: that is the end of the move, too, and no failure.
fn ended(world: &mut World) -> Result<(), String> {
    world.walk_to(HALF)?;
    world.ok(TARGET, &["kill", "--signal", "USR1", WORKLOAD])?;
    let id = world.move_id()?;
    wait_until("it has ended", LONG, || Ok(world.state_of(TARGET)? == "exited"))?;
    world.go(HALF)?;
    for host in [SOURCE, TARGET] {
        wait_until("the move is done", LONG, || Ok(world.move_on(host)? == "done"))?;
        let shown = world.ok(host, &["moves", "show", &id])?;
        if !shown.contains("it ended by itself at the target: exited (7)") {
            return Err(format!("{} does not say how it ended: {shown}", NAMES[host]));
        }
    }
    let waited = world.node(TARGET).run(&[FERRY, "wait", WORKLOAD]).map_err(|e| e.to_string())?;
    if (waited.code, waited.stdout.trim()) != (7, "7") {
        return Err(format!("wait ended with {}: {}{}", waited.code, waited.stdout, waited.stderr));
    }
    world.ok(TARGET, &["rm", WORKLOAD])?;
    wait_until("nothing is left on either host", LONG, || Ok(world.is_bare(SOURCE) && world.is_bare(TARGET)))
}
