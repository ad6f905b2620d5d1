//! Process descriptors: what rustix lacks.

use rustix::fd::{AsRawFd, BorrowedFd};
use std::{fs, io};

/// The id of a pidfd's process, in the caller's pid namespace.
///
/// # Errors
/// ESRCH when it has ended, EBADF when it is no pidfd.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    match pid.and_then(|pid| pid.trim().parse::<i32>().ok()) {
        Some(pid) if pid > 0 => Ok(pid),
        Some(_) => Err(rustix::io::Errno::SRCH.into()),
        None => Err(rustix::io::Errno::BADF.into()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fd::AsFd;
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    #[test]
    fn a_pidfd_tells_its_process() {
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        assert_eq!(super::pid_of(pidfd.as_fd()).unwrap(), getpid().as_raw_pid());
    }
}
