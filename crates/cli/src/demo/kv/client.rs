//! The clients: many connections in one process. They are told on standard input: `mark` prints what was seen since the last
//! mark, `stop` makes them verify every key once more and prints the sums.

use super::connection::{Connection, Plan, lock};
use super::dialect::{Dialect, Own, Redis};
use super::report::Report;
use ferry_model::error::{Error, Kind, Result};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

/// How long the server may take to come up.
const SERVER_MAX: Duration = Duration::from_secs(60);

/// Verifying clients for the demo's server
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[arg(long)]
    connect: SocketAddr,
    /// Number of keys that the server holds
    #[arg(long, default_value_t = 65_536)]
    keys: u64,
    /// Number of connections, one of which asks every millisecond
    #[arg(long, default_value_t = 24)]
    connections: u64,
    /// It is a redis server
    #[arg(long)]
    redis: bool,
}

/// Connects, says `ready`, works, and obeys standard input until `stop` or its end.
pub fn run(args: Args) -> Result<ExitCode> {
    let args = &args;
    let reports: Vec<Mutex<Report>> = (0..args.connections).map(|_| Mutex::default()).collect();
    let stop = AtomicBool::new(false);
    let ready = Barrier::new(args.connections as usize + 1);
    let sums = std::thread::scope(|scope| {
        for (number, report) in (0..args.connections).zip(&reports) {
            let (stop, ready) = (&stop, &ready);
            scope.spawn(move || {
                let connected = connect(args, number, report);
                ready.wait();
                match connected {
                    Ok(mut connection) => connection.work(&|| stop.load(Ordering::Relaxed)),
                    Err(error) => broken(report, &error),
                }
            });
        }
        ready.wait();
        say("ready")?;
        obey(&reports, &stop)
    })?;
    let mut all = sums;
    reports.iter().for_each(|report| all.add(&lock(report)));
    say_json(&all)?;
    Ok(ExitCode::SUCCESS)
}

fn connect<'a>(args: &Args, number: u64, report: &'a Mutex<Report>) -> io::Result<Connection<'a>> {
    let deadline = Instant::now() + SERVER_MAX;
    let stream = loop {
        match TcpStream::connect_timeout(&args.connect, Duration::from_secs(1)) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let dialect: Box<dyn Dialect> =
        if args.redis { Box::new(Redis::new(stream)?) } else { Box::new(Own::new(stream)?) };
    let mut connection = Connection::new(plan(number, args), dialect, report);
    if args.redis {
        connection.fill()?;
    }
    Ok(connection)
}

/// The first connection asks every millisecond, one at a time: the outage is read off it. Of the others every fourth sends
/// several at once before it takes a reply, so that there is data in both directions at the moment of the freeze.
fn plan(number: u64, args: &Args) -> Plan {
    let (spacing, burst) = match number {
        0 => (Duration::from_millis(1), 1),
        n if n % 4 == 0 => (Duration::from_millis(64), 8),
        _ => (Duration::from_millis(16), 1),
    };
    Plan { number, of: args.connections, keys: args.keys, spacing, burst }
}

/// Reads commands. Gives the sums up to the last mark.
fn obey(reports: &[Mutex<Report>], stop: &AtomicBool) -> Result<Report> {
    let mut sums = Report::default();
    for line in io::stdin().lines() {
        match line.as_deref() {
            Ok("mark") => {
                let mut since = Report::default();
                // The connections stay counted where they are.
                for report in reports {
                    let mut report = lock(report);
                    let connections = report.connections;
                    since.add(&std::mem::take(&mut report));
                    report.connections = connections;
                }
                say_json(&since)?;
                since.connections = 0;
                sums.add(&since);
            }
            _ => break,
        }
    }
    stop.store(true, Ordering::Relaxed);
    Ok(sums)
}

fn broken(report: &Mutex<Report>, error: &io::Error) {
    let mut report = lock(report);
    report.connections_broken += 1;
    report.fault(format!("not connected: {error}"));
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    said.map_err(|error| Error::from_source(Kind::Unable, &error).context("Nobody listens to the clients"))
}

fn say_json(report: &Report) -> Result<()> {
    say(&serde_json::to_string(report).unwrap_or_default())
}
