//! Capture of a frozen workload, in the shim: the one process that may trace it.
//!
//! Frozen tasks can be seized but run no code. So: seize them all, thaw the cgroup (they stay in their ptrace stops), ask them, freeze it
//! again, let go. At every moment a killed shim leaves tasks that are frozen, or that simply run on: never a damaged one.

use super::envelope::Envelope;
use super::network;
use super::protocol::Phase;
use super::record::Record;
use super::workload::{FREEZE_TIME_MAX, Workload, no_capsule, unable};
use ferry_model::error::{Error, Kind, Result};
use ferry_network::Identity;
use ferry_process::capsule::Capsule;
use ferry_process::capture::files::Held;
use ferry_process::capture::{self, Context, Looked, Numbers, Scope, Seized};
use ferry_process::live::Tracking;
use ferry_process::records::State;
use ferry_process::records::capsule::Capsule as CapsuleRecord;
use ferry_transfer::access::SpaceAccess;
use ferry_transfer::space::SpaceId;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::Instant;

/// Contents of memory file systems and System V segments, in the workload's directory, while they travel.
pub(crate) const CONTENTS: &str = "contents";

/// What whoever asks for a capture sees to by itself.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Spaces of which it knows the content.
    pub tracked: BTreeSet<SpaceId>,
    /// And the guard pages.
    pub guards: bool,
    /// It sends what is in memory file systems.
    pub staged: bool,
}

/// What was taken from the stopped tasks.
struct Taken {
    state: State,
    spaces: Vec<SpaceAccess>,
    waits: Vec<capture::interrupted::KnownWait>,
    held: Held,
}

/// What its tasks live in.
struct Around {
    record: CapsuleRecord,
    network: Option<Identity>,
}

impl Workload {
    /// Looks at the running tasks, for the capture that follows their freeze.
    pub(super) fn look(&mut self) -> Result<()> {
        self.require(&[Phase::Running], "be looked at")?;
        let scope = Scope::Cgroup(self.cgroup()?.path().to_owned());
        self.open_holder();
        let looked = match &self.tracking {
            Some(tracking) => tracking.look(&scope),
            None => capture::look(&scope),
        };
        self.looked = Some((looked.map_err(failed)?, Instant::now()));
        Ok(())
    }

    /// State and the way to the memory, without what is `known` to whoever asks. The workload stays frozen, and nothing traces it afterwards.
    pub(super) fn capture(&mut self, known: &Known) -> Result<(Vec<u8>, Vec<SpaceAccess>)> {
        self.require(&[Phase::Frozen], "be captured")?;
        let looked = self.looked.take().map(|(looked, _)| looked).unwrap_or_default();
        let numbers = self.tracking.as_mut().map(Tracking::numbers).unwrap_or_default();
        let scope = Scope::Cgroup(self.cgroup()?.path().to_owned());
        let record = self.record.as_ref();
        // What the tasks live in is read beside them: nobody changes it now.
        let (captured, around) = std::thread::scope(|threads| {
            let around = self.capsule.as_ref().map(|capsule| {
                threads.spawn(move || record.map(|record| around(capsule, record, known.staged)))
            });
            let captured = self.capture_tasks(&scope, &looked, numbers, known);
            (captured, around.map(std::thread::ScopedJoinHandle::join))
        });
        let taken = captured?;
        self.held = Some(taken.held);
        self.waits = taken.waits;
        let mut state = taken.state;
        let network = match (&self.adopted, around) {
            (Some(_), _) => {
                state = self.capture_host(state)?;
                None
            }
            (None, Some(Ok(Some(around)))) => {
                let Around { record, network } = around?;
                state.capsule = Some(record);
                network
            }
            (None, Some(Err(_))) => {
                return Err(Error::new(Kind::Bug, "Reading the capsule ended by a panic"));
            }
            (None, _) => return Err(no_capsule()),
        };
        let last_pid = if self.tracking.is_some() { self.last_pid() } else { None };
        let record = self.record.as_ref().ok_or_else(no_capsule)?;
        let typed = self.terminal.as_ref().map(|terminal| terminal.typed().to_vec().into());
        let (first, exit) = (self.inner_first(record.first), record.exit);
        let envelope = Envelope { state, first, exit, network, typed, last_pid };
        Ok((envelope.to_bytes(), taken.spaces))
    }

    /// The tasks, which are frozen again afterwards, and that nothing traces any more.
    fn capture_tasks(
        &self,
        scope: &Scope,
        looked: &Looked,
        numbers: Numbers,
        known: &Known,
    ) -> Result<Taken> {
        let cgroup = self.cgroup()?;
        let mut seized = capture::seize_frozen(scope, looked).map_err(failed)?;
        let thawed = cgroup.thaw().map_err(|e| unable("The workload's cgroup does not thaw", &e));
        let captured = thawed.and_then(|()| self.capture_seized(&mut seized, numbers, known));
        // Frozen again before anything is let go, whatever happened.
        let frozen = cgroup.freeze();
        let released = seized.release().map_err(failed);
        let frozen = frozen.and_then(|()| cgroup.wait_frozen(FREEZE_TIME_MAX));
        frozen.map_err(|e| unable("The workload does not freeze again", &e))?;
        let taken = captured?;
        if let Err(error) = released {
            let mut held = taken.held;
            held.resume();
            return Err(error);
        }
        Ok(taken)
    }

    fn capture_seized(&self, seized: &mut Seized, numbers: Numbers, known: &Known) -> Result<Taken> {
        let context = Context {
            waits: self.waits.clone(),
            numbers,
            tracked: known.tracked.iter().map(|space| space.0).collect(),
            guards_known: known.guards,
        };
        let captured = seized.capture(&context).map_err(failed)?;
        let mut state = captured.state;
        let held = self.capture_files(&seized.tasks(), &mut state)?;
        if self.ends_connections {
            super::clone::part_from_others(&mut state);
        }
        Ok(Taken { state, spaces: captured.memory, waits: captured.waits, held })
    }
}

/// Reads what the tasks of a frozen workload live in. Contents of memory file systems are put aside in its directory, unless they are
/// `staged`.
fn around(capsule: &Capsule, record: &Record, staged: bool) -> Result<Around> {
    let found = capsule.capture()?;
    let file = File::create(capsule.directory().join(CONTENTS));
    let mut file = BufWriter::new(file.map_err(|e| unable("No room for memory file systems", &e))?);
    capsule.pack_contents(&found, !staged, &mut file)?;
    file.flush().map_err(|e| unable("No room for memory file systems", &e))?;
    let network = match &record.spec.network {
        Some(_) => Some(network::capture(capsule)?),
        None => None,
    };
    Ok(Around { record: found, network })
}

pub(super) fn failed(error: capture::Error) -> Error {
    let kind = match &error {
        capture::Error::Unsupported { .. } => Kind::Refused,
        _ => Kind::Unable,
    };
    Error::from_source(kind, &error)
}
