//! Which address space a process has: how an execve, or another process with the same pid, is noticed without stopping anything.

use crate::capture::Error;
use ferry_sys::proc::{self, stat};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// An address space that a process had when it was looked at.
#[derive(Debug)]
pub(super) struct Identity {
    start_time: u64,
    /// Addresses that the kernel chose for this program, and where its random bytes are.
    auxv: Vec<u8>,
    /// Reads nothing once the last process has left the address space.
    memory: File,
}

impl Identity {
    /// That of process `pid`, if it has one now: a zombie, and one that is just executing a program, have none.
    pub(super) fn of(pid: i32) -> Result<Option<Self>, Error> {
        let read = || -> io::Result<Option<Self>> {
            let memory = File::open(format!("/proc/{pid}/mem"))?;
            let identity = Self { start_time: start_time(pid)?, auxv: proc::read(pid, "auxv")?, memory };
            Ok(Some(identity).filter(|identity| !identity.auxv.is_empty() && identity.lives()))
        };
        match read() {
            Err(error) if gone(&error) => Ok(None),
            result => result.map_err(Error::read("the memory", pid)),
        }
    }

    /// Whether process `pid` still has it.
    pub(super) fn is_of(&self, pid: i32) -> bool {
        // The auxiliary vector last: it is read from the address space that the process has then.
        start_time(pid).is_ok_and(|start| start == self.start_time)
            && self.lives()
            && proc::read(pid, "auxv").is_ok_and(|auxv| auxv == self.auxv)
    }

    /// Whether some process is in it. A page that is not mapped is an error of another kind.
    fn lives(&self) -> bool {
        !matches!(self.memory.read_at(&mut [0], 4096), Ok(0))
    }
}

fn start_time(pid: i32) -> io::Result<u64> {
    stat::read(pid).map(|stat| stat.start_time)
}

/// Whether an error says that a process has ended.
pub(super) fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    /// In the middle of an execve (also when its parent goes on) the memory is the new one, and where its arguments are is not known yet.
    fn at_rest(pid: i32) -> Identity {
        let begin = Instant::now();
        loop {
            let found = Identity::of(pid).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            match found {
                Some(found) if found.is_of(pid) => return found,
                _ => assert!(begin.elapsed() < Duration::from_secs(60), "it does not come to rest"),
            }
        }
    }

    #[test]
    fn an_execve_and_an_end_are_noticed() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read line; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let pid = child.id() as i32;
        let before = at_rest(pid);
        assert!(before.is_of(pid) && !before.is_of(std::process::id() as i32));
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let begin = Instant::now();
        while before.is_of(pid) {
            assert!(begin.elapsed() < Duration::from_secs(60), "it does not execute the program");
            std::thread::sleep(Duration::from_millis(1));
        }
        let after = at_rest(pid);
        assert!(after.is_of(pid) && !before.is_of(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!after.is_of(pid) && Identity::of(pid).unwrap().is_none());
    }
}
