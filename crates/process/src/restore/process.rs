//! What a process' leader does for all of its threads at the end: handlers, timers, limits, directories.

use super::Error;
use crate::records::memory::{Backing, Space, vma};
use crate::records::task::{Life, PosixTimer, Task};
use ferry_sys::remote::Program;

const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
const MADV_GUARD_INSTALL: u64 = 102;
const PR_SET_THP_DISABLE: u64 = 41;
const PR_SET_MDWE: u64 = 65;
const PR_SET_MEMORY_MERGE: u64 = 67;
/// Ids up to this are reached by creating and deleting timers where the kernel cannot be asked for one.
const TIMER_ID_MAX: i32 = 4096;

/// Adds what comes before any thread changes its rights. `tolerated` gets the indices of calls whose failure is only worth a
/// warning.
pub(super) fn settings(
    program: &mut Program,
    task: &Task,
    space: &Space,
    children: &[&Task],
    tolerated: &mut Vec<usize>,
) -> Result<(), Error> {
    directories(program, task)?;
    program.call("set the umask", libc::SYS_umask, &[u64::from(task.umask)]);
    if task.subreaper {
        let args = [libc::PR_SET_CHILD_SUBREAPER as u64, 1, 0, 0, 0];
        program.call("adopt orphans", libc::SYS_prctl, &args);
    }
    for vma in space.vmas.iter().filter(|vma| crate::layout::protected_later(vma)) {
        let args = [vma.start, vma.end - vma.start, u64::from(vma.prot)];
        program.call("protect memory as it was", libc::SYS_mprotect, &args);
    }
    // By now the memory is in: what was there before a guard goes. Before the locks, which it does not like.
    for (start, len) in &space.guards {
        program.call(
            "make a page a guard again (Linux 6.13)",
            libc::SYS_madvise,
            &[*start, *len, MADV_GUARD_INSTALL],
        );
    }
    lock(program, space, tolerated);
    if space.thp_disabled {
        program.call("set the huge page setting", libc::SYS_prctl, &[PR_SET_THP_DISABLE, 1, 0, 0, 0]);
    }
    if space.merge_any {
        program.call("set the merge setting", libc::SYS_prctl, &[PR_SET_MEMORY_MERGE, 1, 0, 0, 0]);
        program.accept(&[libc::EINVAL]);
    }
    if space.mdwe != 0 {
        program.call("set the W^X setting", libc::SYS_prctl, &[PR_SET_MDWE, u64::from(space.mdwe), 0, 0, 0]);
    }
    drain(program, children);
    handlers(program, task)?;
    limits(program, task, tolerated)
}

/// Puts the process' end to what it may have: timers, which may fire from now on.
pub(super) fn timers(program: &mut Program, task: &Task, restore_ids: bool) -> Result<(), Error> {
    for (which, timer) in task.interval_timers.iter().enumerate() {
        if timer.value_us == 0 && timer.interval_us == 0 {
            continue;
        }
        let words = [
            timer.interval_us / 1_000_000,
            timer.interval_us % 1_000_000,
            timer.value_us / 1_000_000,
            timer.value_us % 1_000_000,
        ];
        let setting = program.data(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
        program.call("set an interval timer", libc::SYS_setitimer, &[which as u64, setting, 0]);
    }
    if task.timers.is_empty() {
        return Ok(());
    }
    if restore_ids {
        program.call("choose timer ids", libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0]);
    }
    let mut sorted: Vec<&PosixTimer> = task.timers.iter().collect();
    sorted.sort_by_key(|timer| timer.id);
    let mut next = 0;
    for timer in sorted {
        if timer.id < 0 || (!restore_ids && timer.id > TIMER_ID_MAX) {
            return Err(Error::unfit(
                task.pid,
                format!("this kernel cannot make a timer with the id {}", timer.id),
            ));
        }
        while !restore_ids && next < timer.id {
            create(program, task, timer, next);
            program.call("delete a timer", libc::SYS_timer_delete, &[next as u64]);
            next += 1;
        }
        create(program, task, timer, timer.id);
        next = timer.id + 1;
    }
    if restore_ids {
        program.call(
            "no longer choose timer ids",
            libc::SYS_prctl,
            &[PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0],
        );
    }
    for timer in &task.timers {
        if timer.value_ns == 0 {
            continue;
        }
        let words = [
            timer.interval_ns / 1_000_000_000,
            timer.interval_ns % 1_000_000_000,
            timer.value_ns / 1_000_000_000,
            timer.value_ns % 1_000_000_000,
        ];
        let setting = program.data(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
        program.call("set a timer", libc::SYS_timer_settime, &[timer.id as u64, 0, setting, 0]);
    }
    Ok(())
}

fn create(program: &mut Program, task: &Task, timer: &PosixTimer, id: i32) {
    let mut event = vec![0u8; 64];
    event[..8].copy_from_slice(&timer.value.to_ne_bytes());
    event[8..12].copy_from_slice(&timer.signal.to_ne_bytes());
    event[12..16].copy_from_slice(&timer.notify.to_ne_bytes());
    let thread = if timer.notify & 4 != 0 { timer.thread } else { task.pid };
    event[16..20].copy_from_slice(&thread.to_ne_bytes());
    let (event, number) = (program.data(&event), program.data(&id.to_ne_bytes()));
    program.call("create a timer", libc::SYS_timer_create, &[timer.clock as u64, event, number]);
}

/// Where the working directory cannot be reached by the path that it had, the restore fails.
fn directories(program: &mut Program, task: &Task) -> Result<(), Error> {
    let mut path = |path: &[u8]| {
        if !path.starts_with(b"/") || path.contains(&0) {
            return Err(Error::Damaged(format!("process {} has a directory without a path", task.pid)));
        }
        Ok(program.data(&[path, b"\0"].concat()))
    };
    let removed = task.cwd.strip_suffix(b" (deleted)".as_slice());
    // A directory that was removed is made again under another name, entered, and removed again.
    let cwd = match removed {
        Some(old) => path(&[old, b".ferry-removed"].concat())?,
        None => path(&task.cwd)?,
    };
    let root = if task.root == b"/" || task.root.is_empty() { None } else { Some(path(&task.root)?) };
    let what = format!("change to the directory {}", String::from_utf8_lossy(&task.cwd));
    if removed.is_some() {
        program.call("make a directory that had been removed", libc::SYS_mkdir, &[cwd, 0o700]);
    }
    program.call(what, libc::SYS_chdir, &[cwd]);
    if removed.is_some() {
        program.call("remove a directory again", libc::SYS_rmdir, &[cwd]);
    }
    if let Some(root) = root {
        let what = format!("change the root to {}", String::from_utf8_lossy(&task.root));
        program.call(what, libc::SYS_chroot, &[root]);
    }
    Ok(())
}

fn lock(program: &mut Program, space: &Space, tolerated: &mut Vec<usize>) {
    const MLOCK_ONFAULT: u64 = 1;
    for vma in space.vmas.iter().filter(|vma| vma.flags & vma::LOCKED != 0) {
        if matches!(vma.backing, Backing::Kernel { .. }) {
            continue;
        }
        let flags = if vma.flags & vma::LOCK_ON_FAULT != 0 { MLOCK_ONFAULT } else { 0 };
        let index = program.call("lock memory", libc::SYS_mlock2, &[vma.start, vma.end - vma.start, flags]);
        // Over the limit of this host: it runs, but may be swapped.
        program.accept(&[libc::EPERM, libc::ENOMEM, libc::EAGAIN]);
        tolerated.push(index);
    }
}

/// Takes away the signals by which children that died or stopped on the way have announced it, and the reports of stops that had
/// been collected before.
fn drain(program: &mut Program, children: &[&Task]) {
    let mut signals = 0u64;
    for child in children.iter().filter(|child| child.life != Life::Running) {
        if let Life::Stopped { uncollected: false, .. } = child.life {
            let options = (libc::WUNTRACED | libc::WNOHANG | libc::__WALL) as u64;
            program.call("collect a stop again", libc::SYS_wait4, &[child.pid as u64, 0, options, 0]);
        }
        if (1..=64).contains(&child.exit_signal) {
            signals |= 1 << (child.exit_signal - 1);
        }
    }
    // A stop is always told by SIGCHLD.
    if children.iter().any(|child| matches!(child.life, Life::Stopped { .. })) {
        signals |= 1 << (libc::SIGCHLD - 1);
    }
    if signals == 0 {
        return;
    }
    let (set, now) = (program.data(&signals.to_ne_bytes()), program.data(&[0u8; 16]));
    for _ in 0..=children.len() {
        program.call("forget that a child ended", libc::SYS_rt_sigtimedwait, &[set, 0, now, 8]);
        program.accept(&[libc::EAGAIN]);
    }
}

fn handlers(program: &mut Program, task: &Task) -> Result<(), Error> {
    if task.actions.len() != 64 {
        return Err(Error::Damaged(format!(
            "process {} has {} signal actions",
            task.pid,
            task.actions.len()
        )));
    }
    for (at, action) in task.actions.iter().enumerate() {
        let signal = at as u64 + 1;
        if [libc::SIGKILL as u64, libc::SIGSTOP as u64].contains(&signal) {
            continue;
        }
        let words = [action.handler, action.flags, action.restorer, action.mask];
        let action = program.data(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>());
        program.call("set a signal's action", libc::SYS_rt_sigaction, &[signal, action, 0, 8]);
    }
    Ok(())
}

fn limits(program: &mut Program, task: &Task, tolerated: &mut Vec<usize>) -> Result<(), Error> {
    if task.limits.len() > 16 {
        return Err(Error::Damaged(format!("process {} has {} limits", task.pid, task.limits.len())));
    }
    for (resource, (soft, hard)) in task.limits.iter().enumerate() {
        let both = program.data(&[soft.to_ne_bytes(), hard.to_ne_bytes()].concat());
        let index = program.call("set a resource limit", libc::SYS_prlimit64, &[0, resource as u64, both, 0]);
        // Without CAP_SYS_RESOURCE a hard limit above this host's cannot be had.
        program.accept(&[libc::EPERM]);
        tolerated.push(index);
    }
    Ok(())
}
