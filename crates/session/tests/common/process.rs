//! A node in a process of its own, to be killed: links, registry and orders over Unix sockets in one directory.
//!
//! `DIR/NAME.sock` takes connections of three sorts, told by their first line: a link of a move, a question to the registry, an
//! order of the test. Files in `DIR` are switches: `cut` (no link gets through, those that are open are closed), `away` (the decider
//! does not answer), `loses` (it decides, and the answer is lost). A node started with the name of a step stops when that step is
//! in its journal: `NAME.at` appears, and it goes on when `NAME.go` does.

use ferry_model::error::{Error, Kind, Result};
use ferry_model::facts::{Holding, HostFacts};
use ferry_model::handover::{Answer, By, Cas, Entry, Record, Registry};
use ferry_model::ids::{BootId, HostName, MoveId, WorkloadId};
use ferry_model::plan::Resource;
use ferry_model::planning::Method;
use ferry_session::decider::{Embedded, Journals, Peers, Unreachable};
use ferry_session::facts::{self, FileHashes};
use ferry_session::journal::{Journal, Shared};
use ferry_session::movement::{Movements, Node, Offer, Request, Standing};
use ferry_session::shim::Client;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::greeting::{self, Purpose};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const NEEDED: [&str; 4] = ["clone3-set-tid", "cgroup-freeze", "ptrace-seize", "pidfd-getfd"];

/// How long a node stops at a step before it goes on by itself.
const STOP_MAX: Duration = Duration::from_secs(120);

struct ProcessNode {
    name: HostName,
    dir: PathBuf,
    /// The step at which it stops, once.
    stop: Mutex<Option<String>>,
    journals: Mutex<HashMap<WorkloadId, Shared>>,
    /// Inodes of the links' sockets. Not copies of their descriptors: those would keep them open for the other side.
    links: Mutex<BTreeSet<u64>>,
    movements: OnceLock<Movements>,
    embedded: OnceLock<Embedded>,
    hashes: FileHashes,
    me: OnceLock<std::sync::Weak<ProcessNode>>,
}

/// `node DIR NAME [STEP]`: never returns.
pub fn run(arguments: &[String]) -> ! {
    let (dir, name) = (PathBuf::from(&arguments[0]), HostName::new(arguments[1].as_str()).unwrap());
    let node = Arc::new(ProcessNode {
        stop: Mutex::new(arguments.get(2).cloned()),
        journals: Mutex::default(),
        links: Mutex::default(),
        movements: OnceLock::new(),
        embedded: OnceLock::new(),
        hashes: FileHashes::default(),
        me: OnceLock::new(),
        name,
        dir,
    });
    let _ = node.me.set(Arc::downgrade(&node));
    let _ = node.movements.set(Movements::new(node.clone()));
    let _ = node.embedded.set(Embedded::new(node.name.clone(), node.clone(), node.clone()));
    let socket = node.dir.join(format!("{}.sock", node.name));
    let _ = std::fs::remove_file(&socket);
    node.take_up();
    let listener = UnixListener::bind(&socket).unwrap();
    let cutter = node.clone();
    std::thread::spawn(move || cutter.obey_cut());
    for stream in listener.incoming().flatten() {
        let node = node.clone();
        std::thread::spawn(move || {
            let _ = node.serve(stream);
        });
    }
    unreachable!("a listener never ends")
}

impl ProcessNode {
    fn is_cut(&self) -> bool {
        self.dir.join("cut").exists()
    }

    fn obey_cut(&self) {
        loop {
            if self.is_cut() {
                let links = std::mem::take(&mut *self.links.lock().unwrap());
                close_sockets(&links);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As a node does when it starts: shims that died get successors, moves go on.
    fn take_up(&self) {
        let workloads = self.dir.join(self.name.as_str()).join("workloads");
        for entry in std::fs::read_dir(workloads).into_iter().flatten().flatten() {
            let Ok(id) = entry.file_name().to_string_lossy().parse::<WorkloadId>() else { continue };
            if entry.path().join("shim.cbor").exists() {
                let _ = Client::spawn(&self.program(), &entry.path(), true);
            }
            if let Err(error) = self.movements.get().unwrap().recover(id) {
                eprintln!("{}: {id} not taken up: {error:?}", self.name);
            }
        }
    }

    fn keep_link(&self, stream: &UnixStream) {
        if let Ok(stat) = rustix::fs::fstat(stream) {
            self.links.lock().unwrap().insert(stat.st_ino);
        }
    }

    fn serve(&self, stream: UnixStream) -> io::Result<()> {
        // One byte at a time: what follows the line belongs to somebody else.
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            (&stream).read_exact(&mut byte)?;
            match byte {
                [b'\n'] => break,
                [byte] => line.push(byte),
            }
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let mut stream = stream;
        match words[..] {
            ["link", from] => {
                if self.is_cut() {
                    return Ok(());
                }
                self.keep_link(&stream);
                let from = HostName::new(from).unwrap();
                let hello = greeting::accept(&mut stream)?;
                greeting::welcome(&mut stream, &hello)?;
                let _ = self.movements.get().unwrap().accept(&from, &hello, Box::new(stream));
            }
            ["record", id] if !self.is_cut() => {
                let record = self.embedded.get().unwrap().local(id.parse().unwrap());
                stream.write_all(&minicbor::to_vec(&record).unwrap())?;
            }
            ["cas", from] if !self.is_cut() => {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes)?;
                let cas: Cas = minicbor::decode(&bytes).map_err(io::Error::other)?;
                let by = By::Host(HostName::new(from).unwrap());
                let answer = self.embedded.get().unwrap().decide(&cas, &by);
                stream.write_all(&minicbor::to_vec(&answer).unwrap())?;
            }
            ["begin", id, to] => {
                let begun = self.begin(id.parse().unwrap(), HostName::new(to).unwrap());
                stream.write_all(format!("{begun:?}").as_bytes())?;
            }
            ["own", id] => {
                let id = id.parse().unwrap();
                let first = Embedded::first(id, &self.name, self.boot_id());
                self.journal(id).unwrap().lock().unwrap().append(&first).map_err(io::Error::other)?;
                stream.write_all(b"done")?;
            }
            ["moves"] => {
                for each in self.movements.get().unwrap().list() {
                    let standing = match &each.standing {
                        Standing::Running => "under way".to_owned(),
                        other => format!("{other:?}"),
                    };
                    writeln!(stream, "{standing}")?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&self, workload: WorkloadId, to: HostName) -> Result<MoveId> {
        let mut unique = [0; 16];
        std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut unique).unwrap();
        let request = Request {
            id: MoveId(unique),
            workload,
            to,
            method: Method::StopAndCopy,
            clone: None,
            plan: None,
            bindings: Vec::new(),
            streams: 1,
        };
        self.movements.get().unwrap().begin(request)
    }

    fn dial(&self, to: &HostName, line: &str) -> io::Result<UnixStream> {
        if self.is_cut() {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let mut stream = UnixStream::connect(self.dir.join(format!("{to}.sock")))?;
        stream.write_all(line.as_bytes())?;
        stream.write_all(b"\n")?;
        Ok(stream)
    }

    fn ask(&self, to: &HostName, line: &str, more: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = self.dial(to, line)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(more)?;
        stream.shutdown(Shutdown::Write)?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said)?;
        Ok(said)
    }

    /// Stops when the wanted step is in the journal.
    fn watch(&self, entry: &Entry) {
        let Entry::Step { step, .. } = entry else { return };
        if self.stop.lock().unwrap().take_if(|wanted| wanted == step.name()).is_none() {
            return;
        }
        let file = |what: &str| self.dir.join(format!("{}.{what}", self.name));
        std::fs::write(file("at"), b"").unwrap();
        let end = Instant::now() + STOP_MAX;
        while !file("go").exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Node for ProcessNode {
    fn host(&self) -> HostName {
        self.name.clone()
    }

    fn boot_id(&self) -> BootId {
        ferry_session::shim::record::boot_id().unwrap()
    }

    fn facts(&self) -> HostFacts {
        let features = NEEDED.iter().map(|each| (*each).to_owned()).collect();
        facts::gather(&self.name, &self.dir.join(self.name.as_str()), features, None).unwrap()
    }

    fn holdings(&self, questions: &[Resource]) -> Vec<Holding> {
        let place = facts::Place { root: "/".as_ref(), hashes: &self.hashes, addresses: &[] };
        facts::answer(questions, &place)
    }

    fn directory(&self, id: WorkloadId) -> PathBuf {
        directory(&self.dir, self.name.as_str(), id)
    }

    fn program(&self) -> PathBuf {
        super::program()
    }

    fn connect(&self, to: &HostName, purpose: Purpose) -> io::Result<Box<dyn Stream>> {
        let mut stream = self.dial(to, &format!("link {}", self.name))?;
        self.keep_link(&stream);
        greeting::connect(&mut stream, &self.name, purpose)?;
        Ok(Box::new(stream))
    }

    fn journal(&self, id: WorkloadId) -> Result<Shared> {
        let mut journals = self.journals.lock().unwrap();
        if let Some(journal) = journals.get(&id) {
            return Ok(journal.clone());
        }
        let dir = self.directory(id);
        let unable = |e: &(dyn std::error::Error + 'static)| Error::from_source(Kind::Unable, e);
        std::fs::create_dir_all(&dir).map_err(|e| unable(&e))?;
        let mut journal = Journal::open(&dir.join("journal")).map_err(|e| unable(&e))?;
        journal.reserve().map_err(|e| unable(&e))?;
        let me = self.me.get().unwrap().clone();
        journal.set_watch(Box::new(move |entry| {
            if let Some(me) = me.upgrade() {
                me.watch(entry);
            }
        }));
        let journal = Arc::new(Mutex::new(journal));
        journals.insert(id, journal.clone());
        Ok(journal)
    }

    fn registry(&self) -> Arc<dyn Registry + Send + Sync> {
        let decider = Decider { embedded: self.embedded.get().unwrap().clone(), dir: self.dir.clone() };
        Arc::new(decider)
    }

    fn refusals(&self, _: &Offer<'_>) -> Vec<String> {
        Vec::new()
    }

    fn arrived(&self, _: WorkloadId) {}

    fn departed(&self, _: WorkloadId, _: Option<&HostName>) {}
}

impl Journals for ProcessNode {
    fn find(&self, id: WorkloadId) -> Option<Shared> {
        self.directory(id).join("journal").exists().then(|| self.journal(id).ok()).flatten()
    }
}

impl Peers for ProcessNode {
    fn hosts(&self) -> Vec<HostName> {
        let names = ["s", "t"].map(|name| HostName::new(name).unwrap());
        names.into_iter().filter(|name| *name != self.name).collect()
    }

    fn record(&self, host: &HostName, id: WorkloadId) -> std::result::Result<Option<Record>, Unreachable> {
        let said = self.ask(host, &format!("record {id}"), &[]).map_err(|_| Unreachable)?;
        minicbor::decode(&said).map_err(|_| Unreachable)
    }

    fn cas(&self, host: &HostName, cas: &Cas) -> std::result::Result<Answer, Unreachable> {
        let said = self.ask(host, &format!("cas {}", self.name), &minicbor::to_vec(cas).unwrap());
        minicbor::decode(&said.map_err(|_| Unreachable)?).map_err(|_| Unreachable)
    }
}

/// The embedded registry behind two switches.
struct Decider {
    embedded: Embedded,
    dir: PathBuf,
}

impl Registry for Decider {
    fn read(&self, id: WorkloadId) -> Answer {
        if self.dir.join("away").exists() { Answer::Unknown } else { self.embedded.read(id) }
    }

    fn read_from(&self, owner: &HostName, id: WorkloadId) -> Answer {
        if self.dir.join("away").exists() { Answer::Unknown } else { self.embedded.read_from(owner, id) }
    }

    fn cas(&self, cas: &Cas) -> Answer {
        if self.dir.join("away").exists() {
            return Answer::Unknown;
        }
        let answer = self.embedded.cas(cas);
        if std::fs::remove_file(self.dir.join("loses")).is_ok() { Answer::Unknown } else { answer }
    }
}

/// Shuts those of this process's sockets that have these inodes.
fn close_sockets(inodes: &BTreeSet<u64>) {
    let own = rustix::process::getpid();
    let Ok(own) = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()) else { return };
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        let is_wanted = inodes.iter().any(|inode| link == Path::new(&format!("socket:[{inode}]")));
        let number = entry.file_name().to_string_lossy().parse().ok().filter(|_| is_wanted);
        let flags = rustix::process::PidfdGetfdFlags::empty();
        if let Some(fd) = number.and_then(|number| rustix::process::pidfd_getfd(&own, number, flags).ok()) {
            let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
        }
    }
}

/// Where a node keeps a workload.
pub fn directory(dir: &Path, name: &str, id: WorkloadId) -> PathBuf {
    dir.join(name).join("workloads").join(id.to_string())
}

/// Gives an order to the node `name`; its answer.
pub fn order(dir: &Path, name: &str, line: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(dir.join(format!("{name}.sock")))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")?;
    let mut said = String::new();
    BufReader::new(stream).read_to_string(&mut said)?;
    Ok(said)
}

/// Lines of what a node says.
pub fn lines(said: &str) -> Vec<String> {
    said.as_bytes().lines().map_while(std::result::Result::ok).collect()
}
