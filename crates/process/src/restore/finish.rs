//! The last part of a restore, in the order that the kernel's rules ask for.
//!
//! Descriptors; what is the process' own; what is each thread's own, rights last; timers; the waits that threads were in; the
//! shared memory goes; registers. Then everybody is let go of at once, frozen if there is a cgroup.

use super::descriptors::{self, FileSource};
use super::grow::part_of;
use super::puppets::{Puppets, Restored};
use super::turns::Turns;
use super::{Error, host, missing, process, thread};
use crate::capture::interrupted::KnownWait;
use crate::records::task::{Life, Task};
use ferry_sys::ptrace::{self, Stop};
use ferry_sys::remote::{Program, Tracee};
use ferry_sys::schedule;
use ferry_transfer::access::Missing;

/// Runs all of it.
pub(super) fn run(
    puppets: &mut Puppets,
    files: &dyn FileSource,
    missing: &[Missing],
) -> Result<Restored, Error> {
    let _turns = Turns::begin(&puppets.family);
    let tasks = puppets.state.tasks.clone();
    let alive: Vec<&Task> = tasks.iter().filter(|task| !matches!(task.life, Life::Zombie { .. })).collect();
    seal(puppets)?;
    let opened = missing::open(puppets, missing)?;
    missing::empty(puppets, missing)?;
    puppets.family.machine.signal = free_signal(&alive);
    for task in &alive {
        descriptors::give(&mut puppets.family, task.pid, files)?;
        for thread in task.threads.iter().filter(|thread| thread.own_files) {
            descriptors::give(&mut puppets.family, thread.tid, files)?;
        }
    }
    let restore_ids =
        alive.iter().any(|task| !task.timers.is_empty()) && can_choose_timer_ids(puppets, &alive)?;
    let mut warnings = Vec::new();
    // Children first: what they tell their parents on the way is taken away before the parents get what was pending.
    for task in alive.iter().rev() {
        let bound = settle(puppets, task, &tasks, restore_ids, &mut warnings)?;
        outside(puppets, task, &mut warnings);
        depart(puppets, task)?;
        if let Life::Stopped { signal, .. } = task.life {
            stop_again(puppets, task, signal)?;
        }
        puppets.scatter(task, &bound)?;
    }
    let cgroup = puppets.home.cgroup.clone();
    if let Some(path) = cgroup {
        let frozen = std::fs::write(path.join("cgroup.freeze"), "1");
        frozen.map_err(Error::host("freeze the cgroup of the tree"))?;
    }
    puppets.give_back_host()?;
    let held = missing::register(puppets, opened)?;
    let restored = Restored {
        tasks: puppets.tasks(),
        stats: puppets.family.machine.stats,
        warnings,
        waits: waits(&alive),
        held,
    };
    let_go(puppets)?;
    Ok(restored)
}

/// The signal by which batches end must not be one that is pending.
fn free_signal(tasks: &[&Task]) -> i32 {
    let pending = |signal: i32| {
        tasks.iter().any(|task| {
            let threads = task.threads.iter().flat_map(|thread| &thread.pending);
            task.pending.iter().chain(threads).any(|info| info.signal() == signal)
        })
    };
    [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD]
        .into_iter()
        .find(|signal| !pending(*signal))
        .unwrap_or(libc::SIGURG)
}

/// Objects get the size and seals that they had, now that they are filled.
fn seal(puppets: &Puppets) -> Result<(), Error> {
    use rustix::fs::{Gid, Mode, SealFlags, Uid};
    for (object, fd) in &puppets.objects {
        let failed = |error: rustix::io::Errno| {
            Error::host(format!("finish memory object {}", object.id))(error.into())
        };
        rustix::fs::ftruncate(fd, object.size).map_err(failed)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(object.mode)).map_err(failed)?;
        let (uid, gid) = (Uid::from_raw(object.uid), Gid::from_raw(object.gid));
        rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(failed)?;
        // Whoever made its descriptors may have sealed it already, against further seals too.
        let now = rustix::fs::fcntl_get_seals(fd).map_or(0, |seals| seals.bits());
        if object.seals != 0 && now != object.seals {
            rustix::fs::fcntl_add_seals(fd, SealFlags::from_bits_retain(object.seals)).map_err(failed)?;
        }
    }
    Ok(())
}

/// Whether this kernel lets timers be made with chosen ids (Linux 6.15).
fn can_choose_timer_ids(puppets: &mut Puppets, alive: &[&Task]) -> Result<bool, Error> {
    const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
    let Some(task) = alive.first() else { return Ok(false) };
    let mut program = Program::new(puppets.family.layout());
    program.call("ask for timer ids", libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 2, 0, 0, 0]);
    puppets.family.run(task.pid, &mut program)?;
    Ok(program.result(0) >= 0)
}

/// Everything that the threads of one process do themselves: one batch each, all at once. Returns the numbers of those that are
/// where they are to run.
fn settle(
    puppets: &mut Puppets,
    task: &Task,
    tasks: &[Task],
    restore_ids: bool,
    warnings: &mut Vec<String>,
) -> Result<Vec<i32>, Error> {
    let space = puppets.state.spaces.iter().find(|space| Some(space.id) == task.space);
    let space = space.ok_or_else(|| Error::Damaged(format!("process {} has no address space", task.pid)))?;
    let family = &mut puppets.family;
    let children: Vec<&Task> = tasks.iter().filter(|child| child.parent == task.pid).collect();
    let mut tolerated = Vec::new();
    let mut program = Program::new(family.layout());
    process::settings(&mut program, task, space, &children, &mut tolerated)?;
    process::timers(&mut program, task, restore_ids)?;
    let processors = family.processors;
    let (mut parts, mut bindings) = (Vec::new(), Vec::new());
    for (index, thread) in task.threads.iter().enumerate() {
        let first = if index == 0 { 0 } else { program.len() };
        let binding = thread::settings(&mut program, thread, &processors, &mut tolerated);
        bindings.extend(binding.map(|call| (thread.tid, call)));
        if index == 0 {
            // A change of credentials resets it.
            let args = [libc::PR_SET_DUMPABLE as u64, u64::from(space.dumpable == 1), 0, 0, 0];
            program.call("set whether it may be dumped", libc::SYS_prctl, &args);
        }
        thread::pending(&mut program, task, thread)?;
        parts.push((first, program.len() - first));
    }
    let site = family.site(&family.puppets[&task.pid]);
    let records = family.layout().records;
    family.reach().load(&program)?;
    let threads = order(&family.puppets[&task.pid].threads, task)?;
    // The leader first and alone: its limits and handlers are everybody's.
    for (at, tracee) in threads.iter().enumerate() {
        let (first, count) = parts[at];
        family.machine.start(*tracee, &site, records + first as u64 * 64, count)?;
        if at == 0 {
            family.machine.finish(*tracee, &site)?;
        }
    }
    for tracee in threads.iter().skip(1) {
        family.machine.finish(*tracee, &site)?;
    }
    family.reach().store(&mut program)?;
    program.check(0..program.len())?;
    for index in tolerated {
        if program.result(index) < 0 {
            let reason = std::io::Error::from_raw_os_error(-program.result(index) as i32);
            warnings.push(format!("Process {}: cannot {}: {reason}", task.pid, program.what(index)));
        }
    }
    bindings.retain(|(_, call)| program.result(*call) >= 0);
    Ok(bindings.into_iter().map(|(tid, _)| tid).collect())
}

/// Threads in the order of their records.
fn order(threads: &[Tracee], task: &Task) -> Result<Vec<Tracee>, Error> {
    task.threads
        .iter()
        .map(|wanted| {
            let found = threads.iter().find(|tracee| tracee.ns_tid == wanted.tid).copied();
            found.ok_or_else(|| Error::Damaged(format!("process {} has no thread {}", task.pid, wanted.tid)))
        })
        .collect()
}

/// What is written in `/proc` from outside.
fn outside(puppets: &Puppets, task: &Task, warnings: &mut Vec<String>) {
    let pid = puppets.family.puppets[&task.pid].host_pid();
    let space = puppets.state.spaces.iter().find(|space| Some(space.id) == task.space);
    let mut write = |name: &str, value: String| {
        let path = format!("/proc/{pid}/{name}");
        let same = std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value);
        if let Some(error) = (!same).then(|| std::fs::write(&path, &value).err()).flatten() {
            warnings.push(format!("Process {}: cannot set {name} to {value}: {error}", task.pid));
        }
    };
    write("oom_score_adj", task.oom_score_adj.to_string());
    if let Some(space) = space {
        write("coredump_filter", format!("{:08x}", space.coredump_filter));
    }
}

/// Waits, the last unmapping (by code in the vDSO's tail), registers and masks.
fn depart(puppets: &mut Puppets, task: &Task) -> Result<(), Error> {
    let family = &mut puppets.family;
    let puppet = &family.puppets[&task.pid];
    let (base, threads) = (puppet.base, order(&puppet.threads, task)?);
    let area = family.area.start;
    let layout = part_of(area, 0, 1);
    let mut program = Program::new(layout);
    let timespecs: Vec<u64> = task
        .threads
        .iter()
        .map(|thread| {
            let left = thread.wait.and_then(|wait| wait.left_ns).unwrap_or(0);
            let words = [left / 1_000_000_000, left % 1_000_000_000];
            program.data(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>())
        })
        .collect();
    family.reach().load(&program)?;
    // A remote call does not disturb a restart block, so the waits can come before the last one.
    let mut registers = Vec::new();
    for (at, tracee) in threads.iter().enumerate() {
        registers.push(thread::resume_wait(*tracee, &task.threads[at], timespecs[at])?);
    }
    host::unmap_area(&mut family.machine, (threads[0], base), area)?;
    for (at, tracee) in threads.iter().enumerate() {
        thread::set(*tracee, &task.threads[at], &registers[at])?;
    }
    Ok(())
}

/// Stops a process by its signal again, thread by thread, while it is traced: none of its code runs.
fn stop_again(puppets: &Puppets, task: &Task, signal: i32) -> Result<(), Error> {
    let failed = || Error::host(format!("stop process {} as it was", task.pid));
    if ![libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal) {
        return Err(Error::Damaged(format!("process {} was stopped by signal {signal}", task.pid)));
    }
    let puppet = &puppets.family.puppets[&task.pid];
    let threads = order(&puppet.threads, task)?;
    for tracee in &threads {
        // Nothing that is pending may be taken before the stop.
        ptrace::set_signal_mask(tracee.tid, !(1u64 << (signal - 1))).map_err(failed())?;
    }
    let leader = threads[0].tid;
    ptrace::send_to_thread(leader, leader, signal).map_err(failed())?;
    for tracee in &threads {
        ptrace::cont(tracee.tid, 0).map_err(failed())?;
        loop {
            match ptrace::wait(tracee.tid).map_err(failed())? {
                Stop::Event { signal: by } if by == signal => break,
                // Taking it begins the stop of all threads.
                Stop::Signal(taken) if taken == signal => {
                    ptrace::cont(tracee.tid, signal).map_err(failed())?
                }
                Stop::Event { .. } => ptrace::cont(tracee.tid, 0).map_err(failed())?,
                other => {
                    return Err(Error::Damaged(format!("process {} did not stop: {other:?}", task.pid)));
                }
            }
        }
    }
    for (tracee, thread) in threads.iter().zip(&task.threads) {
        ptrace::set_signal_mask(tracee.tid, thread.mask).map_err(failed())?;
    }
    Ok(())
}

fn waits(alive: &[&Task]) -> Vec<KnownWait> {
    let now = schedule::boottime_ns();
    let threads = alive.iter().flat_map(|task| &task.threads);
    threads
        .filter_map(|thread| {
            let wait = thread.wait?;
            let instruction = *thread.registers.get(16)?;
            let end_ns = wait.left_ns.map(|left| now + left);
            Some(KnownWait { tid: thread.tid, instruction, call: wait.call, end_ns })
        })
        .collect()
}

fn let_go(puppets: &mut Puppets) -> Result<(), Error> {
    // From the first detach on there is no way back: a failure is reported, but nobody is killed for it.
    let mut first = Ok(());
    for puppet in puppets.family.puppets.values_mut().filter(|puppet| !puppet.dead) {
        puppet.dead = true;
        for thread in puppet.threads.iter().rev() {
            let detached = ptrace::detach(thread.tid, 0);
            first = first.and(detached.map_err(Error::host(format!("let go of process {}", puppet.pid))));
        }
    }
    first
}
