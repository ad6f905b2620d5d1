//! The workloads of this host: one directory each, with the node's record, the shim's socket, the log, the journal and the
//! upper layer. What a workload does is asked of its shim, never remembered: a shim outlives the node, and a restarted node
//! finds everything again by looking into the directories.

mod images;
mod record;
mod request;

pub use record::gone_to;
pub use request::{declared, new_id};

use crate::journals::OpenJournals;
use crate::up::Config;
use ferry_model::api::{
    AdoptRequest, ExecRequest, Exit, RunRequest, Segments, Workload, WorkloadDetail, WorkloadState,
};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::handover::entry::last_record;
use ferry_model::ids::{BootId, Epoch, HostName, WorkloadId};
use ferry_session::decider::{Embedded, Journals};
use ferry_session::shim::protocol::Phase;
use ferry_session::shim::{Client, ExecSpec, Size, Spec};
use record::NodeRecord;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Size of a terminal before the client has said its own.
const SIZE: Size = Size { rows: 24, columns: 80 };

/// How long after the end of a move its record may follow.
const MOVED_TIME_MAX: Duration = Duration::from_secs(2);

/// Signal that nothing survives.
const SIGKILL: i32 = 9;

/// The registry of this host's workloads. Its functions block: call them on threads that may.
pub struct Workloads {
    dir: PathBuf,
    ferry: PathBuf,
    host: HostName,
    bridge: String,
    boot: BootId,
    journals: Arc<OpenJournals>,
    records: Mutex<BTreeMap<WorkloadId, NodeRecord>>,
}

impl Workloads {
    /// Reads what the state directory holds.
    pub fn open(config: &Config, host: &HostName, boot: BootId, journals: Arc<OpenJournals>) -> Result<Self> {
        let dir = config.state.join("workloads");
        crate::files::make_private_dir(&dir)?;
        let workloads = Self {
            records: Mutex::new(record::load_all(&dir)?),
            dir,
            ferry: config.ferry.clone(),
            host: host.clone(),
            bridge: config.bridge.clone(),
            boot,
            journals,
        };
        workloads.note_left();
        Ok(workloads)
    }

    /// Directory of a workload.
    #[must_use]
    pub fn directory(&self, id: WorkloadId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// How many there are, departed ones not counted.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records().values().filter(|record| record.is_here()).count()
    }

    /// Finds a workload by name, id, or the beginning of an id. One that is here goes before one that left.
    pub fn find(&self, wanted: &str) -> Result<WorkloadId> {
        let records = self.records();
        let present = |id: &WorkloadId| records.get(id).is_some_and(NodeRecord::is_here);
        let named: Vec<WorkloadId> =
            records.iter().filter(|(_, record)| record.name == wanted).map(|(id, _)| *id).collect();
        if let Some(id) = named.iter().find(|id| present(id)).or(named.last()) {
            return Ok(*id);
        }
        let digits = wanted.strip_prefix("w-").unwrap_or(wanted);
        let begins = |id: &WorkloadId| digits.len() >= 4 && id.to_string()[2..].starts_with(digits);
        match records.keys().copied().filter(begins).collect::<Vec<_>>()[..] {
            [id] => Ok(id),
            [] => Err(Error::new(Kind::Usage, format!("There is no workload '{wanted}' here"))
                .hint("`ferry ps --all` lists them")),
            _ => Err(Error::new(Kind::Usage, format!("Several workloads' ids begin with '{wanted}'"))),
        }
    }

    /// All of them, the newest last.
    #[must_use]
    pub fn list(&self) -> Vec<Workload> {
        self.note_taken();
        let records: Vec<(WorkloadId, NodeRecord)> =
            self.records().iter().map(|(id, record)| (*id, record.clone())).collect();
        let mut list: Vec<Workload> =
            records.into_iter().map(|(id, record)| self.look(id, &record)).collect();
        list.sort_by(|a, b| (a.created_unix, &a.name).cmp(&(b.created_unix, &b.name)));
        list
    }

    /// One of them.
    pub fn get(&self, id: WorkloadId) -> Result<Workload> {
        self.note_taken();
        let record = self.record(id)?;
        Ok(self.look(id, &record))
    }

    /// One of them, with its three segments.
    pub fn detail(&self, id: WorkloadId) -> Result<WorkloadDetail> {
        let workload = self.get(id)?;
        let segments = match workload.state {
            WorkloadState::Running => match self.client(id).and_then(|mut client| client.inspect(&[])) {
                Ok(resources) => request::segments(resources),
                Err(error) => Segments { unread: Some(error.message), ..Segments::default() },
            },
            _ => Segments { unread: Some("it does not run here".to_owned()), ..Segments::default() },
        };
        Ok(WorkloadDetail { workload, segments })
    }

    /// Starts a new one.
    pub fn run(&self, request: RunRequest) -> Result<Workload> {
        let id = request::new_id()?;
        let name = self.name_for(request.name.as_deref(), id)?;
        let spec = request::spec(id, &name, request, &self.bridge)?;
        self.start(spec, |client, spec| client.start(spec), false)
    }

    /// Makes one of a process tree that already runs.
    pub fn adopt(&self, request: &AdoptRequest) -> Result<Workload> {
        let id = request::new_id()?;
        let name = self.name_for(request.name.as_deref(), id)?;
        let spec = request::adopted(id, &name, request)?;
        self.start(spec, |client, spec| client.adopt(spec, request.pid), true)
    }

    fn start(
        &self,
        spec: Spec,
        begin: impl FnOnce(&mut Client, Spec) -> Result<()>,
        adopted: bool,
    ) -> Result<Workload> {
        let id = spec.id;
        let dir = self.directory(id);
        let record = NodeRecord::of(&spec, adopted);
        self.claim(id, record.clone())?;
        // First it is written down whose it is, then it runs.
        let started = record.save(&dir).and_then(|()| self.own(id)).and_then(|()| {
            let client = Client::spawn(&self.ferry, &dir, false);
            let mut client = client.map_err(|cause| {
                Error::from_source(Kind::Unable, &cause).context("The workload's shim could not be started")
            })?;
            begin(&mut client, spec).inspect_err(|_| self.undo(&dir, client))
        });
        if let Err(error) = started {
            self.records().remove(&id);
            self.journals.close(id);
            let _ = std::fs::remove_dir_all(&dir);
            return Err(error);
        }
        Ok(self.look(id, &record))
    }

    /// Takes back what a start has left that failed. If its shim died of it, a successor does: what was adopted half way is put back.
    fn undo(&self, dir: &Path, mut client: Client) {
        let done = client.destroy().or_else(|_| match dir.join(ferry_session::shim::RECORD).exists() {
            true => Client::spawn(&self.ferry, dir, true)
                .map_err(|cause| Error::from_source(Kind::Unable, &cause))
                .and_then(|mut client| client.destroy()),
            false => Ok(()),
        });
        if let Err(error) = done {
            tracing::error!(directory = %dir.display(), %error, causes = ?error.causes, "what a failed start left could not be removed");
        }
    }

    /// Writes down that a new workload is this host's.
    fn own(&self, id: WorkloadId) -> Result<()> {
        let journal = self.journals.open(id)?;
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        let first = Embedded::first(id, &self.host, self.boot);
        journal.append(&first).map_err(|cause| Error::from_source(Kind::Unable, &cause))
    }

    /// Takes a name and an id; of two who want the same name, one gets it.
    fn claim(&self, id: WorkloadId, record: NodeRecord) -> Result<()> {
        let mut records = self.records();
        if records.values().any(|other| other.is_here() && other.name == record.name) {
            return Err(Error::new(
                Kind::Refused,
                format!("There is a workload named {} already", record.name),
            )
            .hint("another name (--name), or `ferry rm` for one that has ended"));
        }
        records.insert(id, record);
        Ok(())
    }

    /// Waits until its first process has ended.
    ///
    /// # Errors
    /// `Remainder` if it moved to another host meanwhile, which is named.
    pub fn wait(&self, id: WorkloadId) -> Result<Exit> {
        let waited = self.client(id).and_then(|mut client| client.wait());
        let error = match waited {
            Ok(ended) => return Ok(ended.into()),
            Err(error) => error,
        };
        // A shim that goes away may be a move that has just ended: the record follows at once.
        let end = Instant::now() + MOVED_TIME_MAX;
        while Instant::now() < end {
            let record = self.record(id)?;
            if let Some(host) = &record.gone_to {
                return Err(Error::new(Kind::Remainder, format!("{} moved to {host}", record.name))
                    .hint(format!("wait for it there: ferry wait {}", record.name)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(error)
    }

    /// Sends a signal to its first process; SIGKILL to all.
    pub fn signal(&self, id: WorkloadId, signal: i32) -> Result<()> {
        self.client(id)?.signal(signal)
    }

    /// Forgets it, with its files. Killed first if `force`. An adopted tree that runs is let go of instead, and runs on.
    pub fn remove(&self, id: WorkloadId, force: bool) -> Result<Workload> {
        let workload = self.get(id)?;
        let lets_go = workload.adopted && !force && workload.state == WorkloadState::Running;
        match workload.state {
            WorkloadState::Moving
            | WorkloadState::InDoubt
            | WorkloadState::Draining
            | WorkloadState::Paused => {
                return Err(Error::new(Kind::Refused, format!("{} is on a move", workload.name))
                    .hint("`ferry moves ls` shows it, `ferry moves cancel` gives it up"));
            }
            WorkloadState::Running | WorkloadState::Starting if !force && !lets_go => {
                return Err(Error::new(Kind::Refused, format!("{} still runs", workload.name))
                    .hint("`ferry stop` ends it; `ferry rm --force` kills it"));
            }
            WorkloadState::Suspended if !force => {
                return Err(Error::new(Kind::Refused, format!("{} is suspended to an image", workload.name))
                    .hint("`ferry rm --force` forgets it: then its image can only be restored --as-clone"));
            }
            _ => {}
        }
        let dir = self.directory(id);
        if lets_go {
            self.client(id)?.release()?;
        } else if workload.state != WorkloadState::Gone {
            if let Ok(mut client) = Client::connect(&dir) {
                if force {
                    let _ = client.signal(SIGKILL);
                }
                client.destroy()?;
            } else if workload.state == WorkloadState::Lost {
                // What a dead shim left (cgroup, processes) is put right by a successor, then taken down.
                if let Ok(mut client) = Client::spawn(&self.ferry, &dir, true) {
                    client.destroy()?;
                }
            }
        }
        self.journals.close(id);
        std::fs::remove_dir_all(&dir).map_err(|cause| {
            Error::from_source(Kind::Unable, &cause)
                .context(format!("{} could not be removed", dir.display()))
        })?;
        self.records().remove(&id);
        Ok(workload)
    }

    /// A stream of frames to and from its terminal or output.
    pub fn attach(&self, id: WorkloadId) -> Result<UnixStream> {
        self.client(id)?.attach(None)
    }

    /// A stream of frames to and from another program inside.
    pub fn exec(&self, id: WorkloadId, request: ExecRequest) -> Result<UnixStream> {
        if request.command.is_empty() {
            return Err(Error::new(Kind::Usage, "No program is named"));
        }
        let spec = ExecSpec {
            env: request::environment(&request.env, request.user.as_deref(), request.terminal),
            command: request.command,
            cwd: request.cwd,
            user: request.user,
            terminal: request.terminal.then_some(SIZE),
        };
        self.client(id)?.exec(spec)
    }

    /// Path of what it wrote.
    #[must_use]
    pub fn log(&self, id: WorkloadId) -> PathBuf {
        self.directory(id).join(ferry_session::shim::LOG)
    }

    /// Starts a successor for a shim that died, which takes over what its predecessor left.
    pub fn restart_shim(&self, id: WorkloadId) -> Result<()> {
        self.record(id)?;
        Client::spawn(&self.ferry, &self.directory(id), true).map(drop).map_err(|cause| {
            Error::from_source(Kind::Unable, &cause).context("Another shim could not be started")
        })
    }

    /// Looks at every workload after a start of the node; shims that died get a successor. Returns how many were found.
    pub fn reconnect(&self) -> (usize, usize) {
        let ids: Vec<WorkloadId> =
            self.records().iter().filter(|(_, record)| record.runs_here()).map(|(id, _)| *id).collect();
        let mut restarted = 0;
        for id in &ids {
            if Client::connect(&self.directory(*id)).is_err() {
                match self.restart_shim(*id) {
                    Ok(()) => restarted += 1,
                    Err(error) => {
                        tracing::warn!(workload = %id, %error, causes = ?error.causes, "shim not restarted")
                    }
                }
            }
        }
        (ids.len(), restarted)
    }

    /// A workload arrived from another host, or came back.
    pub fn arrived(&self, id: WorkloadId) -> Result<()> {
        let dir = self.directory(id);
        let shim = Client::connect(&dir).map_err(|cause| Error::from_source(Kind::Unable, &cause));
        let status = shim.and_then(|mut shim| shim.status())?;
        let spec = status.spec.ok_or_else(|| Error::new(Kind::Bug, "A shim does not know what arrived"))?;
        let record = NodeRecord::of(&spec, status.adopted);
        // It runs here, whatever can be written down: on a full disk the next start finds it by what its shim has written.
        self.records().insert(id, record.clone());
        record.save(&dir)
    }

    /// Whether a workload that is here has this name.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        self.note_taken();
        self.records().values().any(|record| record.is_here() && record.name == name)
    }

    /// A workload left for another host, or (`to` none) was given up.
    pub fn departed(&self, id: WorkloadId, to: Option<&HostName>) -> Result<()> {
        let mut records = self.records();
        match (records.get_mut(&id), to) {
            (Some(record), Some(to)) => {
                record.gone_to = Some(to.clone());
                record.suspended = None;
                record.save(&self.directory(id))
            }
            // One that is an image here stays what it is.
            (Some(record), None) if record.suspended.is_some() => Ok(()),
            (_, None) => {
                records.remove(&id);
                drop(records);
                self.forget_untouched(id);
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    /// A connection to its shim.
    pub fn client(&self, id: WorkloadId) -> Result<Client> {
        let record = self.record(id)?;
        if let Some(host) = &record.gone_to {
            return Err(Error::new(Kind::Usage, format!("{} moved to {host}", record.name))
                .hint(format!("ask the node of {host}")));
        }
        self.refuse_suspended(&record.name, record.suspended.as_ref())?;
        Client::connect(&self.directory(id)).map_err(|cause| {
            Error::from_source(Kind::Unable, &cause)
                .context(format!("The shim of {} does not answer", record.name))
                .hint(format!("ferry recover {}", record.name))
        })
    }

    fn look(&self, id: WorkloadId, record: &NodeRecord) -> Workload {
        // A restore under way has a shim again.
        let status = match &record.gone_to {
            Some(_) => None,
            None => Client::connect(&self.directory(id)).ok().and_then(|mut client| client.status().ok()),
        };
        let state = match (&record.gone_to, &status) {
            (Some(_), _) => WorkloadState::Gone,
            (None, None) if record.suspended.is_some() => WorkloadState::Suspended,
            (None, None) => WorkloadState::Lost,
            (None, Some(status)) => state(status.phase),
        };
        Workload {
            id,
            name: record.name.clone(),
            host: record.gone_to.clone().unwrap_or_else(|| self.host.clone()),
            epoch: self.epoch(id),
            state,
            command: record.command.clone(),
            pid: status.as_ref().and_then(|status| status.pid),
            exit: status.as_ref().and_then(|status| status.exit).map(Exit::from),
            moving: None,
            image: record.suspended.as_ref().map(|dir| dir.display().to_string()),
            net: record.net.clone(),
            adopted: record.adopted,
            created_unix: record.created_unix,
        }
    }

    fn epoch(&self, id: WorkloadId) -> Epoch {
        let Some(journal) = self.journals.find(id) else { return Epoch(0) };
        let journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        last_record(journal.entries()).map_or(Epoch(0), |record| record.epoch)
    }

    /// Addresses that the workloads of this host have.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let records = self.records();
        records
            .values()
            .filter(|record| record.is_here() && record.suspended.is_none())
            .filter_map(|record| record.net.clone())
            .collect()
    }

    /// Every workload of which there is a directory: also those of which only a journal is left.
    #[must_use]
    pub fn ids_on_disk(&self) -> Vec<WorkloadId> {
        let names = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// The name that was asked for, checked; or one that is made up.
    pub fn name_for(&self, wanted: Option<&str>, id: WorkloadId) -> Result<String> {
        match wanted {
            Some(name) => request::check_name(name),
            None => Ok(format!("w{}", &id.to_string()[2..10])),
        }
    }

    fn record(&self, id: WorkloadId) -> Result<NodeRecord> {
        let gone = || Error::new(Kind::Usage, format!("There is no workload {id} here"));
        self.records().get(&id).cloned().ok_or_else(gone)
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<WorkloadId, NodeRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn state(phase: Phase) -> WorkloadState {
    match phase {
        Phase::Empty => WorkloadState::Starting,
        Phase::Running => WorkloadState::Running,
        Phase::Frozen | Phase::Building | Phase::Prepared => WorkloadState::Moving,
        Phase::Exited => WorkloadState::Exited,
        Phase::Lost => WorkloadState::Lost,
        Phase::Held => WorkloadState::LostPages,
    }
}
