//! Three lab hosts: the writer moves between two of them, the client is on the third.

use super::client::Seen;
use super::writer::PORT;
use ferry_lab::{Dialogue, FERRY, Fleet, Host, HostSpec, built_beside};
use ferry_model::api::{Move, MoveState};
use ferry_model::event::{Event, What};
use std::io;
use std::time::{Duration, Instant};

/// Where the bench's program is on every host.
const PROGRAM: &str = "/usr/local/bin/bench-live";
/// Name of the workload.
const NAME: &str = "writer";
/// Its own address, which moves with it.
const ADDRESS: &str = "10.77.0.100";
/// How long one move may take.
const MOVE_MAX: Duration = Duration::from_secs(600);
/// How long the client may take to answer: the writer fills and verifies gigabytes.
const ANSWER_MAX: Duration = Duration::from_secs(180);
/// How long the client may take to be answered again after a move.
const REPLIES_MAX: Duration = Duration::from_secs(60);
/// Replies within [`CALM`] that show that it is: one is asked for each millisecond, on a busy machine fewer.
const REPLIES_CALM: u64 = 50;
/// How long it works undisturbed before and after each move.
const CALM: Duration = Duration::from_millis(500);

/// The hosts with the writer on one of them.
pub struct Stage {
    fleet: Fleet,
    client: Dialogue,
    /// Which host it is on.
    at: usize,
    errors: u64,
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

impl Stage {
    /// Makes the hosts and starts writer and client.
    ///
    /// # Errors
    /// As of the lab.
    pub fn set(bytes: u64, rate: u64) -> Result<Self, Failure> {
        let own = std::env::current_exe()?;
        let ferry =
            built_beside("ferry").ok_or_else(|| io::Error::other("the program ferry is not built"))?;
        let spec = |name: &str| HostSpec::new(name).install(&own, PROGRAM);
        let mut fleet = Fleet::start(&ferry, vec![spec("alpha"), spec("beta")])?;
        let gamma = fleet.lab.add(spec("gamma"))?;
        let (bytes, rate, net) = (bytes.to_string(), rate.to_string(), format!("{ADDRESS}/24"));
        let run = [FERRY, "run", "--name", NAME, "--net", &net, "--", PROGRAM, "--writer"];
        fleet.nodes[0].ok(&[&run[..], &["--bytes", &bytes, "--rate", &rate]].concat())?;
        let connect = format!("{ADDRESS}:{PORT}");
        let mut client = Dialogue::start(&gamma, &[PROGRAM, "--client", &connect], ANSWER_MAX)?;
        client.hear()?;
        Ok(Self { fleet, client, at: 0, errors: 0 })
    }

    /// Moves it to the other host; the move has what the client saw among its events.
    ///
    /// # Errors
    /// It was refused or failed, the connection broke, or the writer found a page that is wrong.
    pub fn carry(&mut self, options: &[String]) -> Result<Move, Failure> {
        let [from, to]: [&Host; 2] = [&self.fleet.nodes[self.at], &self.fleet.nodes[1 - self.at]];
        std::thread::sleep(CALM);
        self.client.tell("mark")?;
        let mut command = vec![FERRY, "--json", "move", NAME, "--to", to.name()];
        command.extend(options.iter().map(String::as_str));
        let output = from.spawn(&command)?.wait(MOVE_MAX)?;
        let told = output.stdout.lines().find_map(|line| serde_json::from_str::<Move>(line).ok());
        let mut moved = match told {
            Some(moved) if output.code == 0 && moved.state == MoveState::Done => moved,
            _ if output.code == 3 => return Err(Failure::Refused(output.stderr.trim().to_owned())),
            _ => {
                let said = format!(
                    "{} ended with {}: {}{}",
                    command.join(" "),
                    output.code,
                    output.stdout,
                    output.stderr
                );
                return Err(Failure::Failed(io::Error::other(said)));
            }
        };
        self.at = 1 - self.at;
        let us = self.outage_us()?;
        let at_us = moved.summary.total_us.unwrap_or(0);
        moved.events.push(Event { at_us, what: What::Outage { us } });
        moved.summary = ferry_model::event::summary(&moved.events);
        Ok(moved)
    }

    /// The longest time that the client waited since its last mark. Replies must flow again before that is known: the client's
    /// last request may be retried long after the workload runs.
    fn outage_us(&mut self) -> Result<u64, Failure> {
        let (end, mut gap_us, mut first) = (Instant::now() + REPLIES_MAX, 0, true);
        loop {
            let seen: Seen = serde_json::from_str(&self.client.tell("mark")?)?;
            if let Some(broken) = seen.broken {
                let said = format!("the client's connection broke: {broken}");
                return Err(Failure::Failed(io::Error::other(said)));
            }
            self.count(seen.errors)?;
            gap_us = gap_us.max(seen.gap_us);
            // The gap is counted by the reply that ends it. Those in the first answer were before the pause.
            if seen.replies >= REPLIES_CALM && !first {
                return Ok(gap_us);
            }
            first = false;
            std::thread::sleep(CALM);
            if Instant::now() > end {
                return Err(Failure::Failed(io::Error::other("the writer answers no more")));
            }
        }
    }

    /// Has the writer look at every byte.
    ///
    /// # Errors
    /// One is wrong.
    pub fn verify(&mut self) -> Result<(), Failure> {
        let errors = self.client.tell("verify")?.parse()?;
        self.count(errors)
    }

    fn count(&mut self, errors: u64) -> Result<(), Failure> {
        if errors > self.errors {
            return Err(Failure::Failed(io::Error::other(format!(
                "{} pages are wrong after a move",
                errors - self.errors
            ))));
        }
        Ok(())
    }
}
