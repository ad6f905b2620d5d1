//! Which connections are open, and to whom: so that a member or an operator that is put out loses them at once.

use crate::trust::roster::Roster;
use ferry_model::ids::HostName;
use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::AbortHandle;

/// The open connections.
#[derive(Debug, Default)]
pub struct Open {
    tasks: Mutex<HashMap<u64, Peer>>,
    next: std::sync::atomic::AtomicU64,
}

#[derive(Debug)]
struct Peer {
    name: HostName,
    serial: Vec<u8>,
    ending: Ending,
}

/// A connection that is registered, until this is dropped.
#[derive(Debug)]
pub struct Entered {
    open: Arc<Open>,
    number: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.open.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// How a connection is ended.
#[derive(Debug)]
pub enum Ending {
    /// The task that carries it is given up.
    Task(AbortHandle),
    /// It is shut down, for all that have it.
    Socket(TcpStream),
}

impl Open {
    /// Watches the list of members for as long as the runtime lives, and closes what no longer may be open.
    pub fn watch(roster: &Arc<Roster>) -> Arc<Self> {
        let open = Arc::new(Self::default());
        let (watched, mut changes, roster) = (Arc::downgrade(&open), roster.watch(), roster.clone());
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let Some(open) = watched.upgrade() else { return };
                open.close_unless(|name, serial| {
                    roster.admits(name, serial) || roster.admits_operator(name, serial)
                });
            }
        });
        open
    }

    /// Registers a connection.
    pub fn enter(self: &Arc<Self>, name: &HostName, serial: &[u8], ending: Ending) -> Entered {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let peer = Peer { name: name.clone(), serial: serial.to_vec(), ending };
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).insert(number, peer);
        Entered { open: self.clone(), number }
    }

    fn close_unless(&self, admits: impl Fn(&HostName, &[u8]) -> bool) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, peer| {
            let stays = admits(&peer.name, &peer.serial);
            if !stays {
                match &peer.ending {
                    Ending::Task(task) => task.abort(),
                    Ending::Socket(socket) => drop(socket.shutdown(Shutdown::Both)),
                }
            }
            stays
        });
    }
}
