//! Births: puppets with the right ids, parents, sessions and groups; the dead among them; stand-ins taken away.

use super::Error;
use super::births::{Act, Births, INIT};
use super::host::{Area, CODE_BYTES, Host, stopped};
use crate::records::task::{Life, Task};
use ferry_sys::proc::{self, status};
use ferry_sys::ptrace::{self, Registers, Stop};
use ferry_sys::remote::{Layout, Machine, Program, Reach, Site, Tracee};
use ferry_sys::schedule::Affinity;
use ferry_sys::userfaultfd::MissingPages;
use std::collections::BTreeMap;

/// Options of every puppet: it dies with its tracer, and no filter stands in the way of remote calls.
const OPTIONS: u64 = ptrace::TRACE_SYSGOOD | ptrace::EXIT_KILL | ptrace::SUSPEND_SECCOMP;

/// A task in the making, stopped.
#[derive(Debug)]
pub(super) struct Puppet {
    /// As it sees itself.
    pub(super) pid: i32,
    /// Threads, the leader first.
    pub(super) threads: Vec<Tracee>,
    /// Registers to start remote calls from.
    pub(super) base: Registers,
    /// Killed already (a zombie to be, or a stand-in).
    pub(super) dead: bool,
    /// Opened early, for pages that may follow when it runs.
    pub(super) pages: Option<MissingPages>,
}

impl Puppet {
    /// As this host sees it.
    pub(super) fn host_pid(&self) -> i32 {
        self.threads[0].tid
    }
}

/// All puppets by their own numbers, with init.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) machine: Machine,
    pub(super) area: Area,
    /// Init, while it is borrowed.
    pub(super) host: Option<Host>,
    /// Where init may run, and so everybody who is not bound; and the processors that this comes to.
    pub(super) home: Affinity,
    pub(super) processors: Affinity,
    pub(super) puppets: BTreeMap<i32, Puppet>,
    /// Controlling terminals, by session.
    pub(super) terminals: BTreeMap<i32, u32>,
    /// Memory of puppets that has content already: what they bear gets no copy of it, which would cost both of them.
    pub(super) shielded: BTreeMap<i32, Vec<(u64, u64)>>,
}

impl Family {
    pub(super) fn host(&self) -> Result<&Host, Error> {
        self.host.as_ref().ok_or_else(|| Error::Damaged("the process above the tree was let go of".into()))
    }

    /// Takes back what init was lent.
    pub(super) fn give_back_host(&mut self) -> Result<(), Error> {
        match self.host.take() {
            Some(host) => host.give_back(&mut self.machine, self.area.start),
            None => Ok(()),
        }
    }

    /// The whole shared memory as room for one program.
    pub(super) fn layout(&self) -> Layout {
        part_of(self.area.start, 0, 1)
    }

    pub(super) fn reach(&self) -> Reach<'_> {
        self.area.reach()
    }

    /// Who runs remote calls for number `pid` (a process' leader or another thread), and how.
    pub(super) fn actor(&self, pid: i32) -> Result<(Tracee, Site), Error> {
        if pid == INIT {
            let host = self.host()?;
            return Ok((host.tracee, host.site));
        }
        let of_thread = |puppet: &&Puppet| puppet.threads.iter().any(|thread| thread.ns_tid == pid);
        let puppet = self.puppets.get(&pid).or_else(|| self.puppets.values().find(of_thread));
        let puppet = puppet.ok_or_else(|| Error::Damaged(format!("no process {pid}")))?;
        let tracee = puppet.threads.iter().find(|thread| thread.ns_tid == pid).unwrap_or(&puppet.threads[0]);
        Ok((*tracee, self.site(puppet)))
    }

    /// How the threads of a puppet run remote calls.
    pub(super) fn site(&self, puppet: &Puppet) -> Site {
        Site { code: self.area.start, undo: 0, base: puppet.base }
    }

    /// Loads a program, runs it in one process' leader and reads it back, unchecked.
    pub(super) fn run(&mut self, pid: i32, program: &mut Program) -> Result<(), Error> {
        if program.is_empty() {
            return Ok(());
        }
        let (tracee, site) = self.actor(pid)?;
        let records = self.layout().records;
        self.reach().load(program)?;
        self.machine.start(tracee, &site, records, program.len())?;
        self.machine.finish(tracee, &site)?;
        Ok(self.reach().store(program)?)
    }

    /// One call in one process' leader; failure is an error.
    pub(super) fn call(&mut self, pid: i32, what: &str, nr: i64, args: &[u64]) -> Result<u64, Error> {
        let (tracee, site) = self.actor(pid)?;
        Ok(self.machine.must(tracee, &site, what, nr, args)?)
    }

    /// Bears everybody, arranges groups, lets the dead die and takes the stand-ins away.
    pub(super) fn grow(&mut self, births: &Births, tasks: &[Task], cgroup: Option<i32>) -> Result<(), Error> {
        let by_pid: BTreeMap<i32, &Task> = tasks.iter().map(|task| (task.pid, task)).collect();
        for (actor, acts) in &births.acts {
            self.act(*actor, acts, &by_pid, cgroup.filter(|_| *actor == INIT))?;
        }
        for pid in &births.group_leaders {
            self.call(*pid, "begin a process group", libc::SYS_setpgid, &[0, 0])?;
        }
        for (pid, group) in &births.joins {
            self.call(*pid, "join a process group", libc::SYS_setpgid, &[0, *group as u64])?;
        }
        for (pid, bearer) in births.stand_ins.iter().rev() {
            self.bury(*pid, *bearer, 0)?;
        }
        for task in tasks.iter().rev() {
            let dead = self.puppets.get(&task.pid).is_some_and(|puppet| puppet.dead);
            if let Life::Zombie { status } = task.life
                && !dead
            {
                self.die(task.pid, status)?;
            }
        }
        Ok(())
    }

    /// Ends a puppet if it has not ended yet, and lets `collector` collect it: nothing is left of it, its signal neither.
    pub(super) fn bury(&mut self, pid: i32, collector: i32, exit_signal: i32) -> Result<(), Error> {
        if self.puppets.get(&pid).is_some_and(|puppet| !puppet.dead) {
            self.end(pid, libc::SIGKILL)?;
        }
        self.puppets.remove(&pid);
        let collect = [pid as u64, 0, libc::__WALL as u64, 0];
        if collector == INIT || !(1..=64).contains(&exit_signal) {
            self.call(collector, "collect a puppet", libc::SYS_wait4, &collect)?;
            return Ok(());
        }
        let mut program = Program::new(self.layout());
        program.call("collect a puppet", libc::SYS_wait4, &collect);
        let (set, now) = (program.data(&(1u64 << (exit_signal - 1)).to_ne_bytes()), program.data(&[0u8; 16]));
        program.call("forget that a child ended", libc::SYS_rt_sigtimedwait, &[set, 0, now, 8]);
        program.accept(&[libc::EAGAIN]);
        self.run(collector, &mut program)?;
        Ok(program.check(0..program.len())?)
    }

    /// All acts of one process in one batch.
    fn act(
        &mut self,
        actor: i32,
        acts: &[Act],
        tasks: &BTreeMap<i32, &Task>,
        cgroup: Option<i32>,
    ) -> Result<(), Error> {
        let mut program = Program::new(self.layout());
        // A parent that ignores SIGCHLD would not get zombies; init's own setting is not ours to change.
        if actor != INIT {
            let default = program.data(&[0u8; 32]);
            program.call("reset SIGCHLD", libc::SYS_rt_sigaction, &[libc::SIGCHLD as u64, default, 0, 8]);
        }
        let shielded = self.shielded.get(&actor).cloned().unwrap_or_default();
        shield(&mut program, &shielded, libc::MADV_DONTFORK);
        let mut born = Vec::new();
        for act in acts {
            match act {
                Act::Bear(pid) => {
                    let task = tasks.get(pid).ok_or_else(|| Error::Damaged(format!("no process {pid}")))?;
                    let shares = task.shares_files_with == Some(actor);
                    bear(&mut program, *pid, task.exit_signal, shares, cgroup);
                    born.push(*pid);
                }
                Act::BearStandIn(pid) => {
                    bear(&mut program, *pid, 0, false, cgroup);
                    born.push(*pid);
                }
                Act::BeginSession => {
                    program.call("begin a session", libc::SYS_setsid, &[]);
                    // Opening it makes it the session's; whoever is born from here on inherits it.
                    if let Some(index) = self.terminals.get(&actor) {
                        let path = program.data(format!("/dev/pts/{index}\0").as_bytes());
                        let args = [libc::AT_FDCWD as u64, path, libc::O_RDWR as u64, 0];
                        program.call(format!("take control of /dev/pts/{index}"), libc::SYS_openat, &args);
                    }
                }
            }
        }
        shield(&mut program, &shielded, libc::MADV_DOFORK);
        self.run(actor, &mut program)?;
        program.check(0..program.len())?;
        self.welcome(actor, &born)
    }

    /// Finds out what this host calls the new-born, and waits for their first stop.
    fn welcome(&mut self, actor: i32, born: &[i32]) -> Result<(), Error> {
        if born.is_empty() {
            return Ok(());
        }
        let (parent, _) = self.actor(actor)?;
        let path = format!("/proc/{0}/task/{0}/children", parent.tid);
        let text = proc::read_path(&path).map_err(Error::host("read the children of a puppet"))?;
        let mut left: Vec<i32> = born.to_vec();
        for tid in
            String::from_utf8_lossy(&text).split_ascii_whitespace().rev().filter_map(|word| word.parse().ok())
        {
            if left.is_empty() {
                break;
            }
            let ids = status::read(&format!("{tid}")).map_err(Error::host("read the ids of a puppet"))?;
            let pid = ids.ns_pid.last().copied().unwrap_or(tid);
            let Some(at) = left.iter().position(|wanted| *wanted == pid) else { continue };
            left.swap_remove(at);
            let base = settle(tid).map_err(Error::host("stop a puppet"))?;
            let tracee = Tracee { tid, ns_pid: pid, ns_tid: pid };
            self.puppets.insert(pid, Puppet { pid, threads: vec![tracee], base, dead: false, pages: None });
        }
        match left.first() {
            None => Ok(()),
            Some(pid) => Err(Error::unfit(*pid, "it was born but is not to be seen in /proc")),
        }
    }

    /// Lets a puppet die with this wait status, and become a zombie for its parent.
    fn die(&mut self, pid: i32, status: i32) -> Result<(), Error> {
        let signal = status & 0x7f;
        if signal != 0 {
            return self.end(pid, signal);
        }
        let (tracee, site) = self.actor(pid)?;
        self.machine.set_off(tracee, &site, libc::SYS_exit_group, &[(status >> 8) as u64])?;
        self.wait_end(pid)
    }

    /// Ends a puppet by a signal, without a core file.
    fn end(&mut self, pid: i32, signal: i32) -> Result<(), Error> {
        let failed = || Error::host(format!("end puppet {pid}"));
        let (tracee, site) = self.actor(pid)?;
        if signal != libc::SIGKILL {
            let mut program = Program::new(self.layout());
            let zeros = program.data(&[0u8; 32]);
            program.call("reset a signal", libc::SYS_rt_sigaction, &[signal as u64, zeros, 0, 8]);
            program.call("forbid core files", libc::SYS_prlimit64, &[0, 4, zeros, 0]);
            self.run(pid, &mut program)?;
            ptrace::set_registers(tracee.tid, &site.base).map_err(failed())?;
            ptrace::set_signal_mask(tracee.tid, 0).map_err(failed())?;
        }
        ptrace::send_to_thread(tracee.tid, tracee.tid, signal).map_err(failed())?;
        let _ = ptrace::cont(tracee.tid, 0);
        self.wait_end(pid)
    }

    fn wait_end(&mut self, pid: i32) -> Result<(), Error> {
        let Some(puppet) = self.puppets.get_mut(&pid) else { return Ok(()) };
        puppet.dead = true;
        loop {
            match ptrace::wait(puppet.threads[0].tid).map_err(Error::host(format!("end puppet {pid}")))? {
                Stop::Gone(_) => return Ok(()),
                Stop::Signal(signal) => ptrace::cont(puppet.threads[0].tid, signal),
                Stop::Event { .. } | Stop::Call | Stop::Other(_) => ptrace::cont(puppet.threads[0].tid, 0),
            }
            .map_err(Error::host(format!("end puppet {pid}")))?;
        }
    }

    /// Adds the threads of a process, whose numbers its batch has just given to them.
    pub(super) fn adopt_threads(&mut self, pid: i32) -> Result<(), Error> {
        let Some(puppet) = self.puppets.get_mut(&pid) else { return Ok(()) };
        let leader = puppet.threads[0].tid;
        for tid in proc::numbers(&format!("/proc/{leader}/task"))
            .map_err(Error::host("list the threads of a puppet"))?
        {
            if tid == leader {
                continue;
            }
            let ids = status::read(&format!("{leader}/task/{tid}"))
                .map_err(Error::host("read the ids of a puppet"))?;
            settle(tid).map_err(Error::host("stop a puppet's thread"))?;
            let ns_tid = ids.ns_pid.last().copied().unwrap_or(tid);
            puppet.threads.push(Tracee { tid, ns_pid: pid, ns_tid });
        }
        Ok(())
    }
}

/// Room for the `index`th of `count` programs in the shared memory.
pub(super) fn part_of(area: u64, index: u64, count: u64) -> Layout {
    let begin = area + CODE_BYTES;
    let size = ((super::host::AREA_BYTES - CODE_BYTES) / count) & !0xfff;
    let records_len = (size / 2) & !0xfff;
    let start = begin + index * size;
    Layout { records: start, records_len, data: start + records_len, data_len: size - records_len }
}

/// Waits for a new task's first stop and sets its options; returns its registers.
fn settle(tid: i32) -> std::io::Result<Registers> {
    stopped(tid)?;
    if let Err(error) = ptrace::set_options(tid, OPTIONS) {
        if !matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL)) {
            return Err(error);
        }
        ptrace::set_options(tid, OPTIONS & !ptrace::SUSPEND_SECCOMP)?;
    }
    ptrace::registers(tid)
}

/// Adds the birth of a process. It comes stopped and traced, before it has run an instruction.
fn bear(program: &mut Program, pid: i32, exit_signal: i32, shares_files: bool, cgroup: Option<i32>) {
    let mut flags = libc::CLONE_PTRACE as u64;
    if shares_files {
        flags |= libc::CLONE_FILES as u64;
    }
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    clone3(program, "bear a process with its number", flags, exit_signal, pid, cgroup.unwrap_or(0));
}

fn shield(program: &mut Program, ranges: &[(u64, u64)], advice: i32) {
    for (start, end) in ranges {
        program.call("keep memory from a child", libc::SYS_madvise, &[*start, end - start, advice as u64]);
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Adds a clone3 that gives the new task the number `tid`.
pub(super) fn clone3(
    program: &mut Program,
    what: &'static str,
    flags: u64,
    exit_signal: i32,
    tid: i32,
    cgroup: i32,
) {
    let number = program.data(&tid.to_ne_bytes());
    let arguments: [u64; 11] = [flags, 0, 0, 0, exit_signal as u64, 0, 0, 0, number, 1, cgroup as u64];
    let arguments: Vec<u8> = arguments.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let address = program.data(&arguments);
    program.call(what, libc::SYS_clone3, &[address, arguments.len() as u64]);
}
