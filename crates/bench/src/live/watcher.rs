//! Whoever watches the workload from the third host: a program there with open connections that knows what every reply must be. For the writer
//! that is this bench's own client, for redis the demo's verifying clients.

use super::client::Seen;
use super::stage::{ADDRESS, Failure, PROGRAM, Subject};
use super::writer::PORT;
use crate::stalls::Span;
use ferry_lab::{Dialogue, FERRY, Host};
use serde::Deserialize;
use std::io;
use std::time::Duration;

/// How long it may take to answer: memory is filled before the first answer and verified before the last.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// Keys in a MiB of redis' values, as the clients make them.
pub const KEYS_PER_MIB: u64 = 256;

/// The port of redis.
pub const REDIS_PORT: u16 = 6380;

/// The program on the third host.
pub enum Watcher {
    /// One connection to the writer.
    Writer(Dialogue),
    /// Two dozen connections to redis.
    Redis(Dialogue),
}

/// What was seen since the last mark.
#[derive(Clone, Debug, Default)]
pub struct Glance {
    /// Replies, each of them right.
    pub replies: u64,
    /// The longest wait for one, microseconds.
    pub gap_us: u64,
    /// When clients waited for more than some milliseconds.
    pub waits: Vec<Span>,
}

/// What the demo's clients say, as far as it counts here.
#[derive(Default, Deserialize)]
struct Told {
    replies: u64,
    replies_lost: u64,
    replies_wrong: u64,
    replies_doubled: u64,
    connections_broken: u64,
    outage_ms: f64,
    #[serde(default)]
    waits: Vec<Span>,
    #[serde(default)]
    faults: Vec<String>,
}

impl Watcher {
    /// Starts it on `host`; returns when the workload answers and its memory is full.
    ///
    /// # Errors
    /// It cannot be started, or is not answered.
    pub fn start(host: &Host, subject: &Subject) -> Result<Self, Failure> {
        let (mut watcher, ready) = match subject {
            Subject::Writer { .. } | Subject::Strict { .. } | Subject::Returning { .. } => {
                let connect = format!("{ADDRESS}:{PORT}");
                let mut line = Dialogue::start(host, &[PROGRAM, "--client", &connect], ANSWER_MAX)?;
                let ready = line.hear()?;
                (Self::Writer(line), ready)
            }
            Subject::Redis { mib } => {
                let (connect, keys) = (format!("{ADDRESS}:{REDIS_PORT}"), (mib * KEYS_PER_MIB).to_string());
                let command = [FERRY, "kv-client", "--redis", "--connect", &connect, "--keys", &keys];
                let mut line = Dialogue::start(host, &command, ANSWER_MAX)?;
                let ready = line.hear()?;
                (Self::Redis(line), ready)
            }
        };
        if ready != "ready" {
            return Err(failed(format!("the client said {ready:?}")));
        }
        // What was waited for while memory was filled counts for nobody.
        watcher.mark()?;
        Ok(watcher)
    }

    /// What was seen since the last mark.
    ///
    /// # Errors
    /// A reply was wrong, lost or came twice, a connection broke, or the client is gone.
    pub fn mark(&mut self) -> Result<Glance, Failure> {
        match self {
            Self::Writer(line) => {
                let seen: Seen = serde_json::from_str(&line.tell("mark")?)?;
                if let Some(broken) = seen.broken {
                    return Err(failed(format!("the client's connection broke: {broken}")));
                }
                right(seen.errors)?;
                Ok(Glance { replies: seen.replies, gap_us: seen.gap_us, waits: seen.waits })
            }
            Self::Redis(line) => glance(&line.tell("mark")?),
        }
    }

    /// Pages that the writer has written, in all.
    ///
    /// # Errors
    /// It does not answer, or it is redis that is watched.
    pub fn written(&mut self) -> Result<u64, Failure> {
        match self {
            Self::Writer(line) => Ok(line.tell("written")?.parse()?),
            Self::Redis(_) => Err(failed("redis does not count pages".to_owned())),
        }
    }

    /// Has every byte that the workload holds looked at, and ends the client.
    ///
    /// # Errors
    /// One is wrong.
    pub fn verify(self) -> Result<(), Failure> {
        match self {
            Self::Writer(mut line) => right(line.tell("verify")?.parse()?),
            // It says what it saw since the beginning, this time after it has read every key.
            Self::Redis(mut line) => glance(&line.tell("stop")?).map(drop),
        }
    }
}

fn glance(line: &str) -> Result<Glance, Failure> {
    let told: Told = serde_json::from_str(line)?;
    let bad = told.replies_lost + told.replies_wrong + told.replies_doubled + told.connections_broken;
    if bad > 0 {
        return Err(failed(format!(
            "the clients saw {} replies lost, {} wrong, {} doubled, {} connections broken: {}",
            told.replies_lost,
            told.replies_wrong,
            told.replies_doubled,
            told.connections_broken,
            told.faults.join("; ")
        )));
    }
    Ok(Glance { replies: told.replies, gap_us: (told.outage_ms * 1e3) as u64, waits: told.waits })
}

fn right(errors: u64) -> Result<(), Failure> {
    if errors == 0 { Ok(()) } else { Err(failed(format!("{errors} pages are wrong after a move"))) }
}

fn failed(what: String) -> Failure {
    Failure::Failed(io::Error::other(what))
}
