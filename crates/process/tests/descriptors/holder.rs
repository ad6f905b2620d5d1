//! A process that holds descriptors and does nothing, and what every test does with it.

use ferry_process::capture::files::{Captured, Error, FilesContext, TaskRef, capture};
use ferry_process::records::file::{Description, Files};
use ferry_process::restore::files::{Recreated, RestoreContext};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{FdFlags, fcntl_setfd};
use std::process::{Child, Command, Stdio};

/// `sleep`, with the descriptors that were given to it under the numbers that they had here.
pub struct Holder {
    child: Child,
    pub task: TaskRef,
}

impl Holder {
    /// Starts it. `fds` are closed here.
    pub fn with(fds: Vec<OwnedFd>) -> Self {
        // What the test runner left open in this process is not the holder's.
        ferry_sys::close_range::close_on_exec_from(3).unwrap();
        for fd in &fds {
            fcntl_setfd(fd, FdFlags::empty()).unwrap();
        }
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let pid = child.id() as i32;
        Self { child, task: TaskRef { host_pid: pid, ns_pid: pid } }
    }

    pub fn capture(&self) -> Result<Captured, Error> {
        capture(&[self.task], &FilesContext::default())
    }

    /// Captures, kills the holder, and makes everything again.
    pub fn move_here(mut self) -> Moved {
        let captured = self.capture().unwrap();
        self.kill();
        drop(captured.held);
        // What is not in the records does not travel.
        let files: Files = minicbor::decode(&minicbor::to_vec(&captured.files).unwrap()).unwrap();
        let made = Recreated::create(&files, &RestoreContext::default()).unwrap();
        Moved { files, made }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What was made again.
pub struct Moved {
    pub files: Files,
    pub made: Recreated,
}

impl Moved {
    /// The descriptor that had the number `fd`.
    pub fn fd(&self, fd: i32) -> BorrowedFd<'_> {
        self.made.descriptor(self.number(fd)).unwrap()
    }

    pub fn number(&self, fd: i32) -> u32 {
        self.files.tables[0].descriptors.iter().find(|own| own.fd == fd).unwrap().description
    }

    pub fn description(&self, fd: i32) -> &Description {
        &self.files.descriptions[self.number(fd) as usize]
    }
}

/// The number of a descriptor, for later.
pub fn number(fd: impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}

/// Reads what is there, at most `len` bytes.
pub fn read(fd: impl AsFd, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let len = rustix::io::read(fd, &mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

/// Runs `work` in a network namespace of its own with the loopback device up.
pub fn in_own_network<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            ferry_sys::unshare::unshare(ferry_sys::unshare::UnshareFlags::NEWNET).unwrap();
            ferry_sys::netdevice::set_up("lo").unwrap();
            work()
        });
        match inside.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
