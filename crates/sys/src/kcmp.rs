//! `kcmp(2)`: whether two tasks share a kernel object, and an order in which such objects can be sorted.
//!
//! The order is arbitrary but fixed while the objects live, so n descriptors need n log n calls, not n squared.
#![allow(unsafe_code)]

use std::cmp::Ordering;
use std::io;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum What {
    /// Open file descriptions, by descriptor.
    File = 0,
    /// Address spaces.
    Space = 1,
    /// Descriptor tables.
    Files = 2,
    /// Root, working directory, umask.
    FileSystem = 3,
    /// Tables of signal handlers.
    Handlers = 4,
    /// I/O contexts.
    Io = 5,
    /// System V semaphore undo lists.
    Semaphores = 6,
}

fn kcmp(one: i32, two: i32, what: i32, a: u64, b: u64) -> io::Result<Ordering> {
    // SAFETY: kcmp only reads; for KCMP_EPOLL_TFD `b` is the address of a live structure (below).
    match unsafe { libc::syscall(libc::SYS_kcmp, one, two, what, a, b) } {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(Ordering::Greater),
    }
}

/// Compares what tasks `one` and `two` have, in the caller's pid namespace.
///
/// # Errors
/// ESRCH for a task that is gone, EPERM without the right to trace them.
pub fn compare(one: i32, two: i32, what: What) -> io::Result<Ordering> {
    kcmp(one, two, what as i32, 0, 0)
}

/// Compares the description behind descriptor `a` of task `one` with that behind `b` of task `two`.
///
/// # Errors
/// EBADF for a descriptor that is not open; as [`compare`] else.
pub fn compare_files(one: i32, a: i32, two: i32, b: i32) -> io::Result<Ordering> {
    kcmp(one, two, What::File as i32, a as u64, b as u64)
}

#[repr(C)]
struct EpollSlot {
    efd: u32,
    tfd: u32,
    toff: u32,
}

/// Compares the description behind descriptor `file` of task `one` with entry number `offset` among those added under the
/// number `target` to the epoll set `epoll` of task `two`.
///
/// # Errors
/// ENOENT when there is no such entry; as [`compare_files`] else.
pub fn compare_epoll(
    one: i32,
    file: i32,
    two: i32,
    epoll: i32,
    target: i32,
    offset: u32,
) -> io::Result<Ordering> {
    let slot = EpollSlot { efd: epoll as u32, tfd: target as u32, toff: offset };
    kcmp(one, two, 7, file as u64, &raw const slot as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsRawFd;

    #[test]
    fn tells_duplicates_from_others() {
        let (a, b) = std::io::pipe().unwrap();
        let again = a.try_clone().unwrap();
        let me = std::process::id() as i32;
        assert_eq!(compare_files(me, a.as_raw_fd(), me, again.as_raw_fd()).unwrap(), Ordering::Equal);
        assert_ne!(compare_files(me, a.as_raw_fd(), me, b.as_raw_fd()).unwrap(), Ordering::Equal);
        assert_eq!(compare(me, me, What::Files).unwrap(), Ordering::Equal);
    }
}
