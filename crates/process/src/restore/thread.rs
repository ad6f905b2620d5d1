//! What every thread does for itself at the end: lists and areas that the kernel keeps per thread, scheduling, credentials,
//! pending signals. And what is done to it by ptrace: registers, mask, the wait that it was in.

use super::Error;
use crate::records::task::{Credentials, Task, Thread};
use ferry_sys::ptrace::{self, Registers, Stop};
use ferry_sys::remote::{Program, Tracee};
use ferry_sys::schedule::Affinity;

const PR_CAP_AMBIENT: u64 = 47;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
const CAPABILITIES: u64 = 41;

/// Adds a thread's calls. Those that change its rights come last. `tolerated` gets the indices of calls whose failure is only
/// worth a warning. `processors` are those of this host that a thread may have. Returns the index of the call by which the thread
/// binds itself to some of them, if it does.
pub(super) fn settings(
    program: &mut Program,
    thread: &Thread,
    processors: &Affinity,
    tolerated: &mut Vec<usize>,
) -> Option<usize> {
    let tolerate = |program: &mut Program, index: usize, tolerated: &mut Vec<usize>| {
        program.accept(&[libc::EPERM, libc::EINVAL, libc::ENODEV, libc::EACCES, libc::EBUSY]);
        tolerated.push(index);
    };
    let prctl = |program: &mut Program, what: &'static str, option: i32, arg: u64| {
        program.call(what, libc::SYS_prctl, &[option as u64, arg, 0, 0, 0])
    };
    program.call("set clear_child_tid", libc::SYS_set_tid_address, &[thread.clear_child_tid]);
    let (head, len) = thread.robust_list;
    if head != 0 {
        program.call("set the robust list", libc::SYS_set_robust_list, &[head, len]);
    }
    // Also where there is none: the puppet has inherited that of the process it was born under.
    let stack = match thread.alternate_stack {
        stack if stack.flags & SS_DISABLE == 0 => {
            [stack.address, u64::from(stack.flags & !SS_ONSTACK), stack.size]
        }
        _ => [0, u64::from(SS_DISABLE), 0],
    };
    let stack = program.data(&stack.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
    program.call("set the alternate stack", libc::SYS_sigaltstack, &[stack, 0]);
    if let Some(rseq) = thread.rseq {
        let args = [rseq.address, u64::from(rseq.size), 0, u64::from(rseq.signature)];
        program.call("register the rseq area", libc::SYS_rseq, &args);
    }
    let mut name = thread.comm.clone();
    name.resize(16, 0);
    name[15] = 0;
    let name = program.data(&name);
    prctl(program, "set the name", libc::PR_SET_NAME, name);
    if thread.timer_slack_ns != 0 {
        prctl(program, "set the timer slack", libc::PR_SET_TIMERSLACK, thread.timer_slack_ns);
    }
    program.call("set the personality", libc::SYS_personality, &[u64::from(thread.personality)]);
    if thread.tsc == TSC_SIGSEGV {
        prctl(program, "set the TSC setting", libc::PR_SET_TSC, u64::from(TSC_SIGSEGV));
    }
    if thread.cpuid == 0 {
        let index = program.call("forbid CPUID", libc::SYS_arch_prctl, &[ARCH_SET_CPUID, 0]);
        tolerate(program, index, tolerated);
    }
    let binding = bind(program, thread, processors, tolerated);
    scheduling(program, thread, tolerated);
    credentials(program, &thread.credentials, tolerated);
    if thread.parent_death_signal != 0 {
        // After the credentials, whose change clears it.
        prctl(
            program,
            "set the parent death signal",
            libc::PR_SET_PDEATHSIG,
            thread.parent_death_signal as u64,
        );
    }
    binding
}

const SS_ONSTACK: u32 = 1;
const SS_DISABLE: u32 = 2;
const TSC_SIGSEGV: u32 = 2;
const ARCH_SET_CPUID: u64 = 0x1012;

/// Binds a thread to the processors that it was bound to.
fn bind(
    program: &mut Program,
    thread: &Thread,
    processors: &Affinity,
    tolerated: &mut Vec<usize>,
) -> Option<usize> {
    const SCHED_DEADLINE: u32 = 6;
    let wanted = Affinity::from_mask(&thread.scheduling.affinity);
    // The mask is that of the source's processors; where it allows all of this host's, it says nothing.
    let bound = !thread.scheduling.affinity.is_empty() && !wanted.covers(processors);
    // The kernel gives deadlines only to a thread that may run everywhere, and not to one that its tracer keeps on one processor.
    if !bound && thread.scheduling.policy != SCHED_DEADLINE {
        return None;
    }
    let mask = program.data(if bound { wanted.mask() } else { Affinity::ANYWHERE.mask() });
    let args = [0, Affinity::BYTES as u64, mask];
    let index = program.call("set the affinity", libc::SYS_sched_setaffinity, &args);
    // None of them is here: then the thread runs on all.
    program.accept(&[libc::EINVAL, libc::EPERM]);
    tolerated.push(index);
    Some(index)
}

fn scheduling(program: &mut Program, thread: &Thread, tolerated: &mut Vec<usize>) {
    const RESET_ON_FORK: u64 = 1;
    let schedule = &thread.scheduling;
    let normal = schedule.policy == 0 && schedule.nice == 0 && schedule.flags & RESET_ON_FORK == 0;
    if !normal {
        let mut attributes = Vec::with_capacity(48);
        attributes.extend_from_slice(&48u32.to_ne_bytes());
        attributes.extend_from_slice(&schedule.policy.to_ne_bytes());
        attributes.extend_from_slice(&(schedule.flags & 7).to_ne_bytes());
        attributes.extend_from_slice(&schedule.nice.to_ne_bytes());
        attributes.extend_from_slice(&schedule.priority.to_ne_bytes());
        for word in [schedule.runtime_ns, schedule.deadline_ns, schedule.period_ns] {
            attributes.extend_from_slice(&word.to_ne_bytes());
        }
        let attributes = program.data(&attributes);
        let index = program.call("set the scheduling policy", libc::SYS_sched_setattr, &[0, attributes, 0]);
        program.accept(&[libc::EPERM, libc::EINVAL, libc::EBUSY]);
        tolerated.push(index);
    }
    if schedule.io_priority != 0 {
        let args = [1, 0, schedule.io_priority as u64];
        let index = program.call("set the I/O priority", libc::SYS_ioprio_set, &args);
        program.accept(&[libc::EPERM, libc::EINVAL, libc::ENOSYS]);
        tolerated.push(index);
    }
}

/// What the shim's own root is: a thread with exactly this needs no call.
fn credentials(program: &mut Program, wanted: &Credentials, tolerated: &mut Vec<usize>) {
    const SECURE_KEEP_CAPS: u64 = 1 << 4;
    let prctl = |program: &mut Program, what: &'static str, args: [u64; 5]| {
        program.call(what, libc::SYS_prctl, &args)
    };
    let groups: Vec<u8> = wanted.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
    let address = program.data(&groups);
    program.call("set the supplementary groups", libc::SYS_setgroups, &[wanted.groups.len() as u64, address]);
    for capability in (0..CAPABILITIES).filter(|capability| wanted.bounding >> capability & 1 == 0) {
        let args = [libc::PR_CAPBSET_DROP as u64, capability, 0, 0, 0];
        prctl(program, "drop a capability from the bounding set", args);
        // The kernel may know fewer; or it is gone already.
        program.accept(&[libc::EINVAL]);
    }
    let [real, effective, saved, file_system] = wanted.gid.map(u64::from);
    program.call("set the groups", libc::SYS_setresgid, &[real, effective, saved]);
    program.call("set the file system group", libc::SYS_setfsgid, &[file_system]);
    let [real, effective, saved, file_system] = wanted.uid.map(u64::from);
    let root = wanted.uid == [0; 4];
    if !root {
        // Capabilities must outlive the change of user, to be set to what they were.
        prctl(
            program,
            "keep capabilities",
            [libc::PR_SET_SECUREBITS as u64, SECURE_KEEP_CAPS | 1 << 2, 0, 0, 0],
        );
    }
    program.call("set the users", libc::SYS_setresuid, &[real, effective, saved]);
    program.call("set the file system user", libc::SYS_setfsuid, &[file_system]);
    // First all that is permitted, with what the next steps need; the final sets afterwards.
    let header = program.data(&[0x2008_0522u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat());
    let first = capability_sets(wanted.permitted, wanted.permitted, wanted.inheritable);
    if !root {
        let address = program.data(&first);
        let index = program.call("set the capabilities", libc::SYS_capset, &[header, address]);
        program.accept(&[libc::EPERM]);
        tolerated.push(index);
    } else {
        let address = program.data(&capability_sets(wanted.permitted, wanted.permitted, wanted.inheritable));
        let index = program.call("set the capabilities", libc::SYS_capset, &[header, address]);
        program.accept(&[libc::EPERM]);
        tolerated.push(index);
    }
    for capability in (0..CAPABILITIES).filter(|capability| wanted.ambient >> capability & 1 == 1) {
        prctl(
            program,
            "raise an ambient capability",
            [PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0],
        );
    }
    if wanted.securebits != 0 || !root {
        let args = [libc::PR_SET_SECUREBITS as u64, u64::from(wanted.securebits), 0, 0, 0];
        let index = prctl(program, "set the secure bits", args);
        // Without CAP_SETPCAP they cannot be changed back: then they are left with what keeps rights as they are.
        program.accept(&[libc::EPERM]);
        tolerated.push(index);
    }
    if wanted.effective != wanted.permitted {
        let address = program.data(&capability_sets(wanted.effective, wanted.permitted, wanted.inheritable));
        program.call("set the effective capabilities", libc::SYS_capset, &[header, address]);
    }
    if wanted.no_new_privileges {
        prctl(program, "forbid new privileges", [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0]);
    }
}

/// Two `struct __user_cap_data_struct`: low words, high words.
fn capability_sets(effective: u64, permitted: u64, inheritable: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    for shift in [0, 32] {
        for set in [effective, permitted, inheritable] {
            bytes.extend_from_slice(&((set >> shift) as u32).to_ne_bytes());
        }
    }
    bytes
}

/// Adds a thread's pending signals; the leader adds those of the process too.
pub(super) fn pending(program: &mut Program, task: &Task, thread: &Thread) -> Result<(), Error> {
    let (pid, tid) = (task.pid as u64, thread.tid as u64);
    for info in &thread.pending {
        let address = signal_data(program, task.pid, info)?;
        let args = [pid, tid, info.signal() as u64, address];
        program.call("queue a pending signal", libc::SYS_rt_tgsigqueueinfo, &args);
    }
    if thread.tid == task.pid {
        for info in &task.pending {
            let address = signal_data(program, task.pid, info)?;
            let args = [pid, info.signal() as u64, address];
            program.call("queue a pending signal", libc::SYS_rt_sigqueueinfo, &args);
        }
    }
    Ok(())
}

fn signal_data(
    program: &mut Program,
    pid: i32,
    info: &crate::records::task::SignalInfo,
) -> Result<u64, Error> {
    if info.0.len() != 128 || !(1..=64).contains(&info.signal()) {
        return Err(Error::Damaged(format!("a pending signal of process {pid}")));
    }
    Ok(program.data(&info.0))
}

/// Puts a thread into the wait that it was in, so that the kernel has a genuine restart block for it; returns the registers that
/// are to be set at the end. `timespec` is an address whose content is the time left.
pub(super) fn resume_wait(tracee: Tracee, thread: &Thread, timespec: u64) -> Result<Vec<u64>, Error> {
    let words = thread.registers.as_slice().try_into().map_err(|_| {
        Error::Damaged(format!("thread {} has {} registers", thread.tid, thread.registers.len()))
    })?;
    let mut registers = Registers::from_words(words);
    if registers.rax as i64 == -516 && (registers.orig_rax as i64) >= 0 {
        let what = format!("resume the wait of puppet {}", tracee.ns_tid);
        prime(tracee, thread, timespec, &mut registers).map_err(Error::host(what))?;
    }
    Ok(registers.to_words().to_vec())
}

/// Sets what ptrace alone can set: extended state, registers, mask.
pub(super) fn set(tracee: Tracee, thread: &Thread, registers: &[u64]) -> Result<(), Error> {
    let failed = |what: &str| Error::host(format!("{what} of puppet {}", tracee.ns_tid));
    let words = registers
        .try_into()
        .map_err(|_| Error::Damaged(format!("the registers of thread {}", thread.tid)))?;
    let registers = Registers::from_words(words);
    ptrace::set_extended(tracee.tid, &thread.extended).map_err(failed("set the extended registers"))?;
    ptrace::set_registers(tracee.tid, &registers).map_err(failed("set the registers"))?;
    ptrace::set_signal_mask(tracee.tid, thread.mask).map_err(failed("set the signal mask"))
}

/// Begins the interrupted call again, with the time that is left, and interrupts it at once.
fn prime(tracee: Tracee, thread: &Thread, timespec: u64, registers: &mut Registers) -> std::io::Result<()> {
    let wait = thread.wait.unwrap_or_default();
    if wait.call < 0 || thread.wait.is_none() {
        // Nobody knows what it waited for: an early return is what any caller must cope with.
        registers.rax = -i64::from(libc::EINTR) as u64;
        registers.orig_rax = u64::MAX;
        return Ok(());
    }
    let mut entry = *registers;
    entry.rip -= 2;
    entry.rax = wait.call as u64;
    entry.orig_rax = u64::MAX;
    if let Some(left) = wait.left_ns {
        match wait.call {
            libc::SYS_nanosleep => entry.rdi = timespec,
            libc::SYS_clock_nanosleep => entry.rdx = timespec,
            libc::SYS_futex => entry.r10 = timespec,
            libc::SYS_poll => entry.rdx = left.div_ceil(1_000_000),
            _ => {}
        }
    }
    ptrace::set_registers(tracee.tid, &entry)?;
    ptrace::to_call(tracee.tid)?;
    loop {
        match ptrace::wait(tracee.tid)? {
            Stop::Call => break,
            Stop::Gone(_) => return Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
            _ => ptrace::to_call(tracee.tid)?,
        }
    }
    ptrace::interrupt(tracee.tid)?;
    ptrace::cont(tracee.tid, 0)?;
    super::host::stopped(tracee.tid)?;
    let now = ptrace::registers(tracee.tid)?;
    if now.rax as i64 != -516 {
        // It ended meanwhile (a futex word had changed): that is the result.
        registers.rax = now.rax;
        registers.orig_rax = now.orig_rax;
        if (-514..=-512).contains(&(now.rax as i64)) {
            registers.rax = wait.call as u64;
            registers.orig_rax = u64::MAX;
            registers.rip -= 2;
        } else {
            registers.orig_rax = u64::MAX;
        }
    }
    Ok(())
}
