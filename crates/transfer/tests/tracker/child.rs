//! The tracked process, seen from the test: it does what it is told, and ends with the test.

use ferry_sys::userfaultfd;
use ferry_transfer::linux::TaskTracker;
use ferry_transfer::space::{Range, SpaceId};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub const PAGE: u64 = 4096;

pub const MMAP: i64 = 9;
pub const MPROTECT: i64 = 10;
pub const MUNMAP: i64 = 11;
pub const BRK: i64 = 12;
pub const MREMAP: i64 = 25;
pub const MADVISE: i64 = 28;
const READ: i64 = 0;
const CLOSE: i64 = 3;
const IOCTL: i64 = 16;

pub const PRIVATE: i64 = 2;
pub const SHARED: i64 = 1;
pub const FIXED: i64 = 0x10;
pub const GROWSDOWN: i64 = 0x100;
const ANONYMOUS: i64 = 0x20;
const NOHUGEPAGE: i64 = 15;
pub const DONTNEED: i64 = 4;

pub struct Tracked {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Tracked {
    /// Starts it; it may map `file`.
    pub fn start(file: &std::path::Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tracker/child.py");
        let mut command = Command::new("python3");
        command.args([script.as_ref(), file.as_os_str()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 is one of the packages that tests need");
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let mut tracked = Self { child, to, from };
        tracked.ready();
        tracked
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits until it (or the program that it executes now) listens.
    pub fn ready(&mut self) {
        assert_eq!(self.line(), "ready");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub fn send(&mut self, line: &str) {
        writeln!(self.to, "{line}").unwrap();
    }

    pub fn tell(&mut self, line: &str) -> i64 {
        self.send(line);
        let answer = self.line();
        answer.parse().unwrap_or_else(|_| panic!("{line}: {answer:?}"))
    }

    /// A system call in it.
    pub fn call(&mut self, number: i64, arguments: &[i64]) -> i64 {
        let words: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let result = self.tell(&format!("call {number} {}", words.join(" ")));
        assert!(!(-4095..0).contains(&result), "call {number} {arguments:?}: {result}");
        result
    }

    /// Maps small pages, anonymous; at `at` or where it likes.
    pub fn map(&mut self, at: Option<u64>, pages: u64, flags: i64) -> u64 {
        let fixed = if at.is_some() { FIXED } else { 0 };
        let (at, len) = (at.unwrap_or(0) as i64, (pages * PAGE) as i64);
        let at = self.call(MMAP, &[at, len, 3, ANONYMOUS | fixed | flags, -1, 0]);
        self.call(MADVISE, &[at, len, NOHUGEPAGE]);
        at as u64
    }

    pub fn map_file(&mut self, pages: u64, flags: i64) -> u64 {
        let file = self.tell("own 0");
        self.call(MMAP, &[0, (pages * PAGE) as i64, 3, flags, file, 0]) as u64
    }

    /// Writes one byte to each of these pages.
    pub fn write(&mut self, at: u64, pages: impl IntoIterator<Item = u64>, value: u8) {
        for page in pages {
            self.tell(&format!("poke {} {value}", at + page * PAGE + 11));
        }
    }

    /// Lets the kernel write: random bytes are read into the memory.
    pub fn read_into(&mut self, at: u64, len: u64) {
        let file = self.tell("open 0");
        assert_eq!(self.call(READ, &[file, at as i64, len as i64]), len as i64);
        self.call(CLOSE, &[file]);
    }

    /// Opens a userfaultfd in it and takes it from there, as the owner of a ptrace would.
    fn take_userfaultfd(&mut self) -> OwnedFd {
        let there = self.call(userfaultfd::SYSCALL, &[userfaultfd::TRACK_FLAGS.into()]);
        let pidfd = pidfd_open(Pid::from_raw(self.pid()).unwrap(), PidfdFlags::empty()).unwrap();
        let here = pidfd_getfd(pidfd, there as i32, PidfdGetfdFlags::empty()).unwrap();
        self.call(CLOSE, &[there]);
        here
    }

    pub fn tracker(&mut self) -> TaskTracker {
        self.tracker_of(3)
    }

    pub fn tracker_of(&mut self, space: u32) -> TaskTracker {
        let fd = self.take_userfaultfd();
        TaskTracker::new(SpaceId(space), self.pid(), fd).unwrap()
    }

    /// It registers a range with a userfaultfd of its own, for missing pages.
    pub fn register_own(&mut self, at: u64, pages: u64, scratch: u64) {
        let fd = self.call(userfaultfd::SYSCALL, &[userfaultfd::FLAGS.into()]);
        self.put(scratch, &[0xaa, 0, 0]);
        self.call(IOCTL, &[fd, 0xc018_aa3f, scratch as i64]);
        self.put(scratch, &[at, pages * PAGE, 1, 0]);
        self.call(IOCTL, &[fd, 0xc020_aa00, scratch as i64]);
    }

    fn put(&mut self, at: u64, words: &[u64]) {
        for (offset, byte) in words.iter().flat_map(|word| word.to_le_bytes()).enumerate() {
            self.tell(&format!("poke {} {byte}", at + offset as u64));
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Some pages of `at`, as ranges.
pub fn pages(at: u64, pages: std::ops::Range<u64>) -> Range {
    Range { start: at + pages.start * PAGE, len: (pages.end - pages.start) * PAGE }
}
