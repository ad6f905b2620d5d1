//! Time namespaces: offsets of CLOCK_MONOTONIC and CLOCK_BOOTTIME.
//!
//! Offsets count from the machine's own clocks, also where the writer is in a time namespace itself; a new namespace
//! begins with its maker's offsets. They can be written only until the first process enters.

use rustix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::{fs, io};

const NANOS: i128 = 1_000_000_000;

/// Values, or differences of values, of the two clocks, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_MONOTONIC.
    pub monotonic_ns: i128,
    /// CLOCK_BOOTTIME.
    pub boottime_ns: i128,
}

impl Clocks {
    /// What the clocks show now, here.
    #[must_use]
    pub fn now() -> Self {
        let read = |clock| {
            let time = clock_gettime(clock);
            i128::from(time.tv_sec) * NANOS + i128::from(time.tv_nsec)
        };
        Self { monotonic_ns: read(ClockId::Monotonic), boottime_ns: read(ClockId::Boottime) }
    }

    /// What the clocks show now to the process whose /proc directory is `proc`.
    ///
    /// # Errors
    /// When either process' offsets cannot be read. A kernel without time namespaces is none: all clocks are alike.
    pub fn now_in(proc: &Path) -> io::Result<Self> {
        let (own, theirs) = (offsets(Path::new("/proc/self"))?, offsets(proc)?);
        let now = Self::now();
        Ok(Self {
            monotonic_ns: now.monotonic_ns - own.monotonic_ns + theirs.monotonic_ns,
            boottime_ns: now.boottime_ns - own.boottime_ns + theirs.boottime_ns,
        })
    }
}

/// Offsets of the time namespace in which children of this process are born (its own, unless it has just unshared).
///
/// # Errors
/// When the file cannot be read or understood. A kernel without time namespaces is none: then they are zero.
pub fn offsets(proc: &Path) -> io::Result<Clocks> {
    match fs::read_to_string(proc.join("timens_offsets")) {
        Ok(text) => parse(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "Unexpected timens_offsets")),
        Err(error) if error.kind() == io::ErrorKind::NotFound && proc.exists() => Ok(Clocks::default()),
        Err(error) => Err(error),
    }
}

fn parse(text: &str) -> Option<Clocks> {
    let mut clocks = Clocks::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let clock = fields.next()?;
        let seconds: i64 = fields.next()?.parse().ok()?;
        let nanos: i64 = fields.next()?.parse().ok()?;
        let value = i128::from(seconds) * NANOS + i128::from(nanos);
        match clock {
            "monotonic" | "1" => clocks.monotonic_ns = value,
            "boottime" | "7" => clocks.boottime_ns = value,
            _ => {}
        }
    }
    Some(clocks)
}

/// After `unshare(CLONE_NEWTIME)` and before the first child: sets the new namespace so that its clocks show `wanted`
/// now and go on from there.
///
/// # Errors
/// ERANGE when a clock would be negative or beyond 146 years, EACCES when a process is in the namespace already.
pub fn continue_from(wanted: Clocks) -> io::Result<()> {
    let own = offsets(Path::new("/proc/self"))?;
    let now = Clocks::now();
    let line = |name: &str, own: i128, wanted: i128, now: i128| {
        let offset = own + wanted - now;
        format!("{name} {} {}\n", offset.div_euclid(NANOS), offset.rem_euclid(NANOS))
    };
    let text = line("monotonic", own.monotonic_ns, wanted.monotonic_ns, now.monotonic_ns)
        + &line("boottime", own.boottime_ns, wanted.boottime_ns, now.boottime_ns);
    fs::write("/proc/self/timens_offsets", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::{Forked, exit_now, fork, wait};
    use crate::unshare::{UnshareFlags, unshare};

    /// Runs `check` in a time namespace whose clocks continue from `wanted`.
    fn inside(wanted: Clocks, check: impl FnOnce() -> bool) -> bool {
        let run = || -> io::Result<bool> {
            unshare(UnshareFlags::NEWTIME)?;
            continue_from(wanted)?;
            match fork()? {
                Forked::Child => exit_now(i32::from(!check())),
                Forked::Parent(pid, _) => Ok(wait(pid, true)? == Some((pid, 0))),
            }
        };
        match fork().unwrap() {
            Forked::Child => exit_now(i32::from(!matches!(run(), Ok(true)))),
            Forked::Parent(pid, _) => wait(pid, true).unwrap() == Some((pid, 0)),
        }
    }

    fn near(now: Clocks, wanted: Clocks) -> bool {
        let close = |a: i128, b: i128| (0..2 * NANOS).contains(&(a - b));
        close(now.monotonic_ns, wanted.monotonic_ns) && close(now.boottime_ns, wanted.boottime_ns)
    }

    #[test]
    fn clocks_continue_also_from_within_another_time_namespace() {
        let first = Clocks { monotonic_ns: 5_000_000_000_123, boottime_ns: 9_000_000_000_456 };
        let second = Clocks { monotonic_ns: 77_000_000_000, boottime_ns: 123_000_000_000 };
        assert!(inside(first, move || {
            near(Clocks::now(), first)
                && near(Clocks::now_in(Path::new("/proc/self")).unwrap_or_default(), first)
                && inside(second, move || near(Clocks::now(), second))
        }));
    }
}
