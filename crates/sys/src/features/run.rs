//! Running a probe in a process of its own.

use super::Seen;
use crate::fork::{Forked, exit_now, fork, wait};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::fs::File;
use std::io::{self, Read, Write};

/// Longest time that a probe may take, seconds.
const SECONDS_MAX: i64 = 10;
const ANSWER_BYTES_MAX: u64 = 4096;

/// Runs `probe` in a forked process and gives its answer.
pub(super) fn apart(probe: impl FnOnce() -> Seen) -> Seen {
    try_apart(probe).unwrap_or_else(|error| Err(format!("The probe could not be run: {error}")))
}

fn try_apart(probe: impl FnOnce() -> Seen) -> io::Result<Seen> {
    let (reader, writer) = io::pipe()?;
    let pid = match fork()? {
        Forked::Parent(pid, _) => pid,
        Forked::Child => {
            drop(reader);
            // Whatever it has started in a pid namespace ends with it.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(probe));
            let text = match answer {
                Ok(Ok(text)) => format!("+{text}"),
                Ok(Err(text)) => format!("-{text}"),
                Err(_) => "-The probe failed".into(),
            };
            let _ = File::from(OwnedFd::from(writer)).write_all(text.as_bytes());
            exit_now(0)
        }
    };
    drop(writer);
    let limit = Timespec { tv_sec: SECONDS_MAX, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&limit)).unwrap_or(0);
    let mut text = String::new();
    let read = if ready == 1 { reader.take(ANSWER_BYTES_MAX).read_to_string(&mut text) } else { Ok(0) };
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
    wait(pid, true)?;
    read?;
    Ok(match text.split_at_checked(1) {
        Some(("+", detail)) => Ok(detail.into()),
        Some(("-", detail)) => Err(detail.into()),
        _ if ready == 0 => Err(format!("No answer within {SECONDS_MAX} s")),
        _ => Err("The probe was killed".into()),
    })
}

/// A child that sleeps until it is killed, killed when this value is dropped.
pub(super) struct Sleeper(pub(super) i32);

impl Sleeper {
    pub(super) fn new() -> io::Result<Self> {
        match fork()? {
            Forked::Parent(pid, _) => Ok(Self(pid)),
            Forked::Child => {
                let _ = set_parent_process_death_signal(Some(Signal::KILL));
                loop {
                    std::thread::sleep(std::time::Duration::from_secs(1));
                }
            }
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0) {
            let _ = kill_process(pid, Signal::KILL);
            let _ = wait(self.0, true);
        }
    }
}

/// Runs `work` in a child and says whether it returned true.
pub(super) fn child_says(work: impl FnOnce() -> bool) -> io::Result<bool> {
    match fork()? {
        Forked::Child => exit_now(i32::from(!work())),
        Forked::Parent(pid, _) => Ok(wait(pid, true)? == Some((pid, 0))),
    }
}
