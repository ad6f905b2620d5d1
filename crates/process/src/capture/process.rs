//! One process: what its leader is asked for all of its threads.

use crate::records::task::{IntervalTimer, PosixTimer, SignalAction, Task};
use ferry_sys::proc::timers::Timer;
use ferry_sys::remote::Program;

/// The questions to one process' leader.
pub(super) struct Questions {
    first: usize,
    actions: u64,
    intervals: u64,
    timers: u64,
    subreaper: u64,
    count: usize,
}

const PR_GET_THP_DISABLE: i32 = 42;
const PR_GET_MDWE: i32 = 66;
const PR_GET_MEMORY_MERGE: i32 = 68;
const SIGNALS: usize = 64;
const ACTION_BYTES: usize = 32;
const TIMER_BYTES: usize = 32;

/// What the space is asked by the way.
#[derive(Debug, Default)]
pub(crate) struct SpaceAnswers {
    pub(crate) brk: u64,
    pub(crate) dumpable: u32,
    pub(crate) thp_disabled: bool,
    pub(crate) mdwe: u32,
    pub(crate) merge_any: bool,
}

impl Questions {
    /// Adds the calls. `timers` are those that `/proc/PID/timers` shows, `fired` the signals of some that wait to be taken.
    pub(super) fn ask(program: &mut Program, timers: &[Timer], pid: i32, fired: &[i32]) -> Self {
        let actions = program.room((SIGNALS + 1) * ACTION_BYTES);
        let intervals = program.room(3 * TIMER_BYTES);
        let settings = program.room(timers.len() * TIMER_BYTES);
        let subreaper = program.room(8);
        let first = program.len();
        let prctl = |program: &mut Program, what, option: i32, arg: u64| {
            program.call(what, libc::SYS_prctl, &[option as u64, arg, 0, 0, 0]);
            program.accept(&[libc::EINVAL]);
        };
        program.call("read the end of the heap", libc::SYS_brk, &[0]);
        prctl(program, "read whether it may be dumped", libc::PR_GET_DUMPABLE, 0);
        prctl(program, "read the huge page setting", PR_GET_THP_DISABLE, 0);
        prctl(program, "read the W^X setting", PR_GET_MDWE, 0);
        prctl(program, "read the merge setting", PR_GET_MEMORY_MERGE, 0);
        prctl(program, "read whether it adopts orphans", libc::PR_GET_CHILD_SUBREAPER, subreaper);
        for which in 0..3 {
            program.call("read an interval timer", libc::SYS_getitimer, &[which, intervals + which * 32]);
        }
        for (index, timer) in timers.iter().enumerate() {
            let at = settings + (index * TIMER_BYTES) as u64;
            program.call("read a timer", libc::SYS_timer_gettime, &[timer.id as u64, at]);
            program.call("read a timer's overrun", libc::SYS_timer_getoverrun, &[timer.id as u64]);
        }
        for signal in 1..=SIGNALS as u64 {
            let at = actions + signal * ACTION_BYTES as u64;
            program.call("read a signal's action", libc::SYS_rt_sigaction, &[signal, 0, at, 8]);
        }
        for signal in fired {
            // How often a timer has run over is only counted when its signal is taken: it is taken, and queued again with the count.
            let (info, now) = (program.room(128), program.data(&[0u8; 16]));
            let set = program.data(&(1u64 << (signal - 1)).to_ne_bytes());
            program.call("take a timer's signal", libc::SYS_rt_sigtimedwait, &[set, info, now, 8]);
            program.accept(&[libc::EAGAIN]);
            program.call(
                "queue a timer's signal again",
                libc::SYS_rt_sigqueueinfo,
                &[pid as u64, *signal as u64, info],
            );
        }
        Self { first, actions, intervals, timers: settings, subreaper, count: program.len() - first }
    }

    /// Number of calls.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Takes the answers.
    pub(super) fn answer(&self, program: &Program, timers: &[Timer], task: &mut Task) -> SpaceAnswers {
        let word = |address: u64| program.word(address);
        let result = |offset: usize| program.result(self.first + offset);
        task.actions = (1..=SIGNALS as u64)
            .map(|signal| self.actions + signal * ACTION_BYTES as u64)
            .map(|at| SignalAction {
                handler: read(program, at, 0),
                flags: read(program, at, 8),
                restorer: read(program, at, 16),
                mask: read(program, at, 24),
            })
            .collect();
        for (which, timer) in task.interval_timers.iter_mut().enumerate() {
            let at = self.intervals + which as u64 * 32;
            let interval_us = word(at).saturating_mul(1_000_000) + read(program, at, 8);
            let value_us = read(program, at, 16).saturating_mul(1_000_000) + read(program, at, 24);
            // A periodic timer that has just fired reads 0, and 0 would switch it off.
            let value_us = if value_us == 0 && interval_us != 0 { 1 } else { value_us };
            *timer = IntervalTimer { value_us, interval_us };
        }
        task.timers = timers
            .iter()
            .enumerate()
            .map(|(index, timer)| {
                let at = self.timers + (index * TIMER_BYTES) as u64;
                let interval_ns = word(at).saturating_mul(1_000_000_000) + read(program, at, 8);
                let value_ns = read(program, at, 16).saturating_mul(1_000_000_000) + read(program, at, 24);
                PosixTimer {
                    id: timer.id,
                    clock: timer.clock,
                    notify: timer.notify,
                    signal: timer.signal,
                    value: timer.value,
                    thread: timer.task,
                    value_ns: if value_ns == 0 && interval_ns != 0 { 1 } else { value_ns },
                    interval_ns,
                    overrun: result(9 + 2 * index + 1).max(0) as i32,
                }
            })
            .collect();
        task.subreaper = word(self.subreaper) as u32 != 0;
        SpaceAnswers {
            brk: result(0) as u64,
            dumpable: result(1).max(0) as u32,
            thp_disabled: result(2) > 0,
            mdwe: result(3).max(0) as u32,
            merge_any: result(4) > 0,
        }
    }
}

fn read(program: &Program, address: u64, at: usize) -> u64 {
    program.read(address, at + 8)[at..].try_into().map_or(0, u64::from_ne_bytes)
}
