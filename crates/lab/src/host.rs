//! A host as its owner holds it: run and start commands, cut its cable, crash it.

use crate::error::{At, Error, Result};
use crate::lab::Keeper;
use crate::leftovers::VARIABLE;
use crate::spec::HostSpec;
use crate::wire::{self, Command, FromAgent, ToAgent, ToKeeper};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Signal;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a command may take unless told otherwise.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// How long a host may take to come up.
const START_MAX: Duration = Duration::from_secs(20);

/// One host of a lab. Clones are the same host.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    spec: HostSpec,
    control: Arc<OwnedFd>,
    door: i32,
    keeper: Arc<Keeper>,
    /// Answers of the agent, in order. The lock keeps question and answer together.
    answers: Mutex<Receiver<FromAgent>>,
    ended: Mutex<HashMap<i32, i32>>,
    more: Condvar,
}

/// What a command that has ended left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; for a signal 128 + its number.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A command that runs on a host.
pub struct Process {
    host: Host,
    command: String,
    /// Its pid on the host.
    pub pid: i32,
    stdout: File,
    stderr: File,
}

impl Host {
    pub(crate) fn start(
        spec: HostSpec,
        control: Arc<OwnedFd>,
        door: i32,
        keeper: Arc<Keeper>,
    ) -> Result<Self> {
        let (sender, answers) = channel();
        let inner = Inner {
            spec,
            control: Arc::clone(&control),
            door,
            keeper,
            answers: Mutex::new(answers),
            ended: Mutex::default(),
            more: Condvar::new(),
        };
        let host = Self { inner: Arc::new(inner) };
        let listener = Arc::downgrade(&host.inner);
        std::thread::spawn(move || listen(&control, &sender, &listener));
        let answers = host.inner.answers.lock().unwrap_or_else(PoisonError::into_inner);
        match answers.recv_timeout(START_MAX) {
            Ok(FromAgent::Ready) => {}
            _ => return Err(Error::Gone(host.inner.spec.name.clone())),
        }
        drop(answers);
        Ok(host)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// Its address on the lab's bridge (prefix length 24).
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.inner.spec.address().into()
    }

    /// Where the machine sees a path of the host, while it is up.
    #[must_use]
    pub fn outside(&self, path: &str) -> Option<std::path::PathBuf> {
        let agent = self.outer_pid(1)?;
        Some(Path::new(&format!("/proc/{agent}/root")).join(path.trim_start_matches('/')))
    }

    /// The command by which a person gets a shell on it, while it is up.
    #[must_use]
    pub fn shell(&self) -> Option<String> {
        let agent = self.outer_pid(1)?;
        Some(format!(
            "nsenter --target {agent} --all --wd=/root env HOME=/root PS1='{}# ' bash --norc",
            self.name()
        ))
    }

    /// Runs a command to its end, whatever its exit code.
    ///
    /// # Errors
    /// It cannot be started, or has not ended after a minute (it is killed then).
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output> {
        self.spawn(argv)?.wait(COMMAND_MAX)
    }

    /// Runs a command that must succeed, and gives its standard output.
    ///
    /// # Errors
    /// As [`Host::run`], and when it ends with anything but exit code 0.
    pub fn ok<S: AsRef<str>>(&self, argv: &[S]) -> Result<String> {
        let process = self.spawn(argv)?;
        process.wait(COMMAND_MAX)?.success(&process.command, self.name())
    }

    /// As [`Host::ok`] for a line of shell.
    ///
    /// # Errors
    /// As [`Host::ok`].
    pub fn sh(&self, line: &str) -> Result<String> {
        self.ok(&["/bin/sh", "-ec", line])
    }

    /// Starts a command; its output is collected in memory and can be read while it runs.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn<S: AsRef<str>>(&self, argv: &[S]) -> Result<Process> {
        let nothing = File::open("/dev/null").at("Opening /dev/null")?;
        self.spawn_with(argv, &[], nothing.into())
    }

    /// As [`Host::spawn`], with more variables in its environment and a standard input.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_with<S: AsRef<str>>(
        &self,
        argv: &[S],
        env: &[(&str, &str)],
        stdin: OwnedFd,
    ) -> Result<Process> {
        let collect = |name| memfd_create(name, MemfdFlags::CLOEXEC).at("Making a place for output");
        let (stdout, stderr) = (File::from(collect("stdout")?), File::from(collect("stderr")?));
        // Appending, because several processes may share it, each with an offset of its own after a reopen.
        for file in [&stdout, &stderr] {
            rustix::fs::fcntl_setfl(file, rustix::fs::OFlags::APPEND).at("Making a place for output")?;
        }
        let argv: Vec<String> = argv.iter().map(|arg| arg.as_ref().to_owned()).collect();
        let command = argv.join(" ");
        let mut all = vec![
            ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("HOME".to_owned(), "/root".to_owned()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ("TERM".to_owned(), "dumb".to_owned()),
            (VARIABLE.to_owned(), self.inner.spec.lab.clone()),
        ];
        all.extend(self.inner.spec.env.iter().cloned());
        all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let question = ToAgent::Spawn(Command { argv, env: all, cwd: "/root".to_owned() });
        match self.ask(&question, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])? {
            FromAgent::Spawned(Ok(pid)) => Ok(Process { host: self.clone(), command, pid, stdout, stderr }),
            FromAgent::Spawned(Err(why)) => {
                Err(Error::Helper(format!("`{command}` on {} cannot be started: {why}", self.name())))
            }
            other => Err(Error::Message(format!("{other:?}"))),
        }
    }

    /// Writes a file on the host.
    ///
    /// # Errors
    /// The path cannot be written.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let file = memfd_create("content", MemfdFlags::CLOEXEC).at("Passing a file")?;
        let mut file = File::from(file);
        file.write_all(content).at("Passing a file")?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).at("Passing a file")?;
        let process = self.spawn_with(&["/bin/sh", "-c", "exec cat > \"$0\"", path], &[], file.into())?;
        process.wait(COMMAND_MAX)?.success(&process.command, self.name()).map(drop)
    }

    /// Reads a file of the host.
    ///
    /// # Errors
    /// The path cannot be read.
    pub fn read(&self, path: &str) -> Result<String> {
        self.ok(&["/bin/cat", path])
    }

    /// Pulls its cable out of the switch.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn cut_link(&self) -> Result<()> {
        self.inner.keeper.ask(&ToKeeper::Link { number: self.inner.spec.number, up: false }, &[]).map(drop)
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// The lab is gone.
    pub fn heal_link(&self) -> Result<()> {
        self.inner.keeper.ask(&ToKeeper::Link { number: self.inner.spec.number, up: true }, &[]).map(drop)
    }

    /// Limits what it can receive, in bytes a second.
    ///
    /// # Errors
    /// The lab is gone, or the kernel has no token bucket.
    pub fn limit_link(&self, bytes_per_s: u64) -> Result<()> {
        let number = self.inner.spec.number;
        self.inner.keeper.ask(&ToKeeper::Rate { number, bytes_per_s }, &[]).map(drop)
    }

    /// Sends a signal to a process of the host, by its pid there.
    ///
    /// # Errors
    /// No such process.
    pub fn kill(&self, pid: i32, signal: Signal) -> Result<()> {
        self.expect_done(&ToAgent::Kill { pid, signal: signal.as_raw() })
    }

    /// Crashes the host and starts it again: every process is gone and all memory; /var/lib/ferry and what was written to
    /// the root stay; it has another boot id.
    ///
    /// # Errors
    /// Processes that cannot be killed, mounts that cannot be made.
    pub fn reboot(&self) -> Result<()> {
        self.expect_done(&ToAgent::Reboot)
    }

    /// The pid by which the machine knows a process of the host.
    #[must_use]
    pub fn outer_pid(&self, pid: i32) -> Option<i32> {
        let wanted = pid.to_string();
        self.tree().into_iter().find(|outer| {
            let status = std::fs::read_to_string(format!("/proc/{outer}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            // The machine's level first, then the host's; capsules have more.
            numbers.split_ascii_whitespace().nth(1).is_some_and(|inner| inner == wanted)
        })
    }

    /// Whether anything of `other` can be reached from here by file: a mount or an open file in common. Lists what can.
    /// Hosts share nothing by construction; a test that relies on it checks it.
    #[must_use]
    pub fn reaches(&self, other: &Self) -> Vec<String> {
        let theirs = crate::root::private_devices(&other.tree());
        let mut found = Vec::new();
        for pid in self.tree() {
            for (device, what) in crate::root::devices_of(pid) {
                if theirs.contains(&device) {
                    found.push(format!("process {pid} of {}: {what}", self.name()));
                }
            }
        }
        found
    }

    /// All processes of the host, by the machine's pids.
    fn tree(&self) -> Vec<i32> {
        let mut all = vec![self.inner.door];
        let mut at = 0;
        while at < all.len() {
            let pid = all[at];
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                all.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok()));
            }
            at += 1;
        }
        all.remove(0);
        all
    }

    fn expect_done(&self, question: &ToAgent) -> Result<()> {
        match self.ask(question, &[])? {
            FromAgent::Done(done) => done.map_err(Error::Helper),
            other => Err(Error::Message(format!("{other:?}"))),
        }
    }

    fn ask(&self, question: &ToAgent, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<FromAgent> {
        let answers = self.inner.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || Error::Gone(self.name().to_owned());
        wire::send(&*self.inner.control, question, fds).map_err(|_| gone())?;
        answers.recv_timeout(COMMAND_MAX).map_err(|_| gone())
    }
}

fn listen(control: &OwnedFd, answers: &Sender<FromAgent>, host: &std::sync::Weak<Inner>) {
    while let Ok(Some((message, _))) = wire::receive::<FromAgent>(control) {
        match message {
            FromAgent::Ended { pid, status } => {
                let Some(host) = host.upgrade() else { return };
                host.ended.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, status);
                host.more.notify_all();
            }
            answer => {
                if answers.send(answer).is_err() {
                    return;
                }
            }
        }
    }
}

impl Process {
    /// Waits for its end. Call once.
    ///
    /// # Errors
    /// It has not ended in time; it is killed then.
    pub fn wait(&self, time_max: Duration) -> Result<Output> {
        let deadline = Instant::now() + time_max;
        let inner = &self.host.inner;
        let mut ended = inner.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(status) = ended.remove(&self.pid) {
                drop(ended);
                return Ok(Output { code: code(status), stdout: self.stdout(), stderr: self.stderr() });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(ended);
                let _ = self.host.kill(self.pid, Signal::KILL);
                return Err(Error::TimedOut {
                    command: self.command.clone(),
                    host: self.host.name().to_owned(),
                    seconds: time_max.as_secs(),
                    said: self.stdout() + &self.stderr(),
                });
            }
            ended = inner.more.wait_timeout(ended, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.host.inner.ended.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&self.pid)
    }

    /// What it has printed on standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        content(&self.stdout)
    }

    /// What it has printed on standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        content(&self.stderr)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.host.kill(self.pid, signal)
    }
}

impl Output {
    /// Standard output of a command that succeeded; otherwise an error with all that it said.
    ///
    /// # Errors
    /// The exit code is not 0.
    pub fn success(self, command: &str, host: &str) -> Result<String> {
        if self.code == 0 {
            return Ok(self.stdout);
        }
        Err(Error::Failed {
            command: command.to_owned(),
            host: host.to_owned(),
            status: format!("exit code {}", self.code),
            said: format!("{}{}", self.stdout, self.stderr).trim_end().to_owned(),
        })
    }
}

/// Exit code from a wait status as the kernel encodes it: the signal stands in the low seven bits, the code above eight.
fn code(status: i32) -> i32 {
    match status & 0x7f {
        0 => (status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

fn content(file: &File) -> String {
    let length = file.metadata().map_or(0, |meta| meta.len());
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let _ = file.read_exact_at(&mut bytes, 0);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Finds a program that was built beside the running one: tests run from `target/PROFILE/deps`.
#[must_use]
pub fn built_beside(name: &str) -> Option<std::path::PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.ancestors().skip(1).take(3).map(|directory: &Path| directory.join(name)).find(|path| path.is_file())
}
