//! `ferry node up`: from a state directory to a node that answers, and down again.

use crate::api;
use crate::files;
use crate::node::{Addresses, Node};
use crate::peers::{self, Peers};
use crate::trust::identity::Identity;
use crate::trust::members::Members;
use crate::trust::roster::Roster;
use ferry_model::error::{Error, Kind, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where a node keeps its things and whom it serves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of what must outlive a reboot.
    pub state: PathBuf,
    /// Directory of the sockets.
    pub run: PathBuf,
    /// Address on which peers reach it; none: it serves only this host.
    pub listen: Option<String>,
    /// Address on which operators reach its API; none: only the local socket serves it.
    pub api_listen: Option<String>,
    /// Address that peers are told, where it differs.
    pub advertise: Option<String>,
    /// Bridge that workloads with an address of their own are put on.
    pub bridge: String,
    /// Most bytes of memory that are kept of workloads that have left; 0: none.
    pub visits_bytes_max: u64,
    /// The program `ferry`, to start shims with.
    pub ferry: PathBuf,
}

impl Config {
    /// The socket of the local API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("node.sock")
    }
}

/// Runs the node until SIGTERM or SIGINT. Workloads go on without it.
///
/// # Errors
/// `Usage` if the host belongs to no fleet; `Unable` if another node uses the state directory, or an address or a
/// directory cannot be used.
pub fn up(config: Config) -> Result<()> {
    files::make_private_dir(&config.state)?;
    files::make_private_dir(&config.run)?;
    let _lock = lock(&config.state)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Error::from_source(Kind::Unable, &cause))?;
    let ended = runtime.block_on(serve(config));
    // Threads that wait for a shim or a peer end with the process.
    runtime.shutdown_background();
    ended
}

async fn serve(config: Config) -> Result<()> {
    let identity = Identity::require(&config.state)?;
    let members = Members::load(&config.state)?;
    let members = members.ok_or_else(|| Error::new(Kind::Unable, "The list of members is missing"))?;
    let roster = Roster::new(&config.state, members);
    let peers = Peers::new(&identity, &roster)?;

    let (listener, address) = match &config.listen {
        None => (None, None),
        Some(wanted) => {
            let (listener, bound) = bind(&with_port(wanted, PORT)).await?;
            let told = config.advertise.clone().map_or_else(|| bound, |address| with_port(&address, PORT));
            (Some(listener), Some(told))
        }
    };
    if identity.is_authority() {
        roster.change(|members| Ok(set_address(members, identity.name(), address.as_ref())))?;
    }
    let operators = match &config.api_listen {
        None => None,
        Some(wanted) => Some(bind(&with_port(wanted, crate::remote::PORT)).await?),
    };
    let api_address = operators.as_ref().map(|(_, bound)| bound.clone());
    let node = Node::new(
        config.clone(),
        identity,
        peers.clone(),
        Addresses { peers: address.clone(), api: api_address.clone() },
    )?;
    let socket = api::socket::bind(&config.socket())?;

    let begun = node.clone();
    std::thread::spawn(move || begun.begin());
    if let Some(listener) = listener {
        tokio::spawn(peers::listen(listener, peers.clone(), node.clone()));
    }
    if let Some((listener, _)) = operators {
        let listener = api::remote::OperatorListener::new(listener, node.clone());
        let listener = listener.map_err(|cause| Error::from_source(Kind::Unable, &cause))?;
        tokio::spawn(api::serve_operators(listener, node.clone()));
    }
    if !node.identity().is_authority() {
        let (peers, address) = (peers.clone(), address.clone());
        std::thread::spawn(move || peers::keep_members(peers, address));
    }
    tracing::info!(name = %node.identity().name(), socket = %config.socket().display(), listen = ?address, api = ?api_address, "node is up");
    let served = api::serve(socket, node.clone());
    let ended = tokio::select! {
        ended = served => ended.map_err(|cause| Error::from_source(Kind::Unable, &cause).context("The local API ended")),
        () = told_to_end() => Ok(()),
    };
    let _ = std::fs::remove_file(config.socket());
    tracing::info!("node is down; workloads go on");
    ended
}

/// Sets where a member is reached; whether that changed anything.
pub fn set_address(
    members: &mut Members,
    name: &ferry_model::ids::HostName,
    address: Option<&String>,
) -> bool {
    let member = members.list.iter_mut().find(|member| !member.removed && member.name == *name);
    match member {
        Some(member) if member.address.as_ref() != address => {
            member.address = address.cloned();
            true
        }
        _ => false,
    }
}

/// The port of a node, where none is said.
const PORT: u16 = 7311;

/// `address` with `port`, unless it has one.
pub fn with_port(address: &str, port: u16) -> String {
    let has_port = match address.rsplit_once(':') {
        Some((host, said)) => said.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')),
        None => false,
    };
    match (has_port, address.contains(':') && !address.starts_with('[')) {
        (true, _) => address.to_owned(),
        (false, true) => format!("[{address}]:{port}"),
        (false, false) => format!("{address}:{port}"),
    }
}

async fn bind(address: &str) -> Result<(tokio::net::TcpListener, String)> {
    let unable = |cause: &std::io::Error| {
        Error::from_source(Kind::Unable, cause).context(format!("The node cannot listen on {address}"))
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|cause| unable(&cause))?;
    let bound = listener.local_addr().map_err(|cause| unable(&cause))?;
    Ok((listener, bound.to_string()))
}

async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// One node per state directory: two would answer for the same workloads.
fn lock(state: &Path) -> Result<File> {
    let path = state.join("lock");
    let unable = |cause: std::io::Error| {
        Error::from_source(Kind::Unable, &cause).context(format!("{} could not be locked", path.display()))
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(unable)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::new(Kind::Unable, format!("Another node uses {}", state.display()))
                .hint("`ferry node status` shows it; another state directory (--state) makes another node"))
        }
        Err(cause) => Err(unable(cause.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn a_port_is_added_where_none_is_said() {
        let cases = [
            ("10.0.0.1", "10.0.0.1:7311"),
            ("10.0.0.1:9", "10.0.0.1:9"),
            ("fd00::1", "[fd00::1]:7311"),
            ("[fd00::1]:9", "[fd00::1]:9"),
            ("[fd00::1]", "[fd00::1]:7311"),
        ];
        for (said, meant) in cases {
            assert_eq!(with_port(said, super::PORT), meant);
        }
    }
}
