//! Work done inside of another mount and network namespace, on a thread of its own that ends with it.
//!
//! Sockets belong to the network namespace of the thread that made them and paths to the root of the thread that walked
//! them; descriptors belong to the whole process. So a short-lived thread goes in, opens things, and leaves them here.
#![allow(unsafe_code)]

use rustix::fd::{AsRawFd, BorrowedFd};
use std::io;

/// Where to go. `None` stays where the caller is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    /// A mount namespace (`/proc/PID/ns/mnt`). Root and working directory become that namespace's root.
    pub mount: Option<BorrowedFd<'a>>,
    /// A network namespace (`/proc/PID/ns/net`).
    pub net: Option<BorrowedFd<'a>>,
}

/// Runs `work` in `place` on a thread of its own. A panic in there goes on here.
///
/// The thread has its own root, working directory and umask (0), whatever `place` says.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, EAGAIN when no thread can be made.
pub fn within<T: Send>(place: Place<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().spawn_scoped(scope, || {
            // SAFETY: unshare takes this thread's file system attributes (not its descriptors) apart from the others'.
            check(unsafe { libc::unshare(libc::CLONE_FS) })?;
            for (fd, kind) in [(place.net, libc::CLONE_NEWNET), (place.mount, libc::CLONE_NEWNS)] {
                if let Some(fd) = fd {
                    // SAFETY: setns changes only the calling thread, which ends below.
                    check(unsafe { libc::setns(fd.as_raw_fd(), kind) })?;
                }
            }
            rustix::process::umask(rustix::fs::Mode::empty());
            Ok(work())
        })?;
        match inside.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Moves the calling thread's root to `directory` and its working directory to the new root. Only for threads made by
/// [`within`]: others share theirs.
///
/// # Errors
/// EPERM without CAP_SYS_CHROOT, ENOTDIR.
pub fn chroot_here(directory: &std::path::Path) -> io::Result<()> {
    rustix::process::chroot(directory)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Moves the calling thread into the network namespace `net`. Only for threads made by [`within`] or that end soon.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN.
pub fn join_net(net: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns changes only the calling thread.
    check(unsafe { libc::setns(net.as_raw_fd(), libc::CLONE_NEWNET) })
}

fn check(done: i32) -> io::Result<()> {
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
