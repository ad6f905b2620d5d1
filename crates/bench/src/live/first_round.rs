//! What a first round reaches beside a bare pipeline: the same memory read, sent over one TLS stream and written into fresh pages, with
//! nothing of Ferry in between.
//!
//! Both run within this process, over TCP on the loopback with the same TLS, one after the other in turns: the cost of reading and
//! writing another address space is the same from within, and no node is in the way. What a scan takes is in the moves of the bench.

use super::tls;
use crate::report::{Row, median};
use crate::subject::fill;
use ferry_sys::mapped::Mapped;
use ferry_sys::process_vm;
use ferry_transfer::access::{SpaceAccess, Via};
use ferry_transfer::engine::{Engine, Filler};
use ferry_transfer::linux::{LinuxSink, StillSpace};
use ferry_transfer::space::{PageSink, Range, SpaceId};
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::rounds::{Receiver, Settings, StreamCarrier};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one call, of both.
const CALL_BYTES: usize = 1 << 20;

/// Times a first round over one and two streams and a bare pipeline in turns, with `mib` of incompressible memory, and with memory of
/// which every other page is zero.
///
/// # Errors
/// There is not so much memory, or no loopback.
pub fn measure(mib: u64, turns: usize) -> io::Result<Vec<Row>> {
    let bytes = (mib << 20) as usize;
    let mut rows = Vec::new();
    let mut memory = Mapped::new(bytes)?;
    fill(&mut memory, 1);
    for half in [false, true] {
        if half {
            memory.chunks_mut(2 * 4096).for_each(|pages| pages[..4096].fill(0));
        }
        let non_zero = if half { bytes / 2 } else { bytes };
        let (mut limit, mut one, mut two) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..turns {
            limit.push(bare(&memory[..non_zero], 1)?.as_secs_f64());
            two.push(round(&memory, 2)?.as_secs_f64());
            one.push(round(&memory, 1)?.as_secs_f64());
        }
        let what = if half { "every other page zero" } else { "random" };
        let rate = |times: &[f64]| times.iter().map(|s| (non_zero >> 20) as f64 / s).collect::<Vec<_>>();
        rows.push(Row::new(format!("first round, {mib} MiB, {what}: bare pipeline"), "MiB/s", rate(&limit)));
        for (streams, times) in [("1 stream", &one), ("2 streams", &two)] {
            let name = |what: &str| format!("first round, {mib} MiB, {what}");
            rows.push(Row::new(name(&format!("{what}, {streams}")), "MiB/s", rate(times)));
            let least = median(&limit);
            let shares = times.iter().map(|time| time / least).collect();
            let share =
                Row::new(name(&format!("{what}, {streams}: time to the bare pipeline's")), "times", shares);
            // 80 % of its throughput.
            rows.push(if streams == "2 streams" { share.at_most(1.25) } else { share });
        }
    }
    Ok(rows)
}

/// The bare pipeline for memory of any size: it reads the same gigabyte again and again, and writes it to where nothing was.
pub struct Pipeline {
    memory: Mapped,
    bytes: usize,
    times: usize,
}

impl Pipeline {
    /// Reads `mib` of incompressible memory `times` times.
    ///
    /// # Errors
    /// There is not so much memory.
    pub fn new(mib: u64, times: u64) -> io::Result<Self> {
        let bytes = (mib << 20) as usize;
        let mut memory = Mapped::new(bytes)?;
        fill(&mut memory, 1);
        Ok(Self { memory, bytes, times: times as usize })
    }

    /// Bytes that a run carries.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.bytes * self.times) as u64
    }

    /// Carries them.
    ///
    /// # Errors
    /// There is no memory for the target, or no loopback.
    pub fn run(&self) -> io::Result<Duration> {
        bare(&self.memory[..self.bytes], self.times)
    }
}

/// Read, one TLS stream, write into fresh pages: `memory` so many times over, each to another place.
fn bare(memory: &[u8], times: usize) -> io::Result<Duration> {
    let pid = own_pid();
    let (mut ours, mut theirs) = tls::pair()?;
    let target = Mapped::new(memory.len() * times)?;
    let (from, to, len) = (memory.as_ptr() as u64, target.as_ptr() as u64, memory.len());
    let begin = Instant::now();
    let writer = std::thread::spawn(move || -> io::Result<()> {
        let mut buffer = vec![0; CALL_BYTES];
        for (at, size) in calls(len, times) {
            let part = &mut buffer[..size];
            theirs.read_exact(part)?;
            whole(process_vm::write(pid, to + at as u64, part)?, part.len())?;
        }
        theirs.write_all(b"k")?;
        theirs.flush()
    });
    let mut buffer = vec![0; CALL_BYTES];
    for (at, size) in calls(len, times) {
        let part = &mut buffer[..size];
        whole(process_vm::read(pid, from + (at % len) as u64, part)?, part.len())?;
        ours.write_all(part)?;
    }
    ours.flush()?;
    ours.read_exact(&mut [0])?;
    let took = begin.elapsed();
    writer.join().map_err(|_| io::Error::other("the writer failed"))??;
    for time in 0..times {
        check(memory, &target[time * len..])?;
    }
    Ok(took)
}

/// Where each call begins in the target and how long it is: none crosses the end of the memory.
fn calls(len: usize, times: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..times).flat_map(move |time| {
        (0..len).step_by(CALL_BYTES).map(move |at| (time * len + at, CALL_BYTES.min(len - at)))
    })
}

/// One round of the engine, until everything is in its place.
fn round(memory: &[u8], streams: usize) -> io::Result<Duration> {
    let target = Mapped::new(memory.len())?;
    let via = Via::Task { pid: own_pid() };
    let access = |start: u64| {
        let ranges = vec![Range { start, len: memory.len() as u64 }];
        SpaceAccess { space: SpaceId(1), via: via.clone(), ranges }
    };
    let start = memory.as_ptr() as u64;
    let to = target.as_ptr() as u64;
    let sink = Arc::new(Shifted { sink: LinuxSink::open(vec![access(to)])?, by: to.wrapping_sub(start) });
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..streams)
        .map(|_| tls::pair().map(|(a, b)| (Box::new(a) as Box<dyn Stream>, Box::new(b) as Box<dyn Stream>)))
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    let receiver = Receiver::begin(theirs, sink)?;
    let mut carrier = StreamCarrier::begin(ours, &Settings::default())?;
    let mut engine = Engine::arm(vec![StillSpace::open(access(start))?]).map_err(|(_, error)| error)?;
    let begin = Instant::now();
    engine.last_round(&mut carrier, &|| false).map_err(io::Error::other)?;
    let took = begin.elapsed();
    let hash = carrier.finish()?;
    if receiver.finish()? != (1, hash) {
        return Err(io::Error::other("what came is not what was sent"));
    }
    check(memory, &target)?;
    Ok(took)
}

/// The same memory elsewhere: source and target are in one address space here.
struct Shifted {
    sink: LinuxSink,
    by: u64,
}

impl Shifted {
    fn there(&self, ranges: &[Range]) -> Vec<Range> {
        ranges.iter().map(|range| Range { start: range.start.wrapping_add(self.by), ..*range }).collect()
    }
}

impl PageSink for Shifted {
    fn write(&self, space: SpaceId, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.sink.write(space, address.wrapping_add(self.by), bytes)
    }

    fn write_ranges(&self, space: SpaceId, ranges: &[Range], bytes: &[u8]) -> io::Result<()> {
        self.sink.write_ranges(space, &self.there(ranges), bytes)
    }
}

impl Filler for Shifted {
    fn zero(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.sink.zero(space, &self.there(ranges))
    }
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(i32::MAX)
}

fn whole(done: usize, wanted: usize) -> io::Result<()> {
    if done == wanted { Ok(()) } else { Err(io::Error::other(format!("{done} bytes of {wanted}"))) }
}

/// What was measured was done.
fn check(memory: &[u8], target: &[u8]) -> io::Result<()> {
    if std::hint::black_box(target)[..memory.len()] == *memory {
        Ok(())
    } else {
        Err(io::Error::other("the copy is not the original"))
    }
}
