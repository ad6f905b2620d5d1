//! What it costs a workload to be tracked while nothing is sent: a program computes as fast as it can and writes to so many pages a
//! second meanwhile; it is scanned every 100 ms, then not, in turns, and the work that it does in each turn is compared.
//!
//! Seconds are those of the processor's time that it had: faults are part of that, and what else runs on the machine is not.

use super::writer::Pages;
use ferry_transfer::engine::TrackedSpace as _;
use ferry_transfer::linux::TaskTracker;
use ferry_transfer::space::SpaceId;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two scans, as between two rounds that are short.
const SCAN_EVERY: Duration = Duration::from_millis(100);

/// Length of one turn, in the processor's time.
const TURN: Duration = Duration::from_secs(2);

/// The program: for each line on standard input works for that many milliseconds of its processor's time and prints how much it did. Its first line is the number
/// of a userfaultfd, which it has opened and keeps: whoever takes it tracks by it.
///
/// # Errors
/// There is no userfaultfd here, or not the memory.
pub fn work(bytes: u64, rate: u64) -> io::Result<()> {
    let mut pages = Pages::new((bytes as usize / super::writer::PAGE).max(1))?;
    let mut held = Some(ferry_sys::userfaultfd::open()?);
    let mut out = io::stdout();
    writeln!(out, "{}", held.as_ref().map_or(-1, |fd| fd.as_raw_fd()))?;
    for line in io::stdin().lines() {
        let line = line?;
        let Ok(ms) = line.parse() else {
            // Only the tracker holds it from here on.
            held = None;
            continue;
        };
        writeln!(out, "{}", one_turn(&mut pages, rate, Duration::from_millis(ms)))?;
    }
    drop(held);
    Ok(())
}

/// Units of work done in `time`, beside writes to `rate` pages a second.
fn one_turn(pages: &mut Pages, rate: u64, time: Duration) -> u64 {
    let began = own_time();
    let (mut units, mut written, mut value) = (0, 0, 1_u64);
    loop {
        let elapsed = own_time().saturating_sub(began);
        if elapsed >= time {
            return if value == 0 { 0 } else { units };
        }
        let due = (elapsed.as_secs_f64() * rate as f64) as u64;
        for _ in written..due {
            pages.write_one();
        }
        written = due;
        for _ in 0..2_000 {
            value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
        units += 1;
    }
}

/// The processor's time that this thread has had.
fn own_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

struct Worker {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts this program again as the workload.
    fn start(bytes: u64, rate: u64) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--work")
            .args(["--bytes", &bytes.to_string(), "--rate", &rate.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let missing = || io::Error::other("a worker without pipes");
        let to = child.stdin.take().ok_or_else(missing)?;
        let from = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        Ok(Self { child, to, from })
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        line.trim().parse().map_err(|_| io::Error::other(format!("the worker said {line:?}")))
    }

    fn begin_turn(&mut self) -> io::Result<()> {
        writeln!(self.to, "{}", TURN.as_millis())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Percent by which it does less when it is tracked, one sample for each pair of turns.
///
/// # Errors
/// It cannot be tracked here.
pub fn measure(bytes: u64, rate: u64, rounds: usize) -> io::Result<Vec<f64>> {
    let mut samples = Vec::new();
    for round in 0..rounds {
        let mut worker = Worker::start(bytes, rate)?;
        let there = worker.number()?;
        let pid = Pid::from_child(&worker.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let userfaultfd = pidfd_getfd(&pidfd, there as i32, PidfdGetfdFlags::empty())?;
        writeln!(worker.to, "close yours")?;
        // Once for nothing: its memory and the processor are warm for both.
        worker.begin_turn()?;
        worker.number()?;
        worker.begin_turn()?;
        let alone = worker.number()? as f64;
        let mut tracker = TaskTracker::new(SpaceId(0), pid.as_raw_nonzero().get(), userfaultfd)?;
        tracker.arm()?;
        tracker.scan()?;
        worker.begin_turn()?;
        let over = AtomicBool::new(false);
        let (tracked, dirty) = std::thread::scope(|scope| {
            let answered = scope.spawn(|| {
                let tracked = worker.number();
                over.store(true, Ordering::Relaxed);
                tracked
            });
            let mut dirty = 0;
            let mut scanned = Ok(());
            while !over.load(Ordering::Relaxed) && scanned.is_ok() {
                std::thread::sleep(SCAN_EVERY);
                scanned = tracker.scan().map(|found| dirty += found.dirty.bytes());
            }
            let tracked =
                answered.join().map_err(|_| io::Error::other("the reader of the worker panicked"))??;
            scanned.map(|()| (tracked as f64, dirty))
        })?;
        tracker.disarm()?;
        if dirty == 0 {
            return Err(io::Error::other(format!(
                "nothing was found dirty in round {round}: it was not tracked"
            )));
        }
        samples.push((1.0 - tracked / alone.max(1.0)) * 100.0);
    }
    Ok(samples)
}
