//! What a shim has: the capsule, the first program, its output; and where all that stands.

use super::pager::Hold;
use super::protocol::{Exit, PagerStatus, Phase, Status};
use super::record::{Record, boot_id};
use super::spec::{ExecSpec, Spec, With};
use super::terminal::Terminal;
use super::throttle::Throttle;
use super::{LOG, network};
use crate::facts::FileHashes;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::WorkloadId;
use ferry_network::announce::Announcer;
use ferry_network::hold::Holder;
use ferry_process::adoption::Adoption;
use ferry_process::capsule::{self, Capsule, Cgroup, Command, Started, User};
use ferry_process::capture::Looked;
use ferry_process::capture::files::{self, Held};
use ferry_process::live::Tracking;
use ferry_sys::say::say;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the tasks may take to freeze: one that waits for a disk cannot be interrupted.
pub(super) const FREEZE_TIME_MAX: Duration = Duration::from_secs(10);

/// How long what was seen of running tasks is worth something: mappings and flags change.
pub(super) const LOOK_AGE_MAX: Duration = Duration::from_secs(1);

/// A workload on this host.
pub(super) struct Workload {
    pub(super) dir: PathBuf,
    pub(super) record: Option<Record>,
    pub(super) capsule: Option<Capsule>,
    /// Instead of a capsule: a tree that ran before, where it was.
    pub(super) adopted: Option<Adoption>,
    pub(super) terminal: Option<Terminal>,
    /// Restored and not yet let go.
    pub(super) building: Option<super::rebuild::Building>,
    /// Connections that a capture put into repair mode.
    pub(super) held: Option<Held>,
    /// Connections to others do not go along, and are reset when it is destroyed.
    pub(super) ends_connections: bool,
    /// Hashes of its code, remembered from plan to plan.
    pub(super) hashes: FileHashes,
    /// Keeps packets while the workload stands still.
    pub(super) holder: Option<Holder>,
    /// Repetitions of the announcement that are still due.
    pub(super) announcing: Option<(Announcer, Vec<Instant>)>,
    /// Timed waits of tasks, from the last capture or restore.
    pub(super) waits: Vec<ferry_process::capture::interrupted::KnownWait>,
    /// What was seen of the tasks while they ran, and when.
    pub(super) looked: Option<(Looked, Instant)>,
    /// For a live move: which processes were handed out to be tracked, and the numbers of their memory.
    pub(super) tracking: Option<Tracking>,
    /// Memory that is still missing, and who serves it.
    pub(super) pager: Option<Hold>,
    /// What the pager said last, when it had done all.
    pub(super) paged: Option<PagerStatus>,
    /// That all of it is in could not be written down yet.
    pub(super) unwritten: bool,
    /// It is slowed down, for whoever tracks it.
    pub(super) throttle: Option<Throttle>,
    log: File,
}

impl Workload {
    /// Nothing yet, in `dir`.
    pub(super) fn empty(dir: &Path) -> io::Result<Self> {
        let log = open_log(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            record: None,
            capsule: None,
            adopted: None,
            terminal: None,
            building: None,
            held: None,
            ends_connections: false,
            hashes: FileHashes::default(),
            holder: None,
            announcing: None,
            waits: Vec::new(),
            looked: None,
            tracking: None,
            pager: None,
            paged: None,
            unwritten: false,
            throttle: None,
            log,
        })
    }

    /// What a shim that died has left.
    pub(super) fn recover(dir: &Path) -> Result<Self> {
        let mut workload = Self::empty(dir).map_err(|e| Error::from_source(Kind::Unable, &e))?;
        let record = Record::read(dir).map_err(|e| Error::from_source(Kind::Unable, &e))?;
        let Some(mut record) = record else { return Ok(workload) };
        let boot = boot_id().map_err(|e| Error::from_source(Kind::Unable, &e))?;
        if record.adopted {
            return workload.recover_adopted(record, boot);
        }
        let opened = if record.boot_id == boot { Capsule::open(dir).ok() } else { None };
        record.phase = match (record.phase, &opened) {
            (phase @ (Phase::Empty | Phase::Exited), _) => phase,
            (Phase::Held, Some(_)) => Phase::Held,
            // Puppets that were not whole died with the shim that held them.
            (Phase::Building, _) | (_, None) => Phase::Lost,
            (Phase::Prepared, Some(_)) => Phase::Prepared,
            (Phase::Running | Phase::Frozen | Phase::Lost, Some(capsule)) => {
                if capsule.cgroup().freezing().unwrap_or(false) { Phase::Frozen } else { Phase::Running }
            }
        };
        workload.capsule = opened;
        workload.record = Some(record);
        workload.save()?;
        workload.regain_pager()?;
        if let Err(error) = workload.regain_terminal() {
            // An init of an older Ferry holds none and has closed the line: the workload is worth more than its terminal.
            say(format_args!("The workload's terminal is lost: {error}"));
            workload.capsule = Capsule::open(dir).ok();
        }
        Ok(workload)
    }

    pub(super) fn phase(&self) -> Phase {
        self.record.as_ref().map_or(Phase::Empty, |record| record.phase)
    }

    pub(super) fn status(&self) -> Status {
        let record = self.record.as_ref();
        Status {
            phase: self.phase(),
            spec: record.map(|record| record.spec.clone()),
            pid: record.filter(|record| record.exit.is_none()).and_then(|record| self.host_pid(record.first)),
            exit: record.and_then(|record| record.exit),
            adopted: record.is_some_and(|record| record.adopted),
            shim_pid: i32::try_from(std::process::id()).unwrap_or(0),
            log: self.dir.join(LOG).display().to_string(),
            init: self.capsule.as_ref().map(Capsule::init_pid),
            whole: (self.phase() == Phase::Prepared).then(|| self.is_whole()),
        }
    }

    /// Whether what was prepared is all there: something may have killed a part of it while it was frozen.
    fn is_whole(&self) -> bool {
        let Some(waiting) = self.record.as_ref().and_then(|record| record.waiting) else { return true };
        self.process_count().is_ok_and(|count| count >= waiting)
    }

    /// Processes of the workload; zombies do not count.
    pub(super) fn process_count(&self) -> io::Result<u32> {
        let procs = self.capsule.as_ref().map_or(Ok(Vec::new()), |capsule| capsule.cgroup().procs())?;
        Ok(u32::try_from(procs.len()).unwrap_or(u32::MAX))
    }

    /// Pid on this host of a process that has `pid` inside.
    pub(super) fn host_pid(&self, pid: i32) -> Option<i32> {
        if let Some(adopted) = &self.adopted {
            return Some(adopted.pid()).filter(|root| *root == pid && adopted.lives());
        }
        let Some(capsule) = &self.capsule else { return Some(pid).filter(|pid| *pid > 0) };
        let inside = |host: &i32| {
            ferry_sys::proc::status::read(&host.to_string())
                .is_ok_and(|status| status.ns_pid.last() == Some(&pid))
        };
        capsule.cgroup().procs().ok()?.into_iter().find(inside)
    }

    /// The cgroup of the workload's tasks: what is frozen.
    pub(super) fn cgroup(&self) -> Result<&Cgroup> {
        let capsule = self.capsule.as_ref().map(Capsule::cgroup);
        capsule.or_else(|| self.adopted.as_ref().map(Adoption::cgroup)).ok_or_else(no_capsule)
    }

    /// The workload's tasks as they are now.
    pub(super) fn tasks(&self) -> Result<Vec<files::TaskRef>> {
        let procs = self.cgroup()?.procs().map_err(|e| unable("The tasks could not be listed", &e))?;
        let task = |host_pid: i32| {
            let status = ferry_sys::proc::status::read(&host_pid.to_string()).ok()?;
            Some(files::TaskRef { host_pid, ns_pid: *status.ns_pid.last()? })
        };
        Ok(procs.into_iter().filter_map(task).collect())
    }

    pub(super) fn save(&self) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        record.write(&self.dir).map_err(|e| {
            Error::from_source(Kind::Unable, &e).context("The workload's record could not be written")
        })
    }

    pub(super) fn set_phase(&mut self, phase: Phase) -> Result<()> {
        if let Some(record) = &mut self.record {
            record.phase = phase;
        }
        self.save()
    }

    /// Refuses what does not fit where the workload stands.
    pub(super) fn require(&self, phases: &[Phase], what: &str) -> Result<()> {
        if phases.contains(&self.phase()) {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, format!("A workload that is {} cannot {what}", words(self.phase()))))
    }

    pub(super) fn new_record(&mut self, spec: Spec, phase: Phase) -> Result<()> {
        let boot_id = boot_id().map_err(|e| Error::from_source(Kind::Unable, &e))?;
        self.record = Some(Record {
            boot_id,
            phase,
            spec,
            first: 0,
            exit: None,
            adopted: false,
            waiting: None,
            missing: None,
            all_in: None,
        });
        self.save()
    }

    /// Makes the capsule and starts the program in it.
    pub(super) fn start(&mut self, spec: &Spec) -> Result<()> {
        self.require(&[Phase::Empty], "be started")?;
        self.new_record(spec.clone(), Phase::Building)?;
        let network = |workload: &mut Self| workload.set_network(true).map(|()| workload.announce());
        let started =
            self.make_capsule(spec).and_then(|()| network(self)).and_then(|()| self.start_first(spec));
        if let Err(error) = started {
            self.discard();
            return Err(error);
        }
        Ok(())
    }

    /// Makes the capsule with its network device, down.
    pub(super) fn make_capsule(&mut self, spec: &Spec) -> Result<()> {
        let capsule = Capsule::create(&capsule_spec(spec, &self.dir))?;
        let capsule = self.capsule.insert(capsule);
        match &spec.network {
            Some(net) => network::attach(capsule, spec, net, &network::identity(net)?),
            None => Ok(()),
        }
    }

    /// Starts the first program in a capsule that is there.
    pub(super) fn start_first(&mut self, spec: &Spec) -> Result<()> {
        let exec = ExecSpec {
            command: spec.command.clone(),
            env: spec.env.clone(),
            cwd: Some(spec.cwd.clone()),
            user: spec.user.clone(),
            terminal: spec.terminal,
        };
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        let stdio = match spec.terminal {
            Some(size) => {
                let opened = Terminal::open(capsule.root_fd(), size);
                let (terminal, slave) = opened.map_err(|e| unable("The terminal could not be made", &e))?;
                self.have_terminal(terminal)?;
                let copy = || slave.try_clone();
                vec![copy(), copy(), copy()]
            }
            None => {
                let log = || self.log.try_clone().map(OwnedFd::from);
                vec![null(capsule), log(), log()]
            }
        };
        let stdio: io::Result<Vec<OwnedFd>> = stdio.into_iter().collect();
        let stdio = stdio.map_err(|e| unable("Standard streams could not be made", &e))?;
        let started = self.spawn(&exec, stdio)?;
        if let Some(record) = &mut self.record {
            record.first = started.pid;
        }
        self.set_phase(Phase::Running)
    }

    /// Starts a program in the capsule.
    pub(super) fn spawn(&mut self, spec: &ExecSpec, stdio: Vec<OwnedFd>) -> Result<Started> {
        let user = match &spec.user {
            Some(text) => Some(
                User::look_up(text)
                    .ok_or_else(|| Error::new(Kind::Usage, format!("No user {text} on this host")))?,
            ),
            None => None,
        };
        let pair = |text: &String| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (OsString::from(name), OsString::from(value))
        };
        let command = Command {
            argv: spec.command.iter().map(OsString::from).collect(),
            env: spec.env.iter().map(pair).collect(),
            cwd: spec.cwd.as_ref().map(PathBuf::from),
            user,
            stdio,
            controlling_tty: spec.terminal.is_some(),
            rlimits: Vec::new(),
        };
        let capsule = self.capsule.as_mut().ok_or_else(no_capsule)?;
        Ok(capsule.spawn(&command)?)
    }

    /// Notes the ends that init tells of; returns those that are not the first program's.
    pub(super) fn ended(&mut self) -> Vec<(i32, Exit)> {
        let mut others = Vec::new();
        self.root_ended();
        let Some(capsule) = &mut self.capsule else {
            self.look_for_end();
            return others;
        };
        loop {
            match capsule.next_ended(false) {
                Ok(Some(ended)) => {
                    let exit = Exit::from_wait(ended.status);
                    match &mut self.record {
                        Some(record) if record.first == ended.pid && record.exit.is_none() => {
                            record.exit = Some(exit);
                        }
                        _ => others.push((ended.pid, exit)),
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    let _ = self.set_phase(Phase::Lost);
                    self.capsule = None;
                    return others;
                }
            }
        }
        self.look_for_end();
        others
    }

    /// The workload has ended when its first program has and no other is left: a program that goes to the background lives on.
    fn look_for_end(&mut self) {
        let first_ended = self.record.as_ref().is_some_and(|record| record.exit.is_some());
        let empty = self.cgroup().map_or(true, |cgroup| !cgroup.populated().unwrap_or(true));
        if first_ended && empty && self.phase() == Phase::Running {
            // Nobody waits for what is still missing of it.
            if let Some(hold) = self.pager.take() {
                self.paged = Some(hold.status());
            }
            if let Some(record) = &mut self.record {
                record.missing = None;
            }
            let _ = self.set_phase(Phase::Exited);
        }
    }

    pub(super) fn signal(&self, signal: i32) -> Result<()> {
        let no = || Error::new(Kind::Usage, "The workload has ended");
        if signal == 9 {
            let cgroup = self.cgroup().map_err(|_| no())?;
            return cgroup.kill().map_err(|e| unable("The workload could not be killed", &e));
        }
        let first = self.record.as_ref().map_or(0, |record| record.first);
        let pid = self.host_pid(first).and_then(rustix::process::Pid::from_raw).ok_or_else(no)?;
        let number = rustix::process::Signal::from_named_raw(signal);
        let number = number.ok_or_else(|| Error::new(Kind::Usage, format!("No signal {signal}")))?;
        rustix::process::kill_process(pid, number)
            .map_err(|e| unable("The signal could not be sent", &e.into()))
    }

    pub(super) fn append_to_log(&mut self, bytes: &[u8]) {
        // A full disk costs log lines, not the workload.
        let _ = self.log.write_all(bytes);
    }

    /// Kills what there is and removes the capsule.
    pub(super) fn destroy(&mut self) -> Result<()> {
        self.building = None;
        self.terminal = None;
        self.untrack();
        if self.ends_connections
            && let Some(held) = &self.held
        {
            held.end_with_reset();
        }
        let device = self
            .record
            .as_ref()
            .filter(|record| record.spec.network.is_some())
            .map(|record| record.spec.clone());
        if let Some(spec) = &device {
            // Down first: what the dying sockets still say must not reach anybody.
            let _ = network::lock(spec);
        }
        self.announcing = None;
        self.holder = None;
        if let Some(capsule) = self.capsule.take() {
            let _ = capsule.cgroup().kill();
            let _ = capsule.cgroup().thaw();
            capsule.destroy()?;
            // Nobody is left who could read zeros.
            self.pager = None;
        } else if let Some(record) = self.record.as_ref().filter(|record| !record.adopted) {
            // A shim that was killed while it made the capsule has left what nobody wrote down.
            capsule::remove_unfinished(&capsule_spec(&record.spec, &self.dir).name)?;
        }
        if let Some(adopted) = self.adopted.take() {
            adopted.end(&self.dir)?;
            let _ = std::fs::remove_dir(self.dir.join("upper"));
            // Now that nobody listens any more, what is refused is refused as on any host.
            self.unlock_connections();
        }
        // Connections in repair mode end silently, now that nobody else holds them.
        self.held = None;
        if let Some(spec) = &device {
            network::detach(spec)?;
        }
        self.forget_connections()?;
        (self.record, self.pager, self.paged) = (None, None, None);
        Record::remove(&self.dir).map_err(|e| unable("The workload's record could not be removed", &e))
    }

    /// After a failed start or restore: nothing is left, and the reason has been told already.
    pub(super) fn discard(&mut self) {
        if let Err(error) = self.destroy() {
            say(format_args!("What a failed attempt left behind could not be removed: {error}"));
        }
    }
}

/// What its cgroup is called. Two nodes may share a machine, and a workload that moves between them is there twice for a while: the
/// directory tells them apart.
pub(super) fn place_name(id: WorkloadId, dir: &Path) -> String {
    let place = blake3::hash(dir.as_os_str().as_encoded_bytes()).to_hex();
    format!("{id}-{}", &place[..8])
}

/// The capsule that a workload asks for.
pub(super) fn capsule_spec(spec: &Spec, dir: &Path) -> capsule::Spec {
    capsule::Spec {
        name: place_name(spec.id, dir),
        directory: dir.to_owned(),
        hidden: dir.parent().and_then(Path::parent).map(Path::to_owned).into_iter().collect(),
        hostname: spec.hostname.clone().unwrap_or_else(|| spec.name.clone()),
        own_network: spec.network.is_some(),
        with: capsule_with(&spec.with).collect(),
        limits: capsule::Limits {
            memory_bytes: spec.memory_bytes_max,
            cpu_millis: spec.cpu_milli_max.and_then(|milli| u32::try_from(milli).ok()),
        },
        ..capsule::Spec::default()
    }
}

/// Host paths as a capsule gets them: at the same place.
pub(super) fn capsule_with(with: &[With]) -> impl Iterator<Item = capsule::With> {
    with.iter().map(|with| capsule::With {
        path: with.path.clone(),
        host: with.path.clone(),
        binding: Some(format!("{:?}", with.binding).to_lowercase()),
        read_only: false,
    })
}

/// /dev/null as the capsule has it.
fn null(capsule: &Capsule) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat2(capsule.root_fd(), "dev/null", flags, Mode::empty(), ResolveFlags::IN_ROOT)?)
}

fn open_log(dir: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join(LOG))
}

pub(super) fn unable(what: &str, error: &io::Error) -> Error {
    Error::from_source(Kind::Unable, error).context(what)
}

pub(super) fn no_capsule() -> Error {
    Error::new(Kind::Refused, "The workload has no capsule")
}

pub(super) fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::Empty => "not started",
        Phase::Running => "running",
        Phase::Frozen => "frozen",
        Phase::Building => "being built",
        Phase::Prepared => "prepared",
        Phase::Exited => "ended",
        Phase::Lost => "lost",
        Phase::Held => "frozen for good, because pages of it were lost",
    }
}
