//! Threads caught inside of a system call: what they wait for, for how long still, and what they may not notice.
//!
//! The kernel begins most interrupted calls again by itself (-512, -513, -514 in the result register): those are moved as they
//! are. Two kinds need help: calls that answer EINTR to any stop, and calls whose rest the kernel keeps in a restart block
//! (-516), which is lost in a new thread.

use super::seize::SeizedThread;
use crate::records::task::Wait;
use ferry_sys::proc::{self, status};
use ferry_sys::process_vm;
use ferry_sys::ptrace::{self, Registers};
use ferry_sys::schedule;
use minicbor::{Decode, Encode};
use std::collections::HashMap;

/// When a wait with a time-out will be over: kept from one capture to the next, because a wait that was interrupted once hides
/// behind `restart_syscall` with its first arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KnownWait {
    /// Thread, as it sees itself.
    #[n(0)]
    pub tid: i32,
    /// Where it waits.
    #[n(1)]
    pub instruction: u64,
    /// Number of the system call.
    #[n(2)]
    pub call: i64,
    /// When it ends, nanoseconds of this host's CLOCK_BOOTTIME, where it is known.
    #[n(3)]
    pub end_ns: Option<u64>,
}

/// A wait that was seen while the thread was in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observed {
    /// When it went off its processor, nanoseconds of this host's CLOCK_BOOTTIME.
    since_ns: u64,
    /// How often it had gone off its processor by itself, this time included.
    switches: u64,
}

impl Observed {
    /// Whether a thread that is stopped now, and has gone off its processor so often since, is still in this wait. A frozen cgroup
    /// costs one time, a stop under ptrace another; a wait that ended and another that began cost one more.
    pub(super) fn is_of(self, switches: u64, stops: u64) -> bool {
        switches.checked_sub(self.switches).is_some_and(|since| since <= stops)
    }
}

/// Looks which threads of a process are in a wait whose rest only the kernel knows, and since when. Nothing is stopped. To be
/// called before they are frozen: who is frozen begins to wait anew, by all that is to be seen of it.
pub(super) fn observe(pid: i32) -> HashMap<i32, Observed> {
    let mut found = HashMap::new();
    for tid in proc::numbers(&format!("/proc/{pid}/task")).unwrap_or_default() {
        let call = proc::read_path(&format!("/proc/{pid}/task/{tid}/syscall")).unwrap_or_default();
        let call = proc::text::decimal(&call).map_or(-1, |(number, _)| number as i64);
        if ![libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_futex, libc::SYS_poll].contains(&call)
        {
            continue;
        }
        let path = format!("/proc/{pid}/task/{tid}");
        let Ok(status) = status::read(&format!("{pid}/task/{tid}")) else { continue };
        let Some(start) = exec_start(&format!("{path}/sched")) else { continue };
        let Some(stat) =
            proc::read_path(&format!("{path}/stat")).ok().and_then(|line| proc::stat::parse(&line).ok())
        else {
            continue;
        };
        found.insert(tid, (start, stat.processor, status.voluntary_switches));
    }
    if found.is_empty() {
        return HashMap::new();
    }
    let now = schedule::on_each_processor(found.values().map(|(_, processor, _)| *processor), || {
        Some((exec_start("/proc/thread-self/sched")?, schedule::boottime_ns()))
    });
    found
        .into_iter()
        .filter_map(|(tid, (start, processor, switches))| {
            let (now, now_ns) = now.get(&processor).copied().flatten()?;
            let since_ns = now_ns.saturating_sub(now.saturating_sub(start));
            Some((tid, Observed { since_ns, switches }))
        })
        .collect()
}

/// `se.exec_start` in nanoseconds: when the task last ran, by the clock of the processor that it ran on.
fn exec_start(path: &str) -> Option<u64> {
    let text = proc::read_path(path).ok()?;
    let text = std::str::from_utf8(&text).ok()?;
    let value = text.lines().find(|line| line.starts_with("se.exec_start"))?.split_once(':')?.1.trim();
    let (ms, rest) = value.split_once('.')?;
    Some(ms.parse::<u64>().ok()? * 1_000_000 + rest.parse::<u64>().ok()?)
}

/// If the thread is inside of a restartable sequence, does what the kernel would do before it runs on: goes to the abort
/// handler. Must come before any remote call, which would make the kernel forget the section.
pub(super) fn leave_rseq(pid: i32, thread: &mut SeizedThread) -> std::io::Result<()> {
    let Some(rseq) = ptrace::rseq(thread.tid)? else { return Ok(()) };
    let word = |address: u64| -> std::io::Result<u64> {
        let mut bytes = [0u8; 8];
        process_vm::read(pid, address, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    };
    let section = word(rseq.address + 8)?;
    if section == 0 {
        return Ok(());
    }
    let (start, length, abort) = (word(section + 8)?, word(section + 16)?, word(section + 24)?);
    if thread.registers.rip.wrapping_sub(start) < length {
        thread.registers.rip = abort;
        thread.registers.orig_rax = u64::MAX;
        ptrace::set_registers(thread.tid, &thread.registers)?;
    }
    Ok(())
}

/// Calls that return EINTR at any stop (signal(7)) and have done nothing by then. Never `close` or `connect`.
const MAY_BEGIN_AGAIN: [i64; 12] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_futex_waitv,
];

/// Lets a call that answered EINTR only because of our stop begin again. `pending` are the signals that wait to be taken.
pub(super) fn begin_again(registers: &mut Registers, mask: u64, pending: u64) {
    let interrupted = registers.rax as i64 == -i64::from(libc::EINTR);
    if interrupted && MAY_BEGIN_AGAIN.contains(&(registers.orig_rax as i64)) && pending & !mask == 0 {
        registers.rip -= 2;
        registers.rax = registers.orig_rax;
        registers.orig_rax = u64::MAX;
    }
}

/// What a thread with a restart block waits for, and for how long still.
pub(super) fn wait_of(
    pid: i32,
    thread: &SeizedThread,
    observed: Option<&Observed>,
    known: &[KnownWait],
    boottime_ns: u64,
) -> Option<Wait> {
    let registers = &thread.registers;
    if registers.rax as i64 != -516 || (registers.orig_rax as i64) < 0 {
        return None;
    }
    let mut call = registers.orig_rax as i64;
    if call == libc::SYS_restart_syscall {
        let earlier =
            known.iter().find(|wait| wait.tid == thread.ns_tid && wait.instruction == registers.rip);
        if let Some(earlier) = earlier {
            let left_ns = earlier.end_ns.map(|end| end.saturating_sub(boottime_ns));
            return Some(Wait { call: earlier.call, left_ns });
        }
        // `mov $nr, %eax; syscall` stands before the instruction pointer in every libc.
        let mut code = [0u8; 7];
        process_vm::read(pid, registers.rip.wrapping_sub(7), &mut code).ok()?;
        if code[0] != 0xb8 {
            return Some(Wait { call: -1, left_ns: None });
        }
        call = i64::from(i32::from_ne_bytes([code[1], code[2], code[3], code[4]]));
        return Some(Wait { call, left_ns: None });
    }
    let total = match call {
        libc::SYS_nanosleep => timespec(pid, registers.rdi),
        libc::SYS_clock_nanosleep => timespec(pid, registers.rdx),
        // FUTEX_WAIT has a relative time-out; the others' is absolute and needs no correction.
        libc::SYS_futex if registers.rsi & 0x7f == 0 => timespec(pid, registers.r10),
        libc::SYS_poll => u64::try_from(registers.rdx as i32).ok().map(|ms| ms * 1_000_000),
        _ => None,
    };
    let waited_ns = observed.map_or(0, |observed| boottime_ns.saturating_sub(observed.since_ns));
    let left_ns = total.map(|total| total.saturating_sub(waited_ns));
    Some(Wait { call, left_ns })
}

fn timespec(pid: i32, address: u64) -> Option<u64> {
    let mut bytes = [0u8; 16];
    if process_vm::read(pid, address, &mut bytes).ok()? < 16 {
        return None;
    }
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
    word(0).checked_mul(1_000_000_000)?.checked_add(word(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_ended_and_began_anew_is_not_the_one_that_was_seen() {
        let seen = Observed { since_ns: 5, switches: 40 };
        assert!(seen.is_of(41, 1) && seen.is_of(42, 2));
        assert!(!seen.is_of(42, 1) && !seen.is_of(43, 2));
        assert!(!seen.is_of(39, 2), "another thread with the same number");
    }
}
