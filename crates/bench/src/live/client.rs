//! The client: one open connection, a request every millisecond, and the longest time between two replies. It is told on standard
//! input: `mark` prints what it saw since the last mark, `verify` has the writer look at all of its memory, and
//! `written` prints how many pages it has written.

use crate::stalls::{Span, now_us};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two requests.
const SPACING: Duration = Duration::from_millis(1);

/// How long the writer may take to come up: it fills its memory first.
const UP_MAX: Duration = Duration::from_secs(120);

/// Shorter times between two replies are not told one by one, microseconds.
const WAIT_US: u64 = 5_000;

/// No more are told.
const WAITS_MAX: usize = 1000;

/// What it saw since the last mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Replies.
    pub replies: u64,
    /// Longest time between two of them, microseconds.
    pub gap_us: u64,
    /// Those of 5 ms and more, at most a thousand.
    #[serde(default)]
    pub waits: Vec<Span>,
    /// Errors that the writer had found by then, in all.
    pub errors: u64,
    /// Why the connection ended, if it did.
    pub broken: Option<String>,
}

/// Connects, says `ready`, and obeys standard input until its end.
///
/// # Errors
/// It cannot connect, or nobody listens to it.
pub fn run(address: &str) -> io::Result<()> {
    let stream = connect(address)?;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let watched = seen.clone();
    std::thread::spawn(move || {
        if let Err(error) = watch(&stream, &watched) {
            watched.lock().unwrap_or_else(PoisonError::into_inner).broken = Some(error.to_string());
        }
    });
    say("ready")?;
    for line in io::stdin().lines() {
        match line?.as_str() {
            "mark" => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let (errors, broken) = (seen.errors, seen.broken.clone());
                let told = std::mem::replace(&mut *seen, Seen { errors, broken, ..Seen::default() });
                drop(seen);
                say(&serde_json::to_string(&told)?)?;
            }
            "verify" => say(&ask_apart(address, "v")?.to_string())?,
            "written" => say(&ask_apart(address, "w")?.to_string())?,
            _ => break,
        }
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let end = Instant::now() + UP_MAX;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn watch(stream: &TcpStream, seen: &Mutex<Seen>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut last, mut last_us) = (Instant::now(), now_us());
    loop {
        let sent = Instant::now();
        let errors = ask(stream, &mut reader, "p")?;
        let now = Instant::now();
        let gap = u64::try_from((now - last).as_micros()).unwrap_or(u64::MAX);
        last = now;
        let wait = Span::since(std::mem::replace(&mut last_us, now_us()));
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.replies += 1;
            seen.gap_us = seen.gap_us.max(gap);
            seen.errors = errors;
            if gap >= WAIT_US && seen.waits.len() < WAITS_MAX {
                seen.waits.push(wait);
            }
        }
        std::thread::sleep(SPACING.saturating_sub(sent.elapsed()));
    }
}

/// Over a connection of its own: the other one is timed.
fn ask_apart(address: &str, what: &str) -> io::Result<u64> {
    let stream = connect(address)?;
    ask(&stream, &mut BufReader::new(&stream), what)
}

fn ask(mut stream: &TcpStream, reader: &mut BufReader<&TcpStream>, what: &str) -> io::Result<u64> {
    stream.write_all(format!("{what}\n").as_bytes())?;
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::Error::other("the writer closed the connection"));
    }
    line.trim().parse().map_err(io::Error::other)
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())
}
