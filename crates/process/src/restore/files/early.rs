//! Terminals that must exist before the processes: a controlling terminal goes from a session's leader to the others by `fork`
//! only, so the leader takes it as soon as it has begun its session, and bears the others after.
//!
//! The masters wait here, in this process, until the descriptors are made ([`take`]). They go when the [`Lobby`] is dropped.

use super::Error;
use super::terminal::new_master;
use crate::records::Files;
use ferry_sys::enter::{Place, within};
use ferry_sys::ioctl::{self, Int};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By the init of their capsule and their number.
static WAITING: Mutex<BTreeMap<(i32, u32), OwnedFd>> = Mutex::new(BTreeMap::new());

fn waiting() -> MutexGuard<'static, BTreeMap<(i32, u32), OwnedFd>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The terminals of one restore.
#[derive(Debug)]
pub(in crate::restore) struct Lobby {
    init: i32,
    /// Number of the terminal by session.
    pub(in crate::restore) sessions: BTreeMap<i32, u32>,
}

impl Lobby {
    /// Makes the workload's own terminals that control a session. Those whose master Ferry holds count if they exist already.
    pub(in crate::restore) fn open(files: &Files, init: i32) -> Result<Self, Error> {
        let mut lobby = Self { init, sessions: BTreeMap::new() };
        let mut own: Vec<_> =
            files.terminals.iter().filter(|terminal| terminal.furniture.is_none()).collect();
        own.sort_by_key(|terminal| terminal.index);
        if own.iter().any(|terminal| terminal.session != 0) {
            let mount = super::other_namespace(Some(init), "mnt")?;
            let place = Place { mount: mount.as_ref().map(AsFd::as_fd), net: None };
            let made = within(place, || {
                let mut made = Vec::new();
                for terminal in own {
                    let master = new_master(terminal)?;
                    let unlocked = ioctl::set(&master, Int::SetTerminalLock, 0);
                    unlocked.map_err(Error::kernel(format!("unlock /dev/pts/{}", terminal.index)))?;
                    made.push((terminal.index, master));
                }
                Ok(made)
            });
            let made = made.map_err(Error::kernel("enter the workload's namespaces"))??;
            waiting().extend(made.into_iter().map(|(index, master)| ((init, index), master)));
        }
        for terminal in files.terminals.iter().filter(|terminal| terminal.session != 0) {
            let node = format!("/proc/{init}/root/dev/pts/{}", terminal.index);
            if std::path::Path::new(&node).exists() {
                lobby.sessions.insert(terminal.session, terminal.index);
            }
        }
        Ok(lobby)
    }
}

impl Drop for Lobby {
    fn drop(&mut self) {
        waiting().retain(|(init, _), _| *init != self.init);
    }
}

/// The master that waits for a terminal.
pub(super) fn take(init: Option<i32>, index: u32) -> Option<OwnedFd> {
    waiting().remove(&(init?, index))
}
