//! What a handover without another side stands on: a checkpoint that ends its workload, a restore that takes it back. The decider
//! is asked, the shim is asked, and time passes; nobody sends anything.

use super::node::Node;
use super::planning;
use crate::handover::{Driver, Stopped, World};
use crate::journal::Shared;
use crate::shim::Client;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::handover::{Answer, Cas, Entry, Input, Key, Machine, Outcome, Parties};
use ferry_model::ids::{HostName, WorkloadId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How often what did not succeed, or was not answered, is asked again.
const TICK: Duration = Duration::from_millis(250);

/// How long whoever asked waits for a decider that does not answer. The asking goes on.
const DOUBT_MAX: Duration = Duration::from_secs(20);

/// One workload on this host, and where what happens to it is written down.
pub(super) struct Alone {
    pub node: Arc<dyn Node>,
    pub journal: Shared,
    pub key: Key,
    shim: Option<Client>,
    /// Set while the outcome hangs on an answer that does not come.
    pub doubt: Arc<AtomicBool>,
}

impl Alone {
    pub fn new(node: &Arc<dyn Node>, key: Key, doubt: &Arc<AtomicBool>) -> Result<Self> {
        let journal = node.journal(key.id)?;
        Ok(Self { node: node.clone(), journal, key, shim: None, doubt: doubt.clone() })
    }

    /// This host, and the one that owns the workload.
    pub fn parties(&self, owner: &HostName) -> Parties {
        Parties { me: self.node.host(), peer: owner.clone(), boot_id: self.node.boot_id() }
    }

    pub fn append(&self, entry: &Entry) -> Result<(), Stopped> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.append(entry).map_err(|e| Stopped(Box::new(e)))
    }

    pub fn cas(&self, cas: &Cas) -> Answer {
        self.node.registry().cas(cas)
    }

    pub fn read(&self, id: WorkloadId) -> Answer {
        self.node.registry().read(id)
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).entries().to_vec()
    }

    /// Asks the shim; a connection that failed is made anew next time.
    pub fn ask<T>(&mut self, question: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
        let mut shim = match self.shim.take() {
            Some(shim) => shim,
            None => planning::shim(&self.node, self.key.id)?,
        };
        let answer = question(&mut shim)?;
        self.shim = Some(shim);
        Ok(answer)
    }

    /// Another shim is there from now on, or none.
    pub fn forget_shim(&mut self) {
        self.shim = None;
    }

    pub fn alive(&self) -> bool {
        planning::is_alive(&self.node, self.key.id)
    }
}

/// Runs a machine until it ends.
pub(super) fn settle<M: Machine>(
    driver: &mut Driver<M>,
    world: &mut (impl World + AsRef<Alone>),
) -> Result<Outcome, Stopped> {
    loop {
        if let Some(outcome) = driver.machine().outcome() {
            return Ok(outcome);
        }
        world.as_ref().doubt.store(driver.machine().in_doubt(), Ordering::Relaxed);
        std::thread::sleep(TICK);
        if !world.as_ref().alive() {
            driver.feed(Input::CopyGone, world)?;
        }
        driver.feed(Input::Tick, world)?;
    }
}

/// Does `work` on a thread of its own, which goes on if whoever asked is told that the decider does not answer.
pub(super) fn patiently<T: Send + 'static>(
    id: WorkloadId,
    work: impl FnOnce(&Arc<AtomicBool>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let doubt = Arc::new(AtomicBool::new(false));
    let (tell, told) = sync_channel(1);
    let shared = doubt.clone();
    let thread = std::thread::Builder::new().name("ferry-alone".into());
    let spawned = thread.spawn(move || drop(tell.send(work(&shared))));
    spawned.map_err(|e| Error::from_source(Kind::Unable, &e).context("No thread could be started"))?;
    let mut sure_at = Instant::now();
    loop {
        match told.recv_timeout(TICK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(
                    Error::new(Kind::Bug, "The work ended by a panic").hint(format!("ferry recover {id}"))
                );
            }
            Err(RecvTimeoutError::Timeout) if !doubt.load(Ordering::Relaxed) => sure_at = Instant::now(),
            Err(RecvTimeoutError::Timeout) if sure_at.elapsed() > DOUBT_MAX => {
                return Err(Error::new(
                    Kind::NotFinal,
                    "The decider does not answer; the copy stays frozen, and it is asked until it does",
                )
                .hint(format!("ferry recover {id}")));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
