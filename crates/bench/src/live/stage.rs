//! Three lab hosts: the workload moves between two of them, whoever watches it is on the third.

use super::counters::{self, Counters};
use super::watcher::{REDIS_PORT, Watcher};
use crate::stalls::{Stalls, now_us};
use ferry_lab::{FERRY, Fleet, Host, HostSpec, Process, built_beside};
use ferry_model::api::{Move, MoveState};
use ferry_model::event::{Event, What};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the bench's program is on every host.
pub const PROGRAM: &str = "/usr/local/bin/bench-live";
/// Where redis is on every host.
const REDIS: &str = "/usr/local/bin/redis-server";
/// Name of the workload.
const NAME: &str = "subject";
/// Its own address, which moves with it.
pub const ADDRESS: &str = "10.77.0.100";
/// How long one move may take.
const MOVE_MAX: Duration = Duration::from_secs(600);
/// How long the client may take to be answered again after a move.
const REPLIES_MAX: Duration = Duration::from_secs(60);
/// Replies within a calm that show that it is: one is asked for each millisecond, on a busy machine fewer.
const REPLIES_CALM: u64 = 50;

/// What moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The writer that checks itself.
    Writer {
        /// Its memory.
        bytes: u64,
        /// Pages that it writes in a second.
        rate: u64,
    },
    /// As [`Self::Writer`]; what it could not write because it stood still is not made up for, so slowing it down shows.
    Strict {
        /// Its memory.
        bytes: u64,
        /// Pages that it writes in a second.
        rate: u64,
    },
    /// As [`Self::Writer`], between hosts that keep what it was when it left, or keep nothing.
    Returning {
        /// Its memory.
        bytes: u64,
        /// Pages that it writes in a second.
        rate: u64,
        /// Whether they do.
        kept: bool,
    },
    /// redis-server, with clients that write and verify.
    Redis {
        /// Its values, MiB.
        mib: u64,
    },
}

/// The hosts with the workload on one of them.
pub struct Stage {
    fleet: Fleet,
    watcher: Watcher,
    /// Where nothing moves.
    third: Host,
    /// Which host it is on.
    at: usize,
    /// How long it works undisturbed before and after each move.
    pub calm: Duration,
    stalls: Stalls,
    outage: Outage,
    began_us: u64,
}

/// Why there is no figure.
#[derive(Debug)]
pub enum Failure {
    /// The method is refused: there is no row for it.
    Refused(String),
    /// Anything else.
    Failed(io::Error),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(io::Error::other(error))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// How long clients waited at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outage {
    /// As they saw it, microseconds.
    pub us: u64,
    /// The longest when of each wait what the machine itself stood still is left out, microseconds; 0 where none was worth telling.
    pub own_us: u64,
    /// The same, of what at least one processor stood still: whoever was on that one waited for it.
    pub alone_us: u64,
    /// When the longest began, by the wall clock, microseconds; 0 where none was worth telling.
    pub from_us: u64,
}

impl Stage {
    /// Makes the hosts, starts the workload and whoever watches it: this program again.
    ///
    /// # Errors
    /// As of the lab; redis is not installed.
    pub fn set(subject: &Subject) -> Result<Self, Failure> {
        Self::with_program(&std::env::current_exe()?, subject)
    }

    /// As [`Self::set`], with `bench live` at this path.
    ///
    /// # Errors
    /// As of the lab; redis is not installed.
    pub fn with_program(program: &Path, subject: &Subject) -> Result<Self, Failure> {
        let ferry =
            built_beside("ferry").ok_or_else(|| io::Error::other("the program ferry is not built"))?;
        let redis = match subject {
            Subject::Redis { .. } => Some(find_redis()?),
            _ => None,
        };
        let spec = |name: &str| {
            let spec = HostSpec::new(name).install(program, PROGRAM);
            match &redis {
                Some(redis) => spec.install(redis, REDIS),
                None => spec,
            }
        };
        let keep: &[&str] = match subject {
            Subject::Returning { kept: true, .. } => &["--visits-max", "64G"],
            _ => &[],
        };
        let mut fleet = Fleet::start_with(&ferry, vec![spec("alpha"), spec("beta")], keep)?;
        let gamma = fleet.lab.add(spec("gamma"))?;
        let net = format!("{ADDRESS}/24");
        let run = [FERRY, "run", "--name", NAME, "--net", &net, "--"].map(str::to_owned);
        fleet.nodes[0].ok(&[&run[..], &command(subject)].concat())?;
        let watcher = Watcher::start(&gamma, subject)?;
        let outage = Outage::default();
        let stalls = Stalls::watch();
        Ok(Self {
            fleet,
            watcher,
            third: gamma,
            at: 0,
            calm: Duration::from_millis(500),
            stalls,
            outage,
            began_us: 0,
        })
    }

    /// Limits what each of the two hosts can receive, bytes in a second.
    ///
    /// # Errors
    /// As of the lab.
    pub fn limit_links(&self, bytes_per_s: u64) -> Result<(), Failure> {
        for host in &self.fleet.nodes {
            host.limit_link(bytes_per_s)?;
        }
        Ok(())
    }

    /// Moves it to the other host; the move has what the client saw among its events.
    ///
    /// # Errors
    /// It was refused or failed, or whoever watches saw a fault.
    pub fn carry(&mut self, options: &[String]) -> Result<Move, Failure> {
        std::thread::sleep(self.calm);
        self.watcher.mark()?;
        self.began_us = now_us();
        let output = self.begin(options)?.wait(MOVE_MAX)?;
        let told = output.stdout.lines().find_map(|line| serde_json::from_str::<Move>(line).ok());
        let mut moved = match told {
            Some(moved) if output.code == 0 && moved.state == MoveState::Done => moved,
            _ => {
                let said = format!("{}{}", output.stdout, output.stderr);
                if output.code == 3 {
                    return Err(Failure::Refused(said.trim().to_owned()));
                }
                let said = format!("`{}` ended with {}: {}", options.join(" "), output.code, said.trim());
                return Err(Failure::Failed(io::Error::other(said)));
            }
        };
        self.at = 1 - self.at;
        let outage = self.wait_for_replies()?;
        let (us, at_us) = (outage.us, moved.summary.total_us.unwrap_or(0));
        self.outage = outage;
        moved.events.push(Event { at_us, what: What::Outage { us } });
        moved.summary = ferry_model::event::summary(&moved.events);
        Ok(moved)
    }

    /// Begins a move to the other host; the caller waits for its end, and looks where the workload is ([`Self::find`]).
    ///
    /// # Errors
    /// As of the lab.
    pub fn begin(&self, options: &[String]) -> Result<Process, Failure> {
        let [from, to]: [&Host; 2] = [&self.fleet.nodes[self.at], &self.fleet.nodes[1 - self.at]];
        let mut command = vec![FERRY, "--json", "move", NAME, "--to", to.name()];
        command.extend(options.iter().map(String::as_str));
        Ok(from.spawn(&command)?)
    }

    /// Pages that the writer writes in a second, just now.
    ///
    /// # Errors
    /// It does not answer, or is none.
    pub fn written_per_s(&mut self) -> Result<f64, Failure> {
        let (before, began) = (self.watcher.written()?, Instant::now());
        std::thread::sleep(Duration::from_millis(500));
        let after = self.watcher.written()?;
        Ok((after - before) as f64 / began.elapsed().as_secs_f64())
    }

    /// How long after the last move was asked for the longest wait began, microseconds.
    #[must_use]
    pub fn longest_at_us(&self) -> u64 {
        self.outage.from_us.saturating_sub(self.began_us)
    }

    /// How long clients waited in the last move.
    #[must_use]
    pub fn outage(&self) -> Outage {
        self.outage
    }

    /// The longest time that the client waited since its last mark. Replies must flow again before that is known: the client's
    /// last request may be retried long after the workload runs.
    ///
    /// # Errors
    /// They do not flow, or whoever watches saw a fault.
    fn wait_for_replies(&mut self) -> Result<Outage, Failure> {
        let (end, mut outage, mut first) = (Instant::now() + REPLIES_MAX, Outage::default(), true);
        let mut longest = 0;
        loop {
            let seen = self.watcher.mark()?;
            outage.us = outage.us.max(seen.gap_us);
            for wait in &seen.waits {
                if wait.us() > longest {
                    (longest, outage.from_us) = (wait.us(), wait.from_us);
                }
                let still = self.stalls.within(wait);
                outage.own_us = outage.own_us.max(wait.us().saturating_sub(still.all_us));
                outage.alone_us = outage.alone_us.max(wait.us().saturating_sub(still.any_us));
            }
            // The gap is counted by the reply that ends it. Those in the first answer were before the pause.
            if seen.replies >= REPLIES_CALM && !first {
                return Ok(outage);
            }
            first = false;
            std::thread::sleep(self.calm);
            if Instant::now() > end {
                return Err(Failure::Failed(io::Error::other("the workload answers no more")));
            }
        }
    }

    /// After a move that failed: looks where the workload is now, and that it answers and has lost nothing.
    ///
    /// # Errors
    /// It is nowhere, on both hosts, or whoever watches saw a fault.
    pub fn find(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + REPLIES_MAX;
        loop {
            let mut running = Vec::new();
            for (number, host) in self.fleet.nodes.iter().enumerate() {
                let listed = host.run(&[FERRY, "--json", "ps"])?.stdout;
                let listed: serde_json::Value = serde_json::from_str(&listed).unwrap_or_default();
                let is_it = |each: &serde_json::Value| each["name"] == NAME && each["state"] == "running";
                running.extend(listed.as_array().into_iter().flatten().any(is_it).then_some(number));
            }
            match running[..] {
                [number] => {
                    self.at = number;
                    return self.wait_for_replies().map(drop);
                }
                _ if Instant::now() > end => {
                    let said = format!("after a failed move the workload runs on {} hosts", running.len());
                    return Err(Failure::Failed(io::Error::other(said)));
                }
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Has redis write its data base to disk, in a child that it forks. The one who asked ends by itself.
    ///
    /// # Errors
    /// As of the lab.
    pub fn bgsave(&self) -> Result<Process, Failure> {
        let port = REDIS_PORT.to_string();
        Ok(self.third.spawn(&["/usr/bin/redis-cli", "-h", ADDRESS, "-p", &port, "bgsave"])?)
    }

    /// What TCP has counted: on the clients' host, and in the workload's network since it is where it is.
    #[must_use]
    pub fn counters(&self) -> [Counters; 2] {
        let inside = [FERRY, "exec", NAME, "--", "/bin/cat", "/proc/net/snmp", "/proc/net/netstat"];
        let inside = self.host().ok(&inside).unwrap_or_default();
        [counters::of(&self.third), counters::parse(&inside)]
    }

    /// Where the workload is just now: one of `alpha` and `beta`.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.fleet.nodes[self.at]
    }

    /// What both hosts have logged: the place to look after a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (number, host) in self.fleet.nodes.iter().enumerate() {
            let daemon = self.fleet.daemon(number);
            let shims = "tail -n 40 /var/lib/ferry/workloads/*/shim.log 2>/dev/null || true";
            let shims = host.sh(shims).unwrap_or_else(|error| error.to_string());
            let moves = host.sh("ferry moves ls; ferry ps --all").unwrap_or_else(|error| error.to_string());
            let said = tail(&daemon.stderr()).to_owned();
            text.push_str(&format!("--- {}: node\n{said}\n--- shims\n{shims}\n{moves}\n", host.name()));
        }
        text
    }

    /// Has everything that the workload holds looked at; then takes the hosts away and says what is left of them.
    ///
    /// # Errors
    /// Something is wrong with a byte, or something is left behind.
    pub fn end(self) -> Result<(), Failure> {
        self.watcher.verify()?;
        let left = self.fleet.lab.clear();
        if left.is_empty() {
            return Ok(());
        }
        Err(Failure::Failed(io::Error::other(format!("left behind: {}", left.join("; ")))))
    }
}

fn command(subject: &Subject) -> Vec<String> {
    let line = match subject {
        Subject::Writer { bytes, rate } | Subject::Returning { bytes, rate, .. } => {
            format!("{PROGRAM} --writer --bytes {bytes} --rate {rate}")
        }
        Subject::Strict { bytes, rate } => {
            format!("{PROGRAM} --writer --strict --bytes {bytes} --rate {rate}")
        }
        Subject::Redis { .. } => {
            format!("{REDIS} --port {REDIS_PORT} --bind 0.0.0.0 --protected-mode no --save")
        }
    };
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    if matches!(subject, Subject::Redis { .. }) {
        // Nothing is saved by itself.
        words.push(String::new());
    }
    words
}

/// The redis server's program. Debian has it twice: `redis-check-rdb` of redis-tools is the same file and serves when called so.
fn find_redis() -> io::Result<PathBuf> {
    let places = ["/usr/bin/redis-server", "/usr/local/bin/redis-server", "/usr/bin/redis-check-rdb"];
    let found = places.iter().map(Path::new).find(|path| path.exists());
    found.map(Path::to_owned).ok_or_else(|| {
        io::Error::other("redis-server is not installed: as root: apt-get install redis-tools")
    })
}

/// The end of something long.
fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(6000);
    text.get(from..).unwrap_or(text)
}
