//! The shim's process: it detaches, listens, and serves one thing at a time.
//!
//! One thread: ptrace is bound to a thread, and the capsule's init is a fork of this process. One `poll` waits for everything; a
//! capture or a restore stops the loop for as long as it takes, which nobody minds, for the workload stands still then too.

use super::SOCKET;
use super::connection::{Connection, Mode};
use super::exec::Exec;
use super::protocol::{Answer, Exit, Phase};
use super::stream::Frame;
use super::workload::{Workload, unable};
use ferry_model::error::Result;
use ferry_sys::say::say;
use ferry_sys::schedule::Urgent;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::time::Timespec;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// Most clients at once.
const CONNECTIONS_MAX: usize = 256;

/// How long one round waits at most: the end of a terminal's last user is only seen by asking.
const ROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// The same while announcements are due.
const ANNOUNCING_ROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// How long a shim waits for the lock of the one that it replaces.
const LOCK_TIME_MAX: Duration = Duration::from_secs(5);

/// Connections that may wait to be accepted, as the standard library has it.
const LISTEN_BACKLOG: i32 = 128;

/// What a client may be behind before a program's output waits, bytes.
const BACKLOG_MAX: usize = 256 << 10;

/// Runs the shim of the workload in `dir` until the workload is destroyed, or has ended and been asked about. Detaches from the caller:
/// returns `Ok` in the calling process as soon as the shim listens. To be called by a process with one thread.
pub fn run(dir: &Path, recover: bool) -> Result<()> {
    let step = |what: &str, e: io::Error| unable(what, &e);
    fs::create_dir_all(dir).map_err(|e| step("The workload's directory could not be made", e))?;
    let dir = dir.canonicalize().map_err(|e| step("The workload's directory is not there", e))?;
    let dir = dir.as_path();
    // Only one shim per workload; the lock goes with the process, however it ends.
    let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("shim.lock"));
    let lock = lock.map_err(|e| step("The shim's lock could not be opened", e))?;
    take_lock(&lock, recover).map_err(|e| step("Another shim serves this workload", e))?;
    let listener = listen(dir).map_err(|e| step("The shim's socket could not be made", e))?;
    match ferry_sys::fork::fork().map_err(|e| step("The shim could not detach", e))? {
        ferry_sys::fork::Forked::Parent(..) => return Ok(()),
        ferry_sys::fork::Forked::Child => {}
    }
    let _ = rustix::process::setsid();
    // Once more: whoever connects is told by the kernel who listened last.
    let _ = rustix::net::listen(&listener, LISTEN_BACKLOG);
    let _ = rustix::thread::set_name(c"ferry-shim");
    let _ = rustix::process::chdir("/");
    detach_stdin();
    let served = Server::new(dir, listener, recover).and_then(Server::serve);
    drop(lock);
    if let Err(error) = served {
        say(&error);
        for cause in &error.causes {
            say(format_args!("  {cause}"));
        }
        ferry_sys::fork::exit_now(1);
    }
    ferry_sys::fork::exit_now(0)
}

/// The pager of a shim that was killed has its descriptors, and closes them in a moment.
fn take_lock(lock: &fs::File, recover: bool) -> io::Result<()> {
    let end = Instant::now() + LOCK_TIME_MAX;
    loop {
        match rustix::fs::flock(lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if recover && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(2));
            }
            taken => return Ok(taken?),
        }
    }
}

fn listen(dir: &Path) -> io::Result<UnixListener> {
    let opened =
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())?;
    // Through the open directory: a socket's own path is limited to 108 bytes.
    let path = format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd());
    match fs::remove_file(dir.join(SOCKET)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let before = rustix::process::umask(FileMode::RWXG | FileMode::RWXO);
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn detach_stdin() {
    if let Ok(null) = fs::File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(null);
    }
}

pub(super) struct Server {
    listener: UnixListener,
    pub(super) workload: Workload,
    pub(super) connections: Vec<Connection>,
    pub(super) execs: Vec<Exec>,
    pub(super) execs_made: u64,
    /// The workload stands still, or is about to.
    pub(super) urgent: Option<Urgent>,
    pub(super) over: bool,
}

/// What one descriptor of a round belongs to.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Init,
    Pager,
    Terminal,
    Connection(usize),
    Exec(usize, u8),
}

impl Server {
    fn new(dir: &Path, listener: UnixListener, recover: bool) -> Result<Self> {
        let workload = match recover {
            true => Workload::recover(dir)?,
            false => Workload::empty(dir).map_err(|e| unable("The log could not be opened", &e))?,
        };
        let (connections, execs) = (Vec::new(), Vec::new());
        Ok(Self { listener, workload, connections, execs, execs_made: 0, urgent: None, over: false })
    }

    fn serve(mut self) -> Result<()> {
        while !self.over {
            for (source, events) in self.wait()? {
                self.happened(source, events);
            }
            self.reap();
            self.workload.look_after_pager();
            self.workload.announce_due();
            self.connections.retain(|connection| !connection.ending || connection.has_output());
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<Vec<(Source, PollFlags)>> {
        let due = self.workload.throttle_due();
        let mut sources = vec![Source::Listener];
        let mut watched = vec![PollFd::new(&self.listener, PollFlags::IN)];
        if let Some(capsule) = &self.workload.capsule {
            sources.push(Source::Init);
            watched.push(PollFd::from_borrowed_fd(capsule.events(), PollFlags::IN));
        }
        // Once it has ended it is readable for ever; the others of the tree are asked about every round.
        if let Some(root) = self.workload.root_to_watch() {
            sources.push(Source::Init);
            watched.push(PollFd::from_borrowed_fd(root, PollFlags::IN));
        }
        for fd in self.workload.pager.iter().flat_map(|pager| pager.events()) {
            sources.push(Source::Pager);
            watched.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        if let Some(terminal) = &self.workload.terminal {
            let typing = if terminal.wants_to_type() { PollFlags::OUT } else { PollFlags::empty() };
            sources.push(Source::Terminal);
            watched.push(PollFd::from_borrowed_fd(terminal.fd(), PollFlags::IN | typing));
        }
        for (at, connection) in self.connections.iter().enumerate() {
            let sending = if connection.has_output() { PollFlags::OUT } else { PollFlags::empty() };
            sources.push(Source::Connection(at));
            watched.push(PollFd::from_borrowed_fd(connection.fd(), PollFlags::IN | sending));
        }
        for (at, exec) in self.execs.iter().enumerate() {
            let behind = self
                .connection_of(exec.number)
                .is_some_and(|at| self.connections[at].backlog() > BACKLOG_MAX);
            for (which, fd, flags) in exec.watched(behind) {
                sources.push(Source::Exec(at, which));
                watched.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        let round = if self.workload.is_announcing() { ANNOUNCING_ROUND } else { ROUND };
        // A due time in between, rounded up: being late by less than a millisecond changes nothing.
        let due = due.and_then(|due| Timespec::try_from(due).ok());
        let round = due.map_or(round, |due| {
            if (due.tv_sec, due.tv_nsec) < (round.tv_sec, round.tv_nsec) { due } else { round }
        });
        match poll(&mut watched, Some(&round)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(unable("The shim cannot wait", &e.into())),
        }
        let hung_up_terminal = |source: &Source, events: PollFlags| {
            matches!(source, Source::Terminal) && !events.intersects(PollFlags::IN | PollFlags::OUT)
        };
        let mut happened: Vec<(Source, PollFlags)> = sources
            .into_iter()
            .zip(watched.iter().map(PollFd::revents))
            .filter(|(source, events)| !events.is_empty() && !hung_up_terminal(source, *events))
            .collect();
        let only_hung_up = happened.is_empty() && watched.iter().any(|each| !each.revents().is_empty());
        drop(watched);
        if only_hung_up {
            // A terminal that nobody has open reports that at once, every time.
            std::thread::sleep(Duration::from_millis(20));
        }
        // The last connection first: closing one does not change the place of those that are still to be served.
        happened.reverse();
        Ok(happened)
    }

    fn happened(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Listener => self.accept(),
            // Looked after in every round.
            Source::Init | Source::Pager => {}
            Source::Terminal => drop(self.pump_terminal()),
            Source::Connection(at) => {
                if self.serve_connection(at, events).is_err() {
                    self.close(at);
                }
            }
            Source::Exec(at, which) => self.pump_exec(at, which),
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let mine = rustix::net::sockopt::socket_peercred(stream.as_fd())
                .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid());
            if mine
                && self.connections.len() < CONNECTIONS_MAX
                && let Ok(connection) = Connection::new(stream)
            {
                self.connections.push(connection);
            }
        }
    }

    fn close(&mut self, at: usize) {
        let connection = self.connections.remove(at);
        if connection.tracks {
            // Whoever tracked is gone, and with it what it was handed.
            self.workload.untrack();
        }
        if let Mode::Exec(number) = connection.mode
            && let Some(exec) = self.execs.iter_mut().find(|exec| exec.number == number)
        {
            exec.hang_up();
        }
    }

    fn serve_connection(&mut self, at: usize, events: PollFlags) -> io::Result<()> {
        if events.contains(PollFlags::OUT) {
            self.connections[at].flush()?;
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return Ok(());
        }
        let alive = self.connections[at].fill()?;
        loop {
            match self.connections[at].mode {
                Mode::Requests => match self.connections[at].request()? {
                    Some(request) => self.request(at, request)?,
                    None => break,
                },
                Mode::Waiting => break,
                Mode::Attached => match self.connections[at].frame()? {
                    Some(frame) => self.typed(frame),
                    None => break,
                },
                Mode::Exec(number) => match self.connections[at].frame()? {
                    Some(frame) => {
                        if let Some(exec) = self.execs.iter_mut().find(|exec| exec.number == number) {
                            exec.input(&frame);
                        }
                    }
                    None => break,
                },
            }
        }
        if alive { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn typed(&mut self, frame: Frame) {
        let Some(terminal) = &mut self.workload.terminal else { return };
        match frame {
            Frame::Input(bytes) => terminal.write(&bytes),
            Frame::Resize(size) => {
                let _ = terminal.resize(size);
            }
            _ => {}
        }
    }

    /// Passes on what the terminal shows, a piece of it; whether there was one.
    pub(super) fn pump_terminal(&mut self) -> bool {
        let Some(terminal) = &mut self.workload.terminal else { return false };
        terminal.write(&[]);
        let Some(bytes) = terminal.read().filter(|bytes| !bytes.is_empty()) else { return false };
        self.workload.append_to_log(&bytes);
        let frame = Frame::Output(bytes);
        for connection in &mut self.connections {
            if connection.mode == Mode::Attached && connection.push(&frame).is_err() {
                connection.ending = true;
            }
        }
        true
    }

    fn connection_of(&self, number: u64) -> Option<usize> {
        self.connections.iter().position(|connection| connection.mode == Mode::Exec(number))
    }

    fn pump_exec(&mut self, at: usize, which: u8) {
        let Some(exec) = self.execs.get_mut(at) else { return };
        let Some(frame) = exec.output(which) else { return };
        let number = exec.number;
        if let Some(to) = self.connection_of(number)
            && self.connections[to].push(&frame).is_err()
        {
            self.connections[to].ending = true;
        }
    }

    /// Programs that ended: the first one, those of exec, and whoever waits for them.
    fn reap(&mut self) {
        for (pid, exit) in self.workload.ended() {
            if let Some(exec) = self.execs.iter_mut().find(|exec| exec.pid == pid) {
                exec.exit = Some(exit);
            }
        }
        for at in (0..self.execs.len()).rev() {
            let Some(exit) = self.execs[at].exit else { continue };
            let mut exec = self.execs.remove(at);
            if let Some(to) = self.connection_of(exec.number) {
                for frame in exec.rest().into_iter().chain([Frame::Exit(exit)]) {
                    let _ = self.connections[to].push(&frame);
                }
                self.connections[to].ending = true;
            }
        }
        if matches!(self.workload.phase(), Phase::Exited | Phase::Lost) {
            while self.pump_terminal() {}
            self.answer_waiting();
            for at in 0..self.connections.len() {
                if self.connections[at].mode == Mode::Attached {
                    self.say_exit(at);
                }
            }
        }
    }

    pub(super) fn say_exit(&mut self, at: usize) {
        if self.connections[at].ending || !matches!(self.workload.phase(), Phase::Exited | Phase::Lost) {
            return;
        }
        let exit = self.exit();
        let _ = self.connections[at].push(&Frame::Exit(exit));
        self.connections[at].ending = true;
    }

    fn exit(&self) -> Exit {
        // Lost: nobody knows; whatever ended the capsule's init killed it.
        self.workload.record.as_ref().and_then(|record| record.exit).unwrap_or(Exit::Signal(9))
    }

    pub(super) fn answer_waiting(&mut self) {
        if !matches!(self.workload.phase(), Phase::Exited | Phase::Lost) {
            return;
        }
        let exit = self.exit();
        for connection in &mut self.connections {
            if connection.mode == Mode::Waiting {
                connection.mode = Mode::Requests;
                if connection.answer(&Answer::Exited { exit }).is_err() {
                    connection.ending = true;
                }
            }
        }
    }
}
