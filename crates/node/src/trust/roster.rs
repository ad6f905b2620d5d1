//! The list of members in a running node: asked at every handshake, watched by every open connection.

use super::members::Members;
use ferry_model::error::Result;
use ferry_model::ids::HostName;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// The list, shared. A change is durable before anybody sees it.
#[derive(Debug)]
pub struct Roster {
    state: PathBuf,
    changing: Mutex<()>,
    list: watch::Sender<Arc<Members>>,
}

impl Roster {
    /// The list that is kept in `state`.
    #[must_use]
    pub fn new(state: &Path, members: Members) -> Arc<Self> {
        let (list, _) = watch::channel(Arc::new(members));
        Arc::new(Self { state: state.to_owned(), changing: Mutex::new(()), list })
    }

    /// The list as it is now.
    #[must_use]
    pub fn now(&self) -> Arc<Members> {
        self.list.borrow().clone()
    }

    /// Tells of every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Members>> {
        self.list.subscribe()
    }

    /// Whether a certificate is a present member's.
    #[must_use]
    pub fn admits(&self, name: &HostName, serial: &[u8]) -> bool {
        self.list.borrow().admits(name, serial)
    }

    /// Whether a certificate is a present operator's.
    #[must_use]
    pub fn admits_operator(&self, name: &HostName, serial: &[u8]) -> bool {
        self.list.borrow().admits_operator(name, serial)
    }

    /// Changes the list and raises its version; only on the authority's node. `change` says whether it changed anything.
    pub fn change(&self, change: impl FnOnce(&mut Members) -> Result<bool>) -> Result<Arc<Members>> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut members = (*self.now()).clone();
        if change(&mut members)? {
            members.version += 1;
            members.save(&self.state)?;
            self.list.send_replace(Arc::new(members));
        }
        Ok(self.now())
    }

    /// Takes a newer list that came from the authority's node. An older one is no error and changes nothing.
    pub fn adopt(&self, newer: Members) -> Result<()> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if newer.version > self.now().version && newer.authority == self.now().authority {
            newer.save(&self.state)?;
            self.list.send_replace(Arc::new(newer));
        }
        Ok(())
    }
}
