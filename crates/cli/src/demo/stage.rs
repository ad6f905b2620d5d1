//! The demo's hosts, what runs on them, and the moves, all by the commands that a user would give.

use super::kv::report::Report;
use super::summary::{Leg, Summary};
use super::{Args, Workload};
use ferry_lab::{Closer, Dialogue, FERRY, Fleet, Host, HostSpec};
use ferry_model::api::{Move, MoveState};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Event, What};
use ferry_model::planning::Method;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the workload.
const NAME: &str = "store";
/// Its own address, which moves with it.
const ADDRESS: &str = "10.77.0.100";
/// Keys in a MiB of values.
const KEYS_PER_MIB: u64 = 256;
/// How long the clients work before, between and after the moves.
const CALM: Duration = Duration::from_millis(1000);
/// How long a move may take.
const MOVE_MAX: Duration = Duration::from_secs(300);
/// How long the clients may take to connect, and to verify everything in the end.
const CLIENTS_MAX: Duration = Duration::from_secs(120);

/// Three hosts.
pub struct Stage {
    fleet: Fleet,
    clients: Host,
    keys: u64,
    quiet: bool,
}

impl Stage {
    /// Makes the hosts.
    pub fn set(args: &Args, quiet: bool) -> Result<Self> {
        let ferry =
            std::env::current_exe().map_err(|cause| unable(&cause, "The program does not find itself"))?;
        let redis = match args.workload {
            Workload::Kv => None,
            Workload::Redis => Some(find_redis()?),
        };
        say(quiet, "Making three hosts: alpha and beta with a node, gamma with clients");
        let spec = |name: &str| {
            let spec = HostSpec::new(name);
            match &redis {
                Some(program) => spec.install(program, "/usr/local/bin/redis-server"),
                None => spec,
            }
        };
        let cannot = |cause: ferry_lab::Error| unable(&cause, "The demo's hosts cannot be made here");
        let mut fleet = Fleet::start(&ferry, vec![spec("alpha"), spec("beta")]).map_err(cannot)?;
        let clients = fleet.lab.host("gamma").map_err(cannot)?;
        Ok(Self { fleet, clients, keys: args.size * KEYS_PER_MIB, quiet })
    }

    /// Ends the hosts from elsewhere.
    pub fn closer(&self) -> Closer {
        self.fleet.lab.closer()
    }

    /// Starts server and clients, moves there and back, and sums up.
    pub fn play(&mut self, workload: Workload, method: Method) -> Result<Summary> {
        let [alpha, beta] = [0, 1].map(|number| self.fleet.nodes[number].clone());
        self.start_server(&alpha, workload)?;
        let mut clients = Clients::start(&self.clients, self.keys, workload)?;
        self.say("Clients read and write over open connections");
        std::thread::sleep(CALM);
        clients.mark()?;
        let mut legs = Vec::new();
        for (from, to) in [(&alpha, &beta), (&beta, &alpha)] {
            self.say(&format!("Moving from {} to {}", from.name(), to.name()));
            let mut moved = carry(from, to, method)?;
            std::thread::sleep(CALM);
            let shared = to.reaches(from);
            if !shared.is_empty() {
                return Err(
                    Error::new(Kind::Bug, "The target reaches the source's files").hint(shared.join("; "))
                );
            }
            let seen = clients.mark()?;
            let us = (seen.outage_ms * 1e3) as u64;
            moved.events.push(Event { at_us: moved.total_us.unwrap_or(0), what: What::Outage { us } });
            legs.push(Leg { moved, seen });
        }
        self.say("Verifying every key");
        let all = clients.stop()?;
        Ok(Summary::new(legs, &all))
    }

    /// Tells how to look around.
    pub fn invite(&self) {
        let mut err = std::io::stderr();
        let _ = writeln!(err, "\nThe hosts stay up until you press Ctrl-C. From another terminal, as root:");
        for host in self.fleet.nodes.iter().chain([&self.clients]) {
            let _ = writeln!(err, "  {}", host.shell().unwrap_or_default());
        }
        let _ = writeln!(
            err,
            "Then, for instance: ferry ps; ferry show {NAME}; ferry plan {NAME} --to beta; ferry moves ls"
        );
    }

    fn start_server(&self, host: &Host, workload: Workload) -> Result<()> {
        let keys = self.keys.to_string();
        let command: Vec<&str> = match workload {
            Workload::Kv => vec![FERRY, "kv-server", "--listen", "0.0.0.0:6380", "--keys", &keys],
            Workload::Redis => {
                let line =
                    "/usr/local/bin/redis-server --port 6380 --bind 0.0.0.0 --protected-mode no --save";
                line.split(' ').chain([""]).collect()
            }
        };
        let mib = self.keys / KEYS_PER_MIB;
        self.say(&format!("Starting the server on {} with {mib} MiB and the address {ADDRESS}", host.name()));
        let net = format!("{ADDRESS}/24");
        let run = [FERRY, "run", "--name", NAME, "--net", &net, "--"];
        host.ok(&[&run[..], &command].concat())
            .map_err(|cause| unable(&cause, "The server did not start"))?;
        Ok(())
    }

    fn say(&self, line: &str) {
        say(self.quiet, line);
    }
}

/// `ferry move`, as a program would call it.
fn carry(from: &Host, to: &Host, method: Method) -> Result<Move> {
    let method = method.to_string();
    let command = [FERRY, "--json", "move", NAME, "--to", to.name(), "--method", &method, "--yes"];
    let failed = |cause: ferry_lab::Error| unable(&cause, "The move could not be made");
    let output = from.spawn(&command).and_then(|process| process.wait(MOVE_MAX)).map_err(failed)?;
    let moved = output.stdout.lines().find_map(|line| serde_json::from_str::<Move>(line).ok());
    match moved {
        Some(moved) if output.code == 0 && moved.state == MoveState::Done => Ok(moved),
        Some(Move { error: Some(error), .. }) => Err(error),
        _ => {
            let said = serde_json::from_str::<serde_json::Value>(output.stderr.trim()).ok();
            let error = said.and_then(|mut said| serde_json::from_value::<Error>(said["error"].take()).ok());
            Err(error.unwrap_or_else(|| {
                let text = format!("`{}` ended with {}", command.join(" "), output.code);
                Error::new(Kind::Bug, text)
                    .hint(format!("{}{}", output.stdout, output.stderr).trim().to_owned())
            }))
        }
    }
}

/// The clients.
struct Clients(Dialogue);

impl Clients {
    fn start(host: &Host, keys: u64, workload: Workload) -> Result<Self> {
        let (connect, keys) = (format!("{ADDRESS}:6380"), keys.to_string());
        let mut command = vec![FERRY, "kv-client", "--connect", &connect, "--keys", &keys];
        if workload == Workload::Redis {
            command.push("--redis");
        }
        let start = Dialogue::start(host, &command, CLIENTS_MAX);
        let mut clients = start.map_err(|cause| unable(&cause, "The clients did not start"))?;
        clients.hear().map_err(|cause| unable(&cause, "The clients do not answer"))?;
        Ok(Self(clients))
    }

    /// What was seen since the last mark.
    fn mark(&mut self) -> Result<Report> {
        self.tell("mark")
    }

    /// Verifies everything; the sums.
    fn stop(&mut self) -> Result<Report> {
        self.tell("stop")
    }

    fn tell(&mut self, word: &str) -> Result<Report> {
        let line = self.0.tell(word).map_err(|cause| unable(&cause, "The clients do not answer"))?;
        serde_json::from_str(&line).map_err(|cause| unable(&cause, "The clients said something strange"))
    }
}

/// The redis server's program. Debian has it twice: `redis-check-rdb` of redis-tools is the same file and serves when called so.
fn find_redis() -> Result<PathBuf> {
    let places = ["/usr/bin/redis-server", "/usr/local/bin/redis-server", "/usr/bin/redis-check-rdb"];
    let found = places.iter().map(Path::new).find(|path| path.exists());
    found.map(Path::to_owned).ok_or_else(|| {
        Error::new(Kind::Unable, "redis-server is not installed")
            .hint("as root: apt-get install redis-server")
    })
}

fn say(quiet: bool, line: &str) {
    if !quiet {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

fn unable(cause: &(dyn std::error::Error + 'static), what: &str) -> Error {
    Error::from_source(Kind::Unable, cause).context(what)
}
