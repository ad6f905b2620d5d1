//! Processes and threads: identity, registers, signals, timers, credentials, limits.

use minicbor::{Decode, Encode};

/// What a process was doing when it was captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Life {
    /// Running or sleeping.
    #[default]
    #[n(0)]
    Running,
    /// Stopped by a signal (job control).
    #[n(1)]
    Stopped {
        /// The signal.
        #[n(0)]
        signal: i32,
        /// Its parent has not yet collected the stop by `wait`.
        #[n(1)]
        uncollected: bool,
    },
    /// Ended, not yet collected by its parent.
    #[n(2)]
    Zombie {
        /// Status as `wait` will give it.
        #[n(0)]
        status: i32,
    },
}

/// One process (thread group).
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Task {
    /// Process id.
    #[n(0)]
    pub pid: i32,
    /// Parent, or 0 or 1 where that is the capsule's init or outside.
    #[n(1)]
    pub parent: i32,
    /// Process group; 0: outside.
    #[n(2)]
    pub group: i32,
    /// Session; 0: outside.
    #[n(3)]
    pub session: i32,
    /// Running, stopped, zombie.
    #[n(4)]
    pub life: Life,
    /// Signal sent to the parent when it ends.
    #[n(5)]
    pub exit_signal: i32,
    /// Its address space; none for a zombie.
    #[n(6)]
    pub space: Option<u32>,
    /// Threads, the leader first. Empty for a zombie.
    #[n(7)]
    pub threads: Vec<Thread>,
    /// Actions of the signals 1 to 64.
    #[n(8)]
    pub actions: Vec<SignalAction>,
    /// Signals pending for the whole process, oldest first: `siginfo_t` each.
    #[n(9)]
    pub pending: Vec<SignalInfo>,
    /// Interval timers: real, virtual, profiling.
    #[n(10)]
    pub interval_timers: [IntervalTimer; 3],
    /// POSIX timers.
    #[n(11)]
    pub timers: Vec<PosixTimer>,
    /// Resource limits, in the order of their numbers: soft, hard.
    #[n(12)]
    pub limits: Vec<(u64, u64)>,
    /// umask.
    #[n(13)]
    pub umask: u32,
    /// Working directory, as seen inside of the capsule.
    #[n(14)]
    #[cbor(with = "minicbor::bytes")]
    pub cwd: Vec<u8>,
    /// Root directory, as seen inside of the capsule.
    #[n(15)]
    #[cbor(with = "minicbor::bytes")]
    pub root: Vec<u8>,
    /// `oom_score_adj`.
    #[n(16)]
    pub oom_score_adj: i32,
    /// `PR_GET_CHILD_SUBREAPER`.
    #[n(17)]
    pub subreaper: bool,
    /// Name of the leader, also of a zombie.
    #[n(18)]
    #[cbor(with = "minicbor::bytes")]
    pub comm: Vec<u8>,
    /// Shares its file table with this process (CLONE_FILES without CLONE_THREAD).
    #[n(19)]
    pub shares_files_with: Option<i32>,
    /// Nice value of its session for autogroup scheduling.
    #[n(20)]
    pub autogroup_nice: i32,
}

/// One thread.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Thread {
    /// Thread id; the leader's is the process id.
    #[n(0)]
    pub tid: i32,
    /// `user_regs_struct`, 27 words.
    #[n(1)]
    pub registers: Vec<u64>,
    /// The XSAVE area (`NT_X86_XSTATE`).
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub extended: Vec<u8>,
    /// Blocked signals.
    #[n(3)]
    pub mask: u64,
    /// Signals pending for this thread, oldest first.
    #[n(4)]
    pub pending: Vec<SignalInfo>,
    /// Restartable sequence area.
    #[n(5)]
    pub rseq: Option<Rseq>,
    /// Robust futex list: head, length.
    #[n(6)]
    pub robust_list: (u64, u64),
    /// Address that is cleared and woken when the thread ends (`set_tid_address`).
    #[n(7)]
    pub clear_child_tid: u64,
    /// Alternate signal stack.
    #[n(8)]
    pub alternate_stack: AlternateStack,
    /// Name.
    #[n(9)]
    #[cbor(with = "minicbor::bytes")]
    pub comm: Vec<u8>,
    /// The wait that a `restart_syscall` would continue.
    #[n(10)]
    pub wait: Option<Wait>,
    /// Who it is and what it may.
    #[n(11)]
    pub credentials: Credentials,
    /// How it is scheduled.
    #[n(12)]
    pub scheduling: Scheduling,
    /// `PR_GET_PDEATHSIG`.
    #[n(13)]
    pub parent_death_signal: i32,
    /// `/proc/PID/timerslack_ns`.
    #[n(14)]
    pub timer_slack_ns: u64,
    /// `personality(2)`.
    #[n(15)]
    pub personality: u32,
    /// `PR_GET_TSC` (`PR_TSC_SIGSEGV` = 2).
    #[n(16)]
    pub tsc: u32,
    /// `ARCH_GET_CPUID`: 1 = allowed.
    #[n(17)]
    pub cpuid: u32,
    /// Has a descriptor table of its own, apart from that of its process.
    #[n(18)]
    pub own_files: bool,
}

/// `siginfo_t`, as the kernel gave it: 128 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct SignalInfo(
    /// The bytes.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub Vec<u8>,
);

impl SignalInfo {
    /// The signal's number.
    #[must_use]
    pub fn signal(&self) -> i32 {
        self.0.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes)
    }
}

/// What is done at a signal: the kernel's `struct sigaction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SignalAction {
    /// Handler; 0 default, 1 ignored.
    #[n(0)]
    pub handler: u64,
    /// `SA_*`.
    #[n(1)]
    pub flags: u64,
    /// Where the handler returns to.
    #[n(2)]
    pub restorer: u64,
    /// Blocked while it runs.
    #[n(3)]
    pub mask: u64,
}

/// `PTRACE_GET_RSEQ_CONFIGURATION`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Rseq {
    /// Address of the area.
    #[n(0)]
    pub address: u64,
    /// Its size.
    #[n(1)]
    pub size: u32,
    /// Signature before abort handlers.
    #[n(2)]
    pub signature: u32,
    /// Flags of the registration.
    #[n(3)]
    pub flags: u32,
}

/// `stack_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct AlternateStack {
    /// Lowest address.
    #[n(0)]
    pub address: u64,
    /// `SS_*`.
    #[n(1)]
    pub flags: u32,
    /// Size in bytes.
    #[n(2)]
    pub size: u64,
}

/// A wait with a time-out that was interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Wait {
    /// Number of the system call.
    #[n(0)]
    pub call: i64,
    /// Time left in nanoseconds, where it is known.
    #[n(1)]
    pub left_ns: Option<u64>,
}

/// One interval timer, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct IntervalTimer {
    /// Time to the next expiry; 0: off.
    #[n(0)]
    pub value_us: u64,
    /// Period; 0: once.
    #[n(1)]
    pub interval_us: u64,
}

/// One POSIX timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PosixTimer {
    /// Its id, which the program holds.
    #[n(0)]
    pub id: i32,
    /// Clock.
    #[n(1)]
    pub clock: i32,
    /// `sigev_notify`.
    #[n(2)]
    pub notify: i32,
    /// `sigev_signo`.
    #[n(3)]
    pub signal: i32,
    /// `sigev_value`.
    #[n(4)]
    pub value: u64,
    /// Thread that gets the signal (SIGEV_THREAD_ID), as an id inside of the capsule.
    #[n(5)]
    pub thread: i32,
    /// Time to the next expiry in nanoseconds; 0: off.
    #[n(6)]
    pub value_ns: u64,
    /// Period in nanoseconds; 0: once.
    #[n(7)]
    pub interval_ns: u64,
    /// Overrun count.
    #[n(8)]
    pub overrun: i32,
}

/// Who a thread is and what it may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Credentials {
    /// Real, effective, saved, file system user.
    #[n(0)]
    pub uid: [u32; 4],
    /// Real, effective, saved, file system group.
    #[n(1)]
    pub gid: [u32; 4],
    /// Supplementary groups.
    #[n(2)]
    pub groups: Vec<u32>,
    /// Capabilities: inheritable.
    #[n(3)]
    pub inheritable: u64,
    /// Capabilities: permitted.
    #[n(4)]
    pub permitted: u64,
    /// Capabilities: effective.
    #[n(5)]
    pub effective: u64,
    /// Capabilities: bounding set.
    #[n(6)]
    pub bounding: u64,
    /// Capabilities: ambient.
    #[n(7)]
    pub ambient: u64,
    /// `PR_GET_SECUREBITS`.
    #[n(8)]
    pub securebits: u32,
    /// `PR_GET_NO_NEW_PRIVS`.
    #[n(9)]
    pub no_new_privileges: bool,
}

/// How a thread is scheduled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Scheduling {
    /// `SCHED_*`.
    #[n(0)]
    pub policy: u32,
    /// Flags of `sched_setattr`.
    #[n(1)]
    pub flags: u64,
    /// Nice value.
    #[n(2)]
    pub nice: i32,
    /// Real-time priority.
    #[n(3)]
    pub priority: u32,
    /// Affinity mask as bytes; empty: all processors that the host has.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub affinity: Vec<u8>,
    /// `ioprio_get`.
    #[n(5)]
    pub io_priority: i32,
    /// `sched_runtime`, nanoseconds (deadline policy; slice of the normal one).
    #[n(6)]
    pub runtime_ns: u64,
    /// `sched_deadline`, nanoseconds.
    #[n(7)]
    pub deadline_ns: u64,
    /// `sched_period`, nanoseconds.
    #[n(8)]
    pub period_ns: u64,
}
