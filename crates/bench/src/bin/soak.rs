//! `cargo xtask soak live`: a loaded redis moved back and forth, a thousand times unless told, between two lab hosts.

use clap::Parser;
use ferry_bench::live::soak::{self, Plan, Tally};
use ferry_bench::machine::Machine;
use ferry_bench::report::Report;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// A loaded redis moved back and forth between two lab hosts, every reply verified
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    /// Moves in all, those in the summary included
    #[arg(long, default_value_t = 1000)]
    moves: usize,
    /// The values of redis, MiB
    #[arg(long, default_value_t = 64)]
    size: u64,
    /// Methods, as of `ferry move`, one of which is drawn for each move
    #[arg(long, value_delimiter = ',', default_values_t = ["pre-copy".to_owned(), "auto".to_owned()])]
    methods: Vec<String>,
    /// Draws the options of each move and how long it works in between
    #[arg(long, default_value = "ferry")]
    seed: String,
    /// Keep what came of the moves in this file, and go on with it if it is there
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Say nothing about single moves that went well
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match soak(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn soak(args: &Args) -> io::Result<()> {
    let machine = Machine::here();
    let mut tally = match &args.summary {
        Some(path) => Tally::load(path)?,
        None => Tally::default(),
    };
    let plan =
        Plan { moves: args.moves, mib: args.size, methods: args.methods.clone(), seed: args.seed.clone() };
    let mut failed = tally.failures.len();
    let ended = soak::run(&plan, &mut tally, |tally, line| {
        if let Some(path) = &args.summary {
            tally.save(path)?;
        }
        if !args.quiet || tally.failures.len() > failed {
            failed = tally.failures.len();
            writeln!(io::stderr(), "soak: {line}")?;
        }
        Ok(())
    });
    let failures = tally.failures.len();
    let report = Report { bench: "soak".to_owned(), machine, rows: tally.rows(), skipped: Vec::new() };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    ended.map_err(|failure| io::Error::other(failure.to_string()))?;
    if failures > 0 {
        return Err(io::Error::other(format!("{failures} of {} moves failed", tally.moves())));
    }
    Ok(())
}
