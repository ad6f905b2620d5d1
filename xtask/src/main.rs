//! Tasks of the project, so that nobody has to remember long command lines: `cargo xtask test | bench NAME | soak`.

mod packages;
mod run;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Tasks of the project
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the Debian packages that the tests need, build once, run all tests
    Test(test::Args),
    /// Measure: prints a table, and JSON with --json
    Bench(BenchArgs),
    /// The model checker with its larger bounds, the whole fault walk, then whole demos one after another; or `soak live`
    Soak(SoakArgs),
}

#[derive(clap::Args)]
struct BenchArgs {
    /// What to measure: `process`, `live`
    name: String,
    /// Everything after it goes to the bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(clap::Args)]
struct SoakArgs {
    /// How many demos to run, one after another
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    #[command(subcommand)]
    only: Option<Soak>,
}

#[derive(Subcommand)]
enum Soak {
    /// A loaded redis moved back and forth a thousand times, then each real program ten times there and back
    Live(SoakLiveArgs),
}

#[derive(clap::Args)]
struct SoakLiveArgs {
    /// Leave out the real programs
    #[arg(long)]
    redis_only: bool,
    /// Everything after it goes to the soak of redis: `--moves N`, `--summary FILE`, `--help` for all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

fn main() -> ExitCode {
    let done = match Xtask::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench(&args),
        Task::Soak(SoakArgs { only: Some(Soak::Live(args)), .. }) => soak_live(&args),
        Task::Soak(args) => soak(args.rounds),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Benches are programs: `crates/bench/src/bin/NAME.rs`. All of the workspace is built: some of them start `ferry` itself.
fn bench(args: &BenchArgs) -> Result<(), String> {
    measure(&args.name, &args.rest)
}

fn measure(name: &str, rest: &[String]) -> Result<(), String> {
    run::cargo(&["build", "--quiet", "--release", "--workspace"], &[], &[])?;
    // Beside this program's own profile: `cargo run -p` would build all of it again, with other features.
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = own.ancestors().nth(2).ok_or("the target directory is not found")?;
    run::program(std::process::Command::new(target.join("release").join(name)).args(rest))
}

/// The tests that have more to do than CI has time for, with `FERRY_SOAK`; then demos, each of which checks every reply and that
/// nothing is left behind.
fn soak(rounds: u32) -> Result<(), String> {
    let tests = ["nextest", "run", "--release", "--workspace", "--profile", "soak"];
    let chosen = ["-E", "binary(handover) | binary(crashes) | binary(walk)"];
    run::cargo_with(&[("FERRY_SOAK", "1")], &tests, &chosen, &[])?;
    for round in 1..=rounds {
        eprintln!("xtask: round {round} of {rounds}");
        run::cargo(&["run", "--quiet", "--release"], &["-p", "ferry-cli", "--", "demo", "--json"], &[])
            .map_err(|why| format!("round {round}: {why}"))?;
    }
    Ok(())
}

/// Live moves again and again: what goes wrong once in a hundred is only seen so.
fn soak_live(args: &SoakLiveArgs) -> Result<(), String> {
    measure("soak", &args.rest)?;
    if args.redis_only {
        return Ok(());
    }
    let tests = ["nextest", "run", "--release", "--workspace", "--profile", "soak"];
    run::cargo_with(&[("FERRY_SOAK", "1")], &tests, &["-E", "binary(programs) & test(/live_/)"], &[])
}
