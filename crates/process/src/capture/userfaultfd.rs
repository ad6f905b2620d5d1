//! A userfaultfd of a running process, for whoever tracks its memory from outside.
//!
//! The process has to open it itself, and must not keep it: a forked child would inherit it, and a capture would find it. So it opens and
//! closes it in one batch, and stands still in between while a copy is taken. If this process dies at that moment, the batch goes on
//! by itself and closes it. Its other threads run then, too: so it closes what the first call returned, whatever number that is (a call
//! in between copies it to where the last one has its argument).

use super::seize::Seized;
use super::site::{Site, thread_site};
use super::{Error, memory, tree};
use ferry_sys::remote::Reach;
use ferry_sys::userfaultfd::{SYSCALL, TRACK_FLAGS};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::io;

impl Seized {
    /// Opens one in the only process that is seized. The caller releases it afterwards, whatever came out.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a process that cannot be captured either; what the kernel says where the process may not open one
    /// (its limit of descriptors is reached).
    pub(crate) fn take_userfaultfd(&mut self) -> Result<OwnedFd, Error> {
        if self.tasks[0].threads.is_empty() {
            return Err(Error::Empty);
        }
        tree::refuse(&self.tasks, 0)?;
        self.settle_threads(0)?;
        let pid = self.tasks[0].ids.host_pid;
        let maps = memory::mappings(pid)?;
        Site::enter(self, 0, &maps)?;
        let Some(site) = &self.tasks[0].site else { unreachable!("it has just been entered") };
        let mut program = site.program();
        let result = program.call("open a userfaultfd", SYSCALL, &[TRACK_FLAGS as u64]);
        let (from, to) = (site.record(result) + 7 * WORD, site.record(result + 2) + WORD);
        let from = program.data(&[from.to_ne_bytes(), WORD.to_ne_bytes()].concat());
        let to = program.data(&[to.to_ne_bytes(), WORD.to_ne_bytes()].concat());
        let itself = self.tasks[0].ids.ns_pid as u64;
        program.call(
            "copy the number of the userfaultfd",
            libc::SYS_process_vm_readv,
            &[itself, to, 1, from, 1, 0],
        );
        program.call("close the userfaultfd", libc::SYS_close, &[u64::MAX]);
        program.accept(&[libc::EBADF]);
        let reach = Reach::Process(pid);
        reach.load(&program)?;
        let (tracee, call) = (self.tasks[0].tracee(0), thread_site(&self.tasks[0], 0));
        let records = site.record(result);
        self.tasks[0].threads[0].dirty = true;
        let take = |number: i64| take(pid, i32::try_from(number).unwrap_or(-1));
        let taken = self.machine.run_with_a_look(tracee, &call, records, program.len(), take)?;
        reach.store(&mut program)?;
        program.check(0..program.len())?;
        taken.map_err(Error::read("the userfaultfd", pid))
    }
}

const WORD: u64 = 8;

fn take(pid: i32, number: i32) -> io::Result<OwnedFd> {
    let process = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(process, PidfdFlags::empty())?;
    Ok(pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())?)
}
