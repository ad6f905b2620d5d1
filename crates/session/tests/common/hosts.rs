//! Two nodes in one process: state directories, journals, deciders and cgroups of their own, links over socket pairs.

use super::Place;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::facts::{Holding, HostFacts};
use ferry_model::handover::{Answer, By, Cas, Record, Registry};
use ferry_model::ids::{BootId, HostName, MoveId, WorkloadId};
use ferry_model::plan::Resource;
use ferry_model::planning::Method;
use ferry_model::strategy::options::LiveOptions;
use ferry_session::decider::{Embedded, Journals, Peers, Unreachable};
use ferry_session::facts::{self, FileHashes};
use ferry_session::journal::{Journal, Shared};
use ferry_session::movement::{Movements, Node, Offer, Request};
use ferry_session::shim::{Client, Spec};
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::greeting::{self, Purpose};
use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Kernel features that a plan asks a target for; the tests find out by effect whether they are there.
const NEEDED: [&str; 4] = ["clone3-set-tid", "cgroup-freeze", "ptrace-seize", "pidfd-getfd"];

/// What the nodes of one test share.
pub struct Net {
    nodes: Mutex<HashMap<HostName, Arc<TestNode>>>,
    /// Connections that may still be made.
    left: AtomicUsize,
    /// Those that were made: cutting the link ends them too.
    made: Mutex<Vec<UnixStream>>,
}

impl Default for Net {
    fn default() -> Self {
        Self { nodes: Mutex::default(), left: AtomicUsize::new(usize::MAX), made: Mutex::default() }
    }
}

impl Net {
    /// After so many more connections the link is cut, and with it those that were made.
    pub fn cut_after(&self, connections: usize) {
        self.left.store(connections, Ordering::SeqCst);
    }

    fn node(&self, name: &HostName) -> Option<Arc<TestNode>> {
        self.nodes.lock().unwrap().get(name).cloned()
    }

    fn reach(&self, name: &HostName) -> Option<Arc<TestNode>> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
            0 | usize::MAX => None,
            left => Some(left - 1),
        });
        if left.is_err() && self.left.load(Ordering::SeqCst) == 0 {
            for stream in self.made.lock().unwrap().drain(..) {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            return None;
        }
        self.node(name)
    }
}

/// A node.
pub struct TestNode {
    name: HostName,
    root: PathBuf,
    net: Arc<Net>,
    journals: Mutex<HashMap<WorkloadId, Shared>>,
    movements: OnceLock<Movements>,
    registry: OnceLock<Embedded>,
    hashes: FileHashes,
    pub refusal: Mutex<Option<String>>,
}

impl TestNode {
    pub fn new(net: &Arc<Net>, place: &Place, name: &str) -> Arc<Self> {
        let node = Arc::new(Self {
            name: HostName::new(name).unwrap(),
            root: place.path().join(name),
            net: net.clone(),
            journals: Mutex::default(),
            movements: OnceLock::new(),
            registry: OnceLock::new(),
            hashes: FileHashes::default(),
            refusal: Mutex::default(),
        });
        let _ = node.movements.set(Movements::new(node.clone()));
        let _ = node.registry.set(Embedded::new(node.name.clone(), node.clone(), node.clone()));
        net.nodes.lock().unwrap().insert(node.name.clone(), node.clone());
        node
    }

    pub fn movements(&self) -> &Movements {
        self.movements.get().unwrap()
    }

    pub fn shim(&self, id: WorkloadId) -> Client {
        Client::connect(&self.directory(id)).unwrap()
    }

    /// Starts a workload as a node does: shim, program, first record.
    pub fn start(&self, spec: Spec) -> WorkloadId {
        let id = spec.id;
        let mut shim = Client::spawn(&self.program(), &self.directory(id), false).unwrap();
        shim.start(spec).unwrap();
        let journal = self.journal(id).unwrap();
        let first = Embedded::first(id, &self.name, self.boot_id());
        journal.lock().unwrap().append(&first).unwrap();
        id
    }

    pub fn request(&self, id: WorkloadId, to: &Self) -> Request {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut unique = [0; 16];
        unique[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::SeqCst).to_le_bytes());
        unique[8..12].copy_from_slice(&std::process::id().to_le_bytes());
        Request {
            id: MoveId(unique),
            workload: id,
            to: to.name.clone(),
            method: Method::StopAndCopy,
            clone: None,
            plan: None,
            bindings: Vec::new(),
            with: Vec::new(),
            end_connections: false,
            live: LiveOptions::default(),
        }
    }
}

impl Node for TestNode {
    fn host(&self) -> HostName {
        self.name.clone()
    }

    fn boot_id(&self) -> BootId {
        ferry_session::shim::record::boot_id().unwrap()
    }

    fn facts(&self) -> HostFacts {
        let features = NEEDED.iter().map(|each| (*each).to_owned()).collect();
        facts::gather(&self.name, &self.root, features, None).unwrap()
    }

    fn holdings(&self, questions: &[Resource]) -> Vec<Holding> {
        let place = facts::Place { root: "/".as_ref(), hashes: &self.hashes, addresses: &[] };
        facts::answer(questions, &place)
    }

    fn state(&self) -> PathBuf {
        self.root.clone()
    }

    fn directory(&self, id: WorkloadId) -> PathBuf {
        self.root.join("workloads").join(id.to_string())
    }

    fn program(&self) -> PathBuf {
        super::program()
    }

    fn connect(&self, to: &HostName, purpose: Purpose) -> io::Result<Box<dyn Stream>> {
        let other = self.net.reach(to).ok_or(io::ErrorKind::HostUnreachable)?;
        let (mut ours, mut theirs) = UnixStream::pair()?;
        self.net.made.lock().unwrap().push(ours.try_clone()?);
        let me = self.name.clone();
        std::thread::spawn(move || {
            let hello = greeting::accept(&mut theirs).unwrap();
            greeting::welcome(&mut theirs, &hello).unwrap();
            let _ = other.movements().accept(&me, &hello, Box::new(theirs));
        });
        greeting::connect(&mut ours, &self.name, purpose)?;
        Ok(Box::new(ours))
    }

    fn journal(&self, id: WorkloadId) -> Result<Shared> {
        let mut journals = self.journals.lock().unwrap();
        if let Some(journal) = journals.get(&id) {
            return Ok(journal.clone());
        }
        let dir = self.directory(id);
        let unable = |e: &(dyn std::error::Error + 'static)| Error::from_source(Kind::Unable, e);
        std::fs::create_dir_all(&dir).map_err(|e| unable(&e))?;
        let journal = Journal::open(&dir.join("journal")).map_err(|e| unable(&e))?;
        let journal = Arc::new(Mutex::new(journal));
        journals.insert(id, journal.clone());
        Ok(journal)
    }

    fn find_journal(&self, id: WorkloadId) -> Option<Shared> {
        self.find(id)
    }

    fn registry(&self) -> Arc<dyn Registry + Send + Sync> {
        Arc::new(self.registry.get().unwrap().clone())
    }

    fn refusals(&self, _: &Offer<'_>) -> Vec<String> {
        self.refusal.lock().unwrap().iter().cloned().collect()
    }

    fn arrived(&self, _: WorkloadId) {}

    fn departed(&self, _: WorkloadId, _: Option<&HostName>) {}

    fn suspended(&self, _: WorkloadId, _: &std::path::Path) {}
}

impl Journals for TestNode {
    fn find(&self, id: WorkloadId) -> Option<Shared> {
        self.journals.lock().unwrap().get(&id).cloned()
    }
}

impl Peers for TestNode {
    fn hosts(&self) -> Vec<HostName> {
        self.net.nodes.lock().unwrap().keys().filter(|name| **name != self.name).cloned().collect()
    }

    fn record(&self, host: &HostName, id: WorkloadId) -> std::result::Result<Option<Record>, Unreachable> {
        let node = self.net.node(host).ok_or(Unreachable)?;
        Ok(node.registry.get().unwrap().local(id))
    }

    fn cas(&self, host: &HostName, cas: &Cas) -> std::result::Result<Answer, Unreachable> {
        let node = self.net.node(host).ok_or(Unreachable)?;
        Ok(node.registry.get().unwrap().decide(cas, &By::Host(self.name.clone())))
    }
}
