//! What a host shall be like.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A host to be made. [`HostSpec::new`] gives the usual one; fields may be changed before it is handed over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostSpec {
    /// Its name, which is its hostname too.
    pub name: String,
    /// Seconds by which its monotonic and boot clocks are ahead of the machine's.
    pub clock_ahead_s: i64,
    /// Programs and files that are copied into its root before it starts: (from the machine, to the host).
    pub install: Vec<(PathBuf, PathBuf)>,
    /// A directory that several hosts share, as a network file system would be.
    pub shared: Option<Shared>,
    /// Size limit of its state directory /var/lib/ferry in bytes; none: half of the memory.
    pub state_bytes_max: Option<u64>,
    /// More variables in the environment of everything that is started on it.
    pub env: Vec<(String, String)>,
    /// Number of the host in the lab, from 1: gives its address. Set by the lab.
    pub(crate) number: u8,
    /// Unique name of the lab. Set by the lab.
    pub(crate) lab: String,
    /// The host's cgroup as seen by the machine. Set by the lab.
    pub(crate) cgroup: PathBuf,
    /// An empty directory of the machine's that may serve as mount point (in private mount namespaces only).
    pub(crate) scratch: PathBuf,
}

/// A directory that several hosts see, marked so that both can know that it is one and the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shared {
    /// Where it is on the machine.
    pub from: PathBuf,
    /// Where the host sees it.
    pub at: PathBuf,
}

impl HostSpec {
    /// The usual host.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            clock_ahead_s: 0,
            install: Vec::new(),
            shared: None,
            state_bytes_max: None,
            env: Vec::new(),
            number: 0,
            lab: String::new(),
            cgroup: PathBuf::new(),
            scratch: PathBuf::new(),
        }
    }

    /// Copies a file of the machine into the host's root.
    #[must_use]
    pub fn install(mut self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.install.push((from.into(), to.into()));
        self
    }

    /// Sets a variable in the environment of everything that is started on the host.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The host's address on the lab's bridge, without prefix length (which is 24).
    pub(crate) fn address(&self) -> [u8; 4] {
        [10, 77, 0, self.number]
    }
}
