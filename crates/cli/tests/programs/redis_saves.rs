//! redis saves itself (BGSAVE: a forked child reads all of its memory) while it is on its way: in the rounds of a pre-copy, across the pause, and while
//! pages are missing at the target. What was saved is read by another redis, and must be one moment of what was written, with every key.

use crate::support::{NAME, STEP_MAX, Verdict, clear, ferry, host, start, try_ferry, words};
use ferry_lab::{Dialogue, FERRY, Fleet, Host, HostSpec, Process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The workload's own address.
const ADDRESS: &str = "10.77.0.91";
const PORT: &str = "6380";
/// Where another redis reads what was saved.
const OTHER: &str = "6399";
/// Keys that never change, of some 2 KiB each.
const KEYS: &str = "16000";
/// Programs on the hosts.
const REDIS: &str = "/usr/local/bin/redis-server";
const CLIENT: &str = "/srv/redis_saves.py";
/// What the target can receive while pages follow, bytes in a second: all of them take several seconds.
const SLOW: u64 = 8 << 20;

/// By rounds: a save that begins in the first, and one that is under way when it stops.
pub fn in_rounds() -> Verdict {
    let mut scene = Scene::set()?;
    let way = ["--method", "pre-copy", "--bandwidth", "12MiB"];
    let moving = scene.begin(&way)?;
    scene.wait_for_phase("pre-copy")?;
    let begun = scene.bgsave()?;
    if scene.phases()?.contains(&"freeze".to_owned()) {
        return Err("it stood still before the save had begun".into());
    }
    let saved = scene.saved()?;
    scene.arrive(moving)?;
    scene.check(begun, saved)?;
    // Two milliseconds for each key: whatever the machine does, the child is in the middle when it is moved.
    scene.slow_saves("2000")?;
    let begun = scene.bgsave()?;
    let moving = scene.begin(&["--method", "pre-copy"])?;
    scene.arrive(moving)?;
    if scene.last()? < begun {
        return Err("transactions are lost".into());
    }
    scene.slow_saves("0")?;
    let saved = scene.saved()?;
    scene.check(begun, saved)?;
    scene.end()
}

/// While pages are missing: the child has what was missing, too, and reads none of it as zeros.
pub fn in_drain() -> Verdict {
    let mut scene = Scene::set()?;
    scene.to().limit_link(SLOW).map_err(words)?;
    let moving = scene.begin(&["--method", "post-copy"])?;
    scene.wait_for_phase("post-copy")?;
    let begun = scene.bgsave()?;
    let missing = scene.missing_bytes()?;
    if missing < 1 << 20 {
        return Err(format!("only {missing} bytes were still missing when the save had begun"));
    }
    scene.to().limit_link(1 << 30).map_err(words)?;
    let saved = scene.saved()?;
    scene.arrive(moving)?;
    scene.check(begun, saved)?;
    scene.end()
}

/// Two hosts, redis on one of them, and whoever loads it on a third.
struct Scene {
    fleet: Fleet,
    client: Dialogue,
    at: usize,
}

impl Scene {
    fn set() -> Result<Self, String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/programs/redis_saves.py");
        let redis = find_redis()?;
        let with = |name: &str| host(name).install(&redis, REDIS);
        let mut fleet = start(vec![with("alpha"), with("beta")])?;
        let gamma = fleet.lab.add(HostSpec::new("gamma").install(script, CLIENT)).map_err(words)?;
        let net = format!("{ADDRESS}/24");
        let run = ["run", "--name", NAME, "--net", &net, "--", REDIS, "--port", PORT, "--bind", "0.0.0.0"];
        let how = ["--protected-mode", "no", "--dir", "/tmp", "--save", "", "--rdbcompression", "no"];
        ferry(&fleet.nodes[0], &[&run[..], &how].concat())?;
        wait(|| Ok(ferry(&fleet.nodes[0], &["logs", NAME])?.contains("Ready to accept connections")))?;
        let words_of = ["/usr/bin/python3", CLIENT, ADDRESS, PORT, KEYS];
        let mut client = Dialogue::start(&gamma, &words_of, 2 * STEP_MAX).map_err(words)?;
        let ready = client.hear().map_err(words)?;
        if ready == "ready" { Ok(Self { fleet, client, at: 0 }) } else { Err(ready) }
    }

    fn from(&self) -> &Host {
        &self.fleet.nodes[self.at]
    }

    fn to(&self) -> &Host {
        &self.fleet.nodes[1 - self.at]
    }

    fn begin(&self, options: &[&str]) -> Result<Process, String> {
        let line = [FERRY, "move", NAME, "--to", self.to().name()];
        self.from().spawn(&[&line[..], options].concat()).map_err(words)
    }

    /// Waits for the end of the move.
    fn arrive(&mut self, moving: Process) -> Verdict {
        let ended = moving.wait(2 * STEP_MAX).map_err(words)?;
        if ended.code != 0 {
            return Err(format!("the move ended with {}: {}{}", ended.code, ended.stdout, ended.stderr));
        }
        self.at = 1 - self.at;
        Ok(())
    }

    /// What happened in the newest move so far, as its source tells it.
    fn events(&self) -> Result<Vec<Value>, String> {
        let read = |text: String| serde_json::from_str::<Value>(&text).map_err(words);
        let listed = read(ferry(self.from(), &["--json", "moves", "ls"])?)?;
        let last = listed.as_array().and_then(|moves| moves.last()).and_then(|one| one["id"].as_str());
        let Some(id) = last else { return Ok(Vec::new()) };
        let shown = read(ferry(self.from(), &["--json", "moves", "show", id])?)?;
        Ok(shown["events"].as_array().cloned().unwrap_or_default())
    }

    fn phases(&self) -> Result<Vec<String>, String> {
        let begun = self.events()?.into_iter().filter(|event| event["event"] == "phase-start");
        Ok(begun.filter_map(|event| Some(event["phase"].as_str()?.to_owned())).collect())
    }

    fn wait_for_phase(&self, name: &str) -> Verdict {
        wait(|| Ok(self.phases()?.iter().any(|phase| phase == name)))
    }

    /// Bytes that are still missing, as the target has said last; all, until it has.
    fn missing_bytes(&self) -> Result<u64, String> {
        let told = self.events()?.into_iter().rev().find(|event| event["event"] == "follow");
        Ok(told.map_or(u64::MAX, |event| event["missing_bytes"].as_u64().unwrap_or(0)))
    }

    /// What the client answers, behind the word that is due.
    fn tell(&mut self, line: &str, due: &str) -> Result<u64, String> {
        let said = self.client.tell(line).map_err(words)?;
        let number = said.strip_prefix(due).and_then(|rest| rest.trim().parse().ok());
        number.ok_or_else(|| format!("{line}: {said}"))
    }

    fn bgsave(&mut self) -> Result<u64, String> {
        self.tell("bgsave", "begun")
    }

    fn saved(&mut self) -> Result<u64, String> {
        self.tell("saved", "saved")
    }

    fn last(&mut self) -> Result<u64, String> {
        self.tell("last", "last")
    }

    /// How long a save takes for each key, microseconds.
    fn slow_saves(&self, us: &str) -> Verdict {
        let set = ["config", "set", "rdb-key-save-delay", us];
        let line = ["exec", NAME, "--", "/usr/bin/redis-cli", "-p", PORT];
        ferry(self.from(), &[&line[..], &set].concat()).map(drop)
    }

    /// Has another redis, beside the first, read what was saved between these two transactions, and looks at every key of it.
    fn check(&mut self, begun: u64, saved: u64) -> Verdict {
        let line =
            ["exec", NAME, "--", REDIS, "--port", OTHER, "--bind", "0.0.0.0", "--protected-mode", "no"];
        let how = ["--dir", "/tmp", "--save", "", "--daemonize", "yes", "--logfile", "/tmp/other.log"];
        ferry(self.from(), &[&line[..], &how].concat())?;
        let cli = ["exec", NAME, "--", "/usr/bin/redis-cli", "-p", OTHER];
        wait(|| Ok(try_ferry(self.from(), &[&cli[..], &["ping"]].concat())?.stdout.contains("PONG")))?;
        let right = self.tell(&format!("check {OTHER} {begun} {saved}"), "right");
        ferry(self.from(), &[&cli[..], &["shutdown", "nosave"]].concat())?;
        right.map(drop)
    }

    /// Ends the load, which has lost nothing, and everything else.
    fn end(mut self) -> Verdict {
        self.tell("stop", "right")?;
        ferry(self.from(), &["kill", NAME])?;
        clear(self.fleet)
    }
}

fn wait(mut done: impl FnMut() -> Result<bool, String>) -> Verdict {
    let deadline = Instant::now() + STEP_MAX;
    while !done()? {
        if Instant::now() > deadline {
            return Err("it takes too long".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The redis server's program: `redis-check-rdb` of redis-tools is the same file and serves when called so.
fn find_redis() -> Result<PathBuf, String> {
    let places = ["/usr/bin/redis-server", "/usr/local/bin/redis-server", "/usr/bin/redis-check-rdb"];
    let found = places.iter().map(Path::new).find(|path| path.exists());
    found
        .map(Path::to_owned)
        .ok_or_else(|| "redis-server is not installed: apt-get install redis-tools".into())
}
