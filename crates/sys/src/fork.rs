//! New processes: `fork(2)` and `clone3(2)` with namespaces, a cgroup to be born in, and chosen process ids.
//!
//! The child goes on in a copy of the caller's memory with one thread. Nothing here checks that the caller had only
//! one: the shim has; tests have more, and their children use nothing that another thread may have held locked.
#![allow(unsafe_code)]

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::io;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's id in its own pid namespace, and a pidfd where it was asked for.
    Parent(i32, Option<OwnedFd>),
}

/// For [`Clone3::flags`]: both have one table of descriptors. What one opens is open in the other, and what one closes is closed there.
pub const SHARED_DESCRIPTORS: u64 = libc::CLONE_FILES as u64;

/// For [`Clone3::exit_signal`]: SIGCHLD.
pub const CHILD_ENDED: i32 = libc::SIGCHLD;

/// For [`set_limit`]: the most descriptors that a process may open (RLIMIT_NOFILE).
pub const DESCRIPTORS_LIMIT: u32 = libc::RLIMIT_NOFILE;

/// How to make a new process.
#[derive(Debug, Default)]
pub struct Clone3<'a> {
    /// `CLONE_NEW*`, `CLONE_PARENT`, `CLONE_CLEAR_SIGHAND`. Anything by which memory or threads are shared is refused.
    pub flags: u64,
    /// Signal that the parent gets at its end; 0 with `CLONE_PARENT`.
    pub exit_signal: i32,
    /// Process ids, from the innermost pid namespace outwards; empty: the kernel chooses.
    pub set_tid: &'a [i32],
    /// Version 2 cgroup that it is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whether a pidfd is wanted.
    pub pidfd: bool,
}

/// Copies the calling process.
///
/// # Errors
/// EAGAIN and ENOMEM at limits.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: no memory is shared with the child; what a fork of several threads can do is to block, not to corrupt.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid, None)),
    }
}

/// Copies the calling process as `how` says.
///
/// # Errors
/// EINVAL for flags that share memory or that this kernel lacks, EEXIST when a chosen id is taken, EPERM without the
/// capability for namespaces or chosen ids.
pub fn clone3(how: &Clone3<'_>) -> io::Result<Forked> {
    const SHARING: u64 =
        (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_SETTLS | libc::CLONE_VFORK)
            as u64;
    if how.flags & SHARING != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut pidfd: i32 = -1;
    let mut flags = how.flags;
    if how.pidfd {
        flags |= libc::CLONE_PIDFD as u64;
    }
    if how.cgroup.is_some() {
        flags |= linux_raw_sys::general::CLONE_INTO_CGROUP;
    }
    let args = linux_raw_sys::general::clone_args {
        flags,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: how.exit_signal as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: if how.set_tid.is_empty() { 0 } else { how.set_tid.as_ptr() as u64 },
        set_tid_size: how.set_tid.len() as u64,
        cgroup: how.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: `args` and what it points to outlive the call; without CLONE_VM and a stack the child runs on a copy of
    // this stack, as after fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us.
            let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
            Ok(Forked::Parent(pid as i32, pidfd))
        }
    }
}

/// Ends the calling process at once: no destructors, no buffers written. For children of a fork.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: it does not return, and touches nothing of ours.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor from `first` to `last`. For children of a fork that own what they keep below `first`.
///
/// # Errors
/// ENOSYS before Linux 5.9.
pub fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closing descriptors cannot touch memory; the caller is a fork that uses none of them again.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor but these. As [`close_range`].
///
/// # Errors
/// ENOSYS before Linux 5.9.
pub fn keep_only(kept: &[i32]) -> io::Result<()> {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let mut first = 0;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

/// The descriptor with this number, which a process that shares this one's table has opened, or one of whose fork this is. It is the
/// caller's from now on: nobody else may close it.
///
/// # Errors
/// EBADF when there is none.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: asking for the flags of a number changes nothing.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by this function's contract nobody else closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A copy of the descriptor with this number, whoever it belongs to.
///
/// # Errors
/// EBADF when there is none, EMFILE at the limit of descriptors.
pub fn copy_of(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: copying a descriptor touches no memory; the copy is new and ours.
    unsafe {
        match libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Blocks every signal for this thread.
///
/// # Errors
/// None in practice.
pub fn block_all_signals() -> io::Result<()> {
    // SAFETY: sigset_t is plain data, filled before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        match libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Lets every signal through to this thread: a program is born with its maker's mask.
///
/// # Errors
/// None in practice.
pub fn unblock_all_signals() -> io::Result<()> {
    // SAFETY: sigset_t is plain data, filled before it is used; only this thread's mask changes.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        match libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A descriptor that becomes readable when a child has changed its state. SIGCHLD must be blocked.
///
/// # Errors
/// EMFILE at the limit of descriptors.
pub fn child_signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: sigset_t is plain data, filled before it is used; the descriptor is new and ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Resets every signal's action to the default, as a program expects it that is about to be executed.
pub fn default_signal_actions() {
    for signal in 1..=64 {
        // SAFETY: a null handler is SIG_DFL; signals that cannot be set are refused by the kernel.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// Sets a resource limit (`RLIMIT_*`) of the calling process; `u64::MAX` is none.
///
/// # Errors
/// EPERM for a hard limit above the present one without CAP_SYS_RESOURCE.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call.
    match unsafe { libc::prlimit64(0, resource as _, &raw const limit, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for a child and gives its raw wait status; `None` when `block` is false and none has ended. `pid` -1 is any.
///
/// # Errors
/// ECHILD when there is no such child.
pub fn wait(pid: i32, block: bool) -> io::Result<Option<(i32, i32)>> {
    let mut status = 0;
    let options = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: `status` outlives the call.
        match unsafe { libc::waitpid(pid, &raw mut status, options) } {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            0 => return Ok(None),
            pid => return Ok(Some((pid, status))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_with_its_own_pid_namespace_is_number_one_in_it() {
        let how = Clone3 {
            flags: libc::CLONE_NEWPID as u64,
            exit_signal: libc::SIGCHLD,
            pidfd: true,
            ..Default::default()
        };
        match clone3(&how).expect("clone3 as root") {
            Forked::Child => exit_now(i32::from(rustix::process::getpid().as_raw_pid() != 1)),
            Forked::Parent(pid, pidfd) => {
                assert!(pidfd.is_some());
                assert_eq!(wait(pid, true).unwrap(), Some((pid, 0)));
            }
        }
    }

    #[test]
    fn sharing_memory_is_refused() {
        let how = Clone3 { flags: libc::CLONE_VM as u64, ..Default::default() };
        assert_eq!(clone3(&how).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
