//! `cargo xtask bench process`: checkpoints and restores of processes, each beside its limit, alternating.
//!
//! Checkpoint and restore run in a fresh process each, as `ferry checkpoint` and `ferry restore` do. Times are those that
//! Ferry reports; that nothing was left out is checked by the subject, which sums its memory up after each restore.

use clap::Parser;
use ferry_bench::limit::{self, Source};
use ferry_bench::machine::Machine;
use ferry_bench::report::{Report, Row};
use ferry_bench::subject::{self, Shape, Subject};
use ferry_session::imaging::{checkpoint, restore};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Checkpoints and restores of processes, each beside its limit
#[derive(Parser)]
#[command(name = "process")]
struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Rounds of each measurement; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Sizes of memory, MiB
    #[arg(long, value_delimiter = ',', default_values_t = [16, 256, 1024, 4096])]
    sizes: Vec<u64>,
    /// Threads that copy memory
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Where images and files of the limits are put: a tmpfs
    #[arg(long, default_value = "/dev/shm")]
    tmpfs: PathBuf,
    /// Put memory into huge pages, on both sides
    #[arg(long)]
    huge: bool,
    /// Be the subject, with files in this directory
    #[arg(long, hide = true)]
    subject: Option<PathBuf>,
    #[arg(long, hide = true, default_value_t = 0)]
    bytes: u64,
    #[arg(long, hide = true, default_value_t = 0)]
    mappings: usize,
    /// Checkpoint this process to the directory and print what was done
    #[arg(long, hide = true)]
    checkpoint: Option<i32>,
    /// Restore the image in this directory, detached, and print what was done
    #[arg(long, hide = true)]
    restore: bool,
    #[arg(long, hide = true)]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (&args.subject, &args.checkpoint, &args.dir) {
        (Some(dir), ..) => {
            let shape =
                Shape { bytes: args.bytes, threads: args.threads, mappings: args.mappings, huge: args.huge };
            subject::run(shape, dir)
        }
        (_, Some(pid), Some(dir)) => run_checkpoint(*pid, dir, args.threads),
        (_, _, Some(dir)) if args.restore => run_restore(dir, args.threads),
        _ => bench(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_checkpoint(pid: i32, dir: &Path, threads: usize) -> io::Result<()> {
    let state = dir.with_file_name("state");
    let request = checkpoint::Request { pid, dir: dir.to_owned(), state, leave_running: false, threads };
    let report = checkpoint::checkpoint(&request).map_err(told)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn run_restore(dir: &Path, threads: usize) -> io::Result<()> {
    let request = restore::Request {
        dir: dir.to_owned(),
        state: dir.with_file_name("state"),
        same_pids: true,
        as_clone: false,
        trust_image: false,
        threads,
        detach: true,
        pidfile: None,
    };
    let running = restore::restore(&request).map_err(told)?;
    println!("{}", serde_json::to_string(&running.report)?);
    Ok(())
}

fn told(error: ferry_model::error::Error) -> io::Error {
    io::Error::other(format!("{error}: {}", error.causes.join(": ")))
}

/// Removes its directory when it goes.
struct Scratch(PathBuf);

impl Scratch {
    fn new(tmpfs: &Path) -> io::Result<Self> {
        let path = tmpfs.join(format!("ferry-bench-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Samples of one shape, milliseconds.
#[derive(Default)]
struct Samples {
    write_limit: Vec<f64>,
    read_limit: Vec<f64>,
    frozen: Vec<f64>,
    state: Vec<f64>,
    batches: Vec<f64>,
    lone: Vec<f64>,
    restored: Vec<f64>,
    restored_rest: Vec<f64>,
    restore_batches: Vec<f64>,
    restore_lone: Vec<f64>,
}

fn bench(args: &Args) -> io::Result<()> {
    let machine = Machine::here();
    let scratch = Scratch::new(&args.tmpfs)?;
    let mut rows = Vec::new();
    for size in &args.sizes {
        let shape = Shape { bytes: size << 20, threads: 1, mappings: 1, huge: args.huge };
        let samples = measure(args, &scratch.0, shape, true)?;
        let (name, peer) = (format!("{size} MiB"), peer(*size));
        rows.push(
            Row::new(format!("checkpoint of {name}: frozen"), "ms", samples.frozen)
                .within(&samples.write_limit, 1.3, 10.0)
                .peer(peer.map(|peer| peer.0)),
        );
        rows.push(
            Row::new(format!("restore of {name}"), "ms", samples.restored)
                .within(&samples.read_limit, 1.3, 10.0)
                .peer(peer.map(|peer| peer.1)),
        );
    }
    let mut small = (0.0, 0.0);
    for mappings in [40, 4000] {
        let shape = Shape { bytes: 64 << 10, threads: 9, mappings, huge: false };
        let samples = measure(args, &scratch.0, shape, false)?;
        let name = format!("9 threads, {mappings} mappings");
        let frozen = Row::new(format!("checkpoint of {name}: frozen"), "ms", samples.frozen);
        let restored = Row::new(format!("restore of {name}"), "ms", samples.restored);
        let few = mappings == 40;
        let bounds = if few { (3.0, 5.0) } else { (small.0 + 15.0, small.1 + 15.0) };
        small = (frozen.value, restored.value);
        rows.push(frozen.at_most(bounds.0).peer(few.then_some(66.0)));
        rows.push(restored.at_most(bounds.1).peer(few.then_some(62.0)));
        rows.push(Row::new(format!("capture of {name}: without memory"), "ms", samples.state));
        rows.push(Row::new(format!("restore of {name}: without memory"), "ms", samples.restored_rest));
        rows.push(Row::new(format!("capture of {name}: batches"), "count", samples.batches));
        rows.push(Row::new(format!("capture of {name}: lone calls"), "count", samples.lone));
        rows.push(Row::new(format!("restore of {name}: batches"), "count", samples.restore_batches));
        rows.push(Row::new(format!("restore of {name}: lone calls"), "count", samples.restore_lone));
    }
    let report = Report { bench: "process".to_owned(), machine, rows, skipped: Vec::new() };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

/// The best peer's times (frozen by a dump, restore), ms, as measured on the machine that the design's facts describe.
fn peer(mib: u64) -> Option<(f64, f64)> {
    match mib {
        1024 => Some((790.0, 930.0)),
        4096 => Some((3288.0, 3450.0)),
        _ => None,
    }
}

fn measure(args: &Args, scratch: &Path, shape: Shape, limits: bool) -> io::Result<Samples> {
    let mut samples = Samples::default();
    let source = limits.then(Source::new);
    let (file, image) = (scratch.join("limit"), scratch.join("image"));
    // Directly before each measurement: a guest that reports free pages gives them back to its host within seconds.
    let warm = || if limits { limit::warm(shape.bytes + (64 << 20)) } else { Ok(()) };
    for _ in 0..args.rounds {
        let mut subject = Subject::start(shape, &scratch.join("subject"))?;
        if let Some(source) = &source {
            warm()?;
            samples.write_limit.push(millis(limit::write(source, &file, shape.bytes)?));
        }
        warm()?;
        let told = again(
            &["--checkpoint", &subject.pid().to_string(), "--threads", &args.threads.to_string()],
            &image,
        )?;
        samples.frozen.push(number(&told, "frozen_us")? / 1e3);
        samples.state.push(number(&told, "state_us")? / 1e3);
        samples.batches.push(number(&told, "batches")?);
        samples.lone.push(number(&told, "lone_calls")?);
        subject.reap()?;
        if limits {
            warm()?;
            samples.read_limit.push(millis(limit::read(&file, shape.huge)?));
            std::fs::remove_file(&file)?;
        }
        warm()?;
        let told = again(&["--restore", "--threads", &args.threads.to_string()], &image)?;
        samples.restored.push(number(&told, "restored_us")? / 1e3);
        samples.restored_rest.push((number(&told, "restored_us")? - number(&told, "memory_us")?) / 1e3);
        samples.restore_batches.push(number(&told, "batches")?);
        samples.restore_lone.push(number(&told, "lone_calls")?);
        // The same process id, now nobody's child here.
        subject.restored(number(&told, "pid")? as i32);
        subject.check()?;
        std::fs::remove_dir_all(&image)?;
    }
    Ok(samples)
}

/// Runs this program again with `args` and reads the JSON that it prints.
fn again(args: &[&str], dir: &Path) -> io::Result<serde_json::Value> {
    let output = Command::new(std::env::current_exe()?).args(args).arg("--dir").arg(dir).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn number(told: &serde_json::Value, name: &str) -> io::Result<f64> {
    told[name].as_f64().ok_or_else(|| io::Error::other(format!("the report has no {name}")))
}

fn millis(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
