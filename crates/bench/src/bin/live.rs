//! `cargo xtask bench live`: moves of a workload that writes and checks itself, between two lab hosts, timed by a client with an
//! open connection, and what bounds them, in one run.
//!
//! What this version refuses, or this machine has no memory for, has no row and is named: absent is not zero.

use clap::Parser;
use ferry_bench::live::table::{Bench, Found, Group, RATE, TABLE};
use ferry_bench::live::{client, plots, slowdown, writer};
use ferry_bench::machine::Machine;
use ferry_bench::report::Report;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Moves of a writing workload between two lab hosts, timed by a client, beside what bounds them
#[derive(Parser)]
#[command(name = "live")]
struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Which rows; all of the table unless told
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = TABLE)]
    rows: Vec<Group>,
    /// Moves of each sort; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Sizes of the writer's memory, MiB; the largest is that of the idle one
    #[arg(long, value_delimiter = ',', default_values_t = [1024, 4096, 8192], value_parser = mib())]
    sizes: Vec<u64>,
    /// Pages written in a second
    #[arg(long, default_value_t = RATE)]
    rate: u64,
    /// Size of the first round that is compared with a bare pipeline, MiB
    #[arg(long, default_value_t = 1024, value_parser = mib())]
    first_round_size: u64,
    /// Size of the writer that is faster than the link, MiB
    #[arg(long, default_value_t = 1024, value_parser = mib())]
    slow_link_size: u64,
    /// The values of redis, MiB
    #[arg(long, default_value_t = 2048, value_parser = mib())]
    redis_size: u64,
    /// More options for every `ferry move`, separated by spaces
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    options: String,
    /// Write each move as JSON into this directory, for `ferry moves report --of`
    #[arg(long, value_name = "DIR")]
    moves: Option<PathBuf>,
    /// Draw the figures as SVG into this directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Measure nothing: draw and print what an earlier run told as JSON
    #[arg(long, value_name = "FILE")]
    of: Option<PathBuf>,
    /// Be the workload
    #[arg(long, hide = true)]
    writer: bool,
    /// What it could not write in time it does not write
    #[arg(long, hide = true)]
    strict: bool,
    /// Be the workload of the slowdown
    #[arg(long, hide = true)]
    work: bool,
    #[arg(long, hide = true, default_value_t = 0)]
    bytes: u64,
    /// Be the client of the workload at this address
    #[arg(long, hide = true)]
    client: Option<String>,
}

fn mib() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=1 << 20)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.client {
        Some(address) => client::run(address),
        None if args.writer => writer::run(args.bytes, args.rate, args.strict),
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
    if let Some(dir) = &args.plots {
        // Before a quarter of an hour is spent on measuring.
        std::fs::create_dir_all(dir)?;
    }
    let (report, failed) = match &args.of {
        Some(path) => (serde_json::from_slice(&std::fs::read(path)?)?, None),
        None => measure(args),
    };
    if let Some(dir) = &args.plots {
        for (name, picture) in plots::draw(&report) {
            std::fs::write(dir.join(name), picture)?;
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    failed.map_or(Ok(()), Err)
}

/// Everything that was asked for; what was measured until then, if something failed.
fn measure(args: &Args) -> (Report, Option<io::Error>) {
    let machine = Machine::here();
    let bench = Bench {
        rounds: args.rounds as usize,
        sizes: args.sizes.clone(),
        rate: args.rate,
        first_round_mib: args.first_round_size,
        slow_link_mib: args.slow_link_size,
        redis_mib: args.redis_size,
        options: args.options.split_whitespace().map(str::to_owned).collect(),
        moves: args.moves.clone(),
    };
    let mut found = Found::default();
    let mut failed = None;
    for group in &args.rows {
        if let Err(error) = bench.measure(*group, &mut found) {
            // The others are measured all the same: a run takes a quarter of an hour.
            eprintln!("bench: {error}");
            found.skipped.push(format!("{group:?}: failed"));
            failed = Some(io::Error::other("a group of rows failed"));
        }
    }
    let report = Report { bench: "live".to_owned(), machine, rows: found.rows, skipped: found.skipped };
    (report, failed)
}
