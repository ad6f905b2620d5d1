//! One thread: what ptrace tells without running anything in it, and what the thread itself is asked by its batch.

use super::seize::SeizedThread;
use crate::records::task::{AlternateStack, Credentials, Rseq, Scheduling, SignalInfo, Thread};
use ferry_sys::proc::status::Status;
use ferry_sys::ptrace;
use ferry_sys::remote::Program;
use std::io;

/// What ptrace tells.
pub(super) fn look(thread: &SeizedThread) -> io::Result<Thread> {
    let rseq = ptrace::rseq(thread.tid)?;
    Ok(Thread {
        tid: thread.ns_tid,
        own_files: thread.own_files,
        registers: thread.registers.to_words().to_vec(),
        extended: ptrace::extended(thread.tid)?,
        mask: thread.mask,
        rseq: rseq.map(|rseq| Rseq {
            address: rseq.address,
            size: rseq.size,
            signature: rseq.signature,
            flags: rseq.flags,
        }),
        robust_list: ptrace::robust_list(thread.tid)?,
        credentials: credentials(&thread.status),
        ..Thread::default()
    })
}

/// Signals pending for one thread, or for its process.
pub(super) fn pending(tid: i32, shared: bool) -> io::Result<Vec<SignalInfo>> {
    Ok(ptrace::pending(tid, shared)?.into_iter().map(|info| SignalInfo(info.to_vec())).collect())
}

pub(super) fn credentials(status: &Status) -> Credentials {
    let [inheritable, permitted, effective, bounding, ambient] = status.capabilities;
    Credentials {
        uid: status.uid,
        gid: status.gid,
        groups: status.groups.clone(),
        inheritable,
        permitted,
        effective,
        bounding,
        ambient,
        securebits: 0,
        no_new_privileges: status.no_new_privileges,
    }
}

/// The questions to one thread: indices and addresses in its program.
pub(super) struct Questions {
    first: usize,
    clear_child_tid: u64,
    stack: u64,
    name: u64,
    death_signal: u64,
    attributes: u64,
    affinity: u64,
    tsc: u64,
}

const PR_GET_TID_ADDRESS: u64 = 40;
const ARCH_GET_CPUID: u64 = 0x1011;
const AFFINITY_BYTES: usize = 1024;
const ATTRIBUTES_BYTES: usize = 56;
/// Offsets from the first call.
const AFFINITY: usize = 5;
const IO_PRIORITY: usize = 6;
const PERSONALITY: usize = 7;
const SECUREBITS: usize = 8;
const TIMER_SLACK: usize = 9;
const CPUID: usize = 11;

impl Questions {
    /// Adds the calls of one thread.
    pub(super) fn ask(program: &mut Program) -> Self {
        let this = Self {
            first: program.len(),
            clear_child_tid: program.room(8),
            stack: program.room(24),
            name: program.room(16),
            death_signal: program.room(8),
            attributes: program.room(ATTRIBUTES_BYTES),
            affinity: program.room(AFFINITY_BYTES),
            tsc: program.room(8),
        };
        let prctl = |program: &mut Program, what, option: i32, arg: u64| {
            program.call(what, libc::SYS_prctl, &[option as u64, arg, 0, 0, 0]);
        };
        program.call("read clear_child_tid", libc::SYS_prctl, &[PR_GET_TID_ADDRESS, this.clear_child_tid]);
        program.accept(&[libc::EINVAL]);
        program.call("read the alternate stack", libc::SYS_sigaltstack, &[0, this.stack]);
        prctl(program, "read the name", libc::PR_GET_NAME, this.name);
        prctl(program, "read the parent death signal", libc::PR_GET_PDEATHSIG, this.death_signal);
        let size = ATTRIBUTES_BYTES as u64;
        program.call("read the scheduling policy", libc::SYS_sched_getattr, &[0, this.attributes, size, 0]);
        let size = AFFINITY_BYTES as u64;
        program.call("read the affinity", libc::SYS_sched_getaffinity, &[0, size, this.affinity]);
        program.call("read the I/O priority", libc::SYS_ioprio_get, &[1, 0]);
        program.accept(&[libc::ENOSYS]);
        program.call("read the personality", libc::SYS_personality, &[0xffff_ffff]);
        prctl(program, "read the secure bits", libc::PR_GET_SECUREBITS, 0);
        prctl(program, "read the timer slack", libc::PR_GET_TIMERSLACK, 0);
        prctl(program, "read the TSC setting", libc::PR_GET_TSC, this.tsc);
        program.accept(&[libc::EINVAL]);
        program.call("read the CPUID setting", libc::SYS_arch_prctl, &[ARCH_GET_CPUID]);
        program.accept(&[libc::EINVAL, libc::ENODEV]);
        this
    }

    /// Takes the answers.
    pub(super) fn answer(&self, program: &Program, thread: &mut Thread) {
        let half = |address: u64, at: usize| {
            program.read(address, at + 4)[at..].try_into().map_or(0, u32::from_ne_bytes)
        };
        let whole = |address: u64, at: usize| {
            program.read(address, at + 8)[at..].try_into().map_or(0, u64::from_ne_bytes)
        };
        let result = |offset: usize| program.result(self.first + offset);
        thread.clear_child_tid = program.word(self.clear_child_tid);
        thread.alternate_stack = AlternateStack {
            address: whole(self.stack, 0),
            flags: half(self.stack, 8),
            size: whole(self.stack, 16),
        };
        let name = program.read(self.name, 16);
        thread.comm = name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        thread.parent_death_signal = half(self.death_signal, 0) as i32;
        let affinity_len = result(AFFINITY).clamp(0, AFFINITY_BYTES as i64) as usize;
        thread.scheduling = Scheduling {
            policy: half(self.attributes, 4),
            flags: whole(self.attributes, 8),
            nice: half(self.attributes, 16) as i32,
            priority: half(self.attributes, 20),
            affinity: program.read(self.affinity, affinity_len).to_vec(),
            io_priority: result(IO_PRIORITY).max(0) as i32,
            runtime_ns: whole(self.attributes, 24),
            deadline_ns: whole(self.attributes, 32),
            period_ns: whole(self.attributes, 40),
        };
        thread.personality = result(PERSONALITY) as u32;
        thread.credentials.securebits = result(SECUREBITS) as u32;
        thread.timer_slack_ns = result(TIMER_SLACK).max(0) as u64;
        thread.tsc = half(self.tsc, 0);
        thread.cpuid = result(CPUID).max(0) as u32;
        if result(CPUID) < 0 {
            thread.cpuid = 1;
        }
    }
}
