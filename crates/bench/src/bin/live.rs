//! `cargo xtask bench live`: moves of a workload that writes and checks itself, between two lab hosts, timed by a client with an
//! open connection.
//!
//! A method that this version refuses has no row: absent is not zero.

use clap::Parser;
use ferry_bench::live::stage::{Failure, Stage, Subject};
use ferry_bench::live::{client, first_round, slowdown, writer};
use ferry_bench::machine::Machine;
use ferry_bench::report::{Report, Row};
use ferry_model::api::Move;
use ferry_model::event::Cause;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Moves of a writing workload between two lab hosts, timed by a client
#[derive(Parser)]
#[command(name = "live")]
struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Moves of each sort; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Sizes of memory, MiB
    #[arg(long, value_delimiter = ',', default_values_t = [1024, 4096, 8192])]
    sizes: Vec<u64>,
    /// Methods, as of `ferry move`
    #[arg(long, value_delimiter = ',', default_values_t = ["pre-copy".to_owned(), "stop-and-copy".to_owned()])]
    methods: Vec<String>,
    /// Pages written in a second
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Leave out what tracking alone costs
    #[arg(long)]
    no_slowdown: bool,
    /// Only compare a first round with a bare pipeline
    #[arg(long)]
    first_round: bool,
    /// More options for every `ferry move`, separated by spaces
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    options: String,
    /// Write each move as JSON into this directory, for `ferry moves report --of`
    #[arg(long, value_name = "DIR")]
    moves: Option<PathBuf>,
    /// Be the workload
    #[arg(long, hide = true)]
    writer: bool,
    /// Be the workload of the slowdown
    #[arg(long, hide = true)]
    work: bool,
    #[arg(long, hide = true, default_value_t = 0)]
    bytes: u64,
    /// Be the client of the workload at this address
    #[arg(long, hide = true)]
    client: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.client {
        Some(address) => client::run(address),
        None if args.writer => writer::run(args.bytes, args.rate),
        None if args.work => slowdown::work(args.bytes, args.rate),
        None => bench(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> io::Result<()> {
    let machine = Machine::here();
    let mut rows = Vec::new();
    if !args.no_slowdown && !args.first_round {
        let samples = slowdown::measure(1 << 30, args.rate, args.rounds)?;
        let name = format!("{} pages/s, tracked and nothing sent: less work done", args.rate);
        rows.push(Row::new(name, "%", samples).at_most(5.0));
    }
    if args.first_round {
        rows.extend(first_round::measure(1024, args.rounds)?);
    }
    let methods = if args.first_round { &[] } else { args.methods.as_slice() };
    for method in methods {
        let mut outages = Vec::new();
        for size in &args.sizes {
            match moves(args, method, *size) {
                Ok(moves) => {
                    let samples = Samples::of(&moves);
                    outages.push(ferry_bench::report::median(&samples.outage));
                    rows.extend(samples.rows(method, *size, args.rate));
                }
                Err(Failure::Refused(why)) => {
                    eprintln!("bench: no row for {method}: {why}");
                    break;
                }
                Err(Failure::Failed(error)) => return Err(error),
            }
        }
        let most = outages.iter().copied().fold(0.0, f64::max);
        let least = outages.iter().copied().fold(f64::INFINITY, f64::min);
        if method == "pre-copy" && outages.len() > 1 && least > 0.0 {
            let name = format!("{method}: largest outage of any size to the smallest");
            rows.push(Row::new(name, "times", vec![most / least]).at_most(1.3));
        }
    }
    let report = Report { bench: "live", machine, rows };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

/// There and back, as often as asked; in the end every byte is looked at.
fn moves(args: &Args, method: &str, mib: u64) -> Result<Vec<Move>, Failure> {
    let mut stage = Stage::set(&Subject::Writer { bytes: mib << 20, rate: args.rate })?;
    let options: Vec<String> =
        ["--method", method].into_iter().chain(args.options.split_whitespace()).map(str::to_owned).collect();
    let mut moves = Vec::new();
    for number in 0..args.rounds {
        let moved = stage.carry(&options)?;
        if let Some(dir) = &args.moves {
            let text = serde_json::to_vec(&moved)?;
            std::fs::write(dir.join(format!("{method}-{mib}-{number}.json")), text)?;
        }
        moves.push(moved);
    }
    stage.end()?;
    Ok(moves)
}

/// One size and method, milliseconds but where said.
#[derive(Default)]
struct Samples {
    outage: Vec<f64>,
    downtime: Vec<f64>,
    beyond_memory: Vec<f64>,
    predicted: Vec<f64>,
    total: Vec<f64>,
    rounds: Vec<f64>,
    /// MiB.
    in_pause: Vec<f64>,
    /// MiB in a second.
    first_round: Vec<f64>,
}

impl Samples {
    fn of(moves: &[Move]) -> Self {
        let mut samples = Self::default();
        let ms = |us: u64| us as f64 / 1e3;
        for moved in moves {
            let sums = &moved.summary;
            let memory =
                sums.spent.iter().find(|spent| spent.cause == Cause::Memory).map_or(0, |spent| spent.us);
            samples.outage.extend(sums.outage_us.map(ms));
            samples.downtime.extend(sums.downtime_us.map(ms));
            samples.beyond_memory.extend(sums.downtime_us.map(|us| ms(us.saturating_sub(memory))));
            samples.predicted.extend(sums.predicted_downtime_us.map(ms));
            samples.total.extend(sums.total_us.map(ms));
            samples.in_pause.push(sums.sent_in_pause_bytes as f64 / f64::from(1 << 20));
            if sums.rounds > 0 {
                samples.rounds.push(f64::from(sums.rounds));
            }
            let first = moved.events.iter().find_map(|event| match &event.what {
                ferry_model::event::What::Round(done) => done.round.bytes_per_s(),
                _ => None,
            });
            samples.first_round.extend(first.map(|rate| rate as f64 / f64::from(1 << 20)));
        }
        samples
    }

    fn rows(self, method: &str, mib: u64, rate: u64) -> Vec<Row> {
        let name = |what: &str| format!("{method}, {mib} MiB, {rate} pages/s: {what}");
        let live = method == "pre-copy";
        let outage = Row::new(name("client outage"), "ms", self.outage);
        let beyond = Row::new(name("stood still beyond its memory"), "ms", self.beyond_memory);
        let mut rows = vec![
            if live { outage.at_most(15.0) } else { outage },
            Row::new(name("stood still"), "ms", self.downtime),
            if live { beyond.at_most(5.0) } else { beyond },
            Row::new(name("total"), "ms", self.total),
            Row::new(name("sent while it stood still"), "MiB", self.in_pause),
        ];
        let more = [
            ("stood still, as expected", "ms", self.predicted),
            ("rounds", "count", self.rounds),
            ("first round", "MiB/s", self.first_round),
        ];
        // What this method has not, or did not tell, has no row.
        let there = more.into_iter().filter(|(_, _, samples)| !samples.is_empty());
        rows.extend(there.map(|(what, unit, samples)| Row::new(name(what), unit, samples)));
        rows
    }
}
