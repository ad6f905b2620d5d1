//! Starting programs in a capsule, and learning of their ends.

use super::Capsule;
use super::error::{Doing, Error, Result};
use super::line::{self, Description, Event, START};
use super::spec::Command;
use ferry_sys::scm;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::Signal;
use std::io::{self, Read};

/// Longest error of a program that could not be started.
const ERROR_BYTES_MAX: u64 = 4096;

/// A program that was started.
#[derive(Debug)]
pub struct Started {
    /// Its process id, inside.
    pub pid: i32,
    /// Its process id, in this process' pid namespace; 0 when it has ended already.
    pub host_pid: i32,
    /// A descriptor of it.
    pub pidfd: OwnedFd,
}

/// A direct child of init that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its process id, inside.
    pub pid: i32,
    /// Raw wait status.
    pub status: i32,
}

impl Ended {
    /// Exit code as a shell gives it: 128 plus the signal's number for one that was killed.
    #[must_use]
    pub fn code(&self) -> i32 {
        let signal = self.status & 0x7f;
        if signal == 0 { (self.status >> 8) & 0xff } else { 128 + signal }
    }

    /// The signal that killed it.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        Some(self.status & 0x7f).filter(|signal| *signal != 0)
    }
}

impl Capsule {
    /// Starts a program as a child of init, in a session of its own, in the workload's cgroup. The first one gets
    /// process id 2.
    ///
    /// # Errors
    /// The step that failed: the program is not there, the user may not, the workload is frozen.
    pub fn spawn(&mut self, command: &Command) -> Result<Started> {
        if self.cgroup().freezing().doing(|| "look at the capsule's cgroup".into())? {
            return Err(Error::Invalid("The workload is frozen: nothing can be started in it now".into()));
        }
        let description = Description::from(command).to_file()?;
        let null;
        let mut stdio: Vec<BorrowedFd<'_>> = command.stdio.iter().map(AsFd::as_fd).collect();
        if stdio.len() < 3 {
            // Init's own descriptors are the capsule's /dev/null.
            null = super::within::open(
                self.root.as_fd(),
                std::path::Path::new("/dev/null"),
                rustix::fs::OFlags::RDWR,
            )
            .doing(|| "open /dev/null in the capsule".into())?;
            stdio.resize(3, null.as_fd());
        }
        let (mut errors, error_writer) = io::pipe().doing(|| "make a pipe".into())?;
        let mut descriptors = vec![description.as_fd(), error_writer.as_fd(), self.groups.work.as_fd()];
        descriptors.extend(&stdio[..3]);
        scm::send(&self.line, &[START], &descriptors).doing(|| "reach the capsule's init".into())?;
        drop(descriptors);
        drop(error_writer);
        let (pid, pidfd) = loop {
            let event =
                line::receive(self.line.as_fd(), true).doing(|| "hear from the capsule's init".into())?;
            match event {
                Some((Event::Started(pid), Some(pidfd))) => break (pid, pidfd),
                Some((Event::NotStarted(errno), _)) => {
                    let source = io::Error::from_raw_os_error(errno);
                    return Err(Error::Kernel { doing: "make a process in the capsule".into(), source });
                }
                Some((Event::Ended(pid, status), _)) => self.ended.push_back(Ended { pid, status }),
                _ => return Err(Error::Invalid("The capsule's init gave no process".into())),
            }
        };
        let mut words = Vec::new();
        errors
            .by_ref()
            .take(ERROR_BYTES_MAX)
            .read_to_end(&mut words)
            .doing(|| "hear from the new program".into())?;
        if let Some((errno, doing)) = words.split_first_chunk::<4>() {
            let name =
                command.argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            self.forget(pid)?;
            return Err(Error::Kernel {
                doing: format!("{} ({name})", String::from_utf8_lossy(doing)),
                source: io::Error::from_raw_os_error(i32::from_le_bytes(*errno)),
            });
        }
        let host_pid = ferry_sys::pidfd::pid_of(pidfd.as_fd()).unwrap_or_default();
        Ok(Started { pid, host_pid, pidfd })
    }

    /// Runs one more program in it, as `ferry exec` does: as [`Self::spawn`], it becomes a child of init too.
    ///
    /// # Errors
    /// As [`Self::spawn`].
    pub fn exec(&mut self, command: &Command) -> Result<Started> {
        self.spawn(command)
    }

    /// Swallows the end of a process that never became a program.
    fn forget(&mut self, pid: i32) -> Result<()> {
        loop {
            if let Some(at) = self.ended.iter().position(|ended| ended.pid == pid) {
                self.ended.remove(at);
                return Ok(());
            }
            match line::receive(self.line.as_fd(), true).doing(|| "hear from the capsule's init".into())? {
                Some((Event::Ended(pid, status), _)) => self.ended.push_back(Ended { pid, status }),
                _ => return Err(Error::Invalid("The capsule's init said something unexpected".into())),
            }
        }
    }

    /// Readable when [`Self::next_ended`] may have something to tell, or when init has died.
    #[must_use]
    pub fn events(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    /// The next direct child of init that has ended; waits for one if `wait`. After [`Self::open`] all known ends are
    /// told once more.
    ///
    /// # Errors
    /// [`Error::Gone`] when the capsule itself has ended.
    pub fn next_ended(&mut self, wait: bool) -> Result<Option<Ended>> {
        if let Some(ended) = self.ended.pop_front() {
            return Ok(Some(ended));
        }
        match line::receive(self.line.as_fd(), wait) {
            Ok(Some((Event::Ended(pid, status), _))) => Ok(Some(Ended { pid, status })),
            Ok(Some(_)) => Err(Error::Invalid("The capsule's init said something unexpected".into())),
            Ok(None) => Ok(None),
            Err(_) => Err(Error::Gone(self.directory.display().to_string())),
        }
    }

    /// Sends a signal to a process of it by its id inside.
    ///
    /// # Errors
    /// ESRCH when there is none.
    pub fn signal(&self, pid: i32, signal: Signal) -> Result<()> {
        let host = self.host_pid(pid)?;
        let host =
            rustix::process::Pid::from_raw(host).ok_or_else(|| Error::Invalid("No process id".into()))?;
        rustix::process::kill_process(host, signal).doing(|| format!("signal the process {pid}"))
    }

    /// The id in this process' pid namespace of the workload's process `pid`.
    ///
    /// # Errors
    /// When there is none.
    pub fn host_pid(&self, pid: i32) -> Result<i32> {
        let pids = self.cgroup().procs().doing(|| "list the workload's processes".into())?;
        pids.into_iter()
            .find(|host| inner_pid(*host) == Some(pid))
            .ok_or_else(|| Error::Invalid(format!("There is no process {pid} in the capsule")))
    }
}

/// The id of a process in its innermost pid namespace.
pub(crate) fn inner_pid(host: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{host}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next_back()?.parse().ok()
}
