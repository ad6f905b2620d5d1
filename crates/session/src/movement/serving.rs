//! The page server of a move whose pages follow: the source's frozen copy, read on demand until the target has every page.
//!
//! What is served and where it is stands in a file of the workload's directory before the move is committed, so that a node that is
//! restarted goes on. Streams go from source to target, as for rounds; when one of them ends, all are opened anew, and the target takes
//! the newest set. A page that comes twice does no harm.

use super::node::Node;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::handover::Key;
use ferry_model::ids::{Hash, HostName, MoveId, WorkloadId};
use ferry_sys::proc::stat;
use ferry_sys::schedule;
use ferry_transfer::access::{Missing, SpaceAccess, Via};
use ferry_transfer::linux::LinuxSource;
use ferry_transfer::space::{PAGE_SIZE, PageSource, Range, SpaceId};
use ferry_transfer::wire::demand::{self, Progress};
use ferry_transfer::wire::greeting::Purpose;
use ferry_transfer::wire::{Cap, Stream};
use minicbor::{Decode, Encode};
use rustix::net::{Shutdown, shutdown};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// The file with what is served.
const FILE: &str = "pages-that-follow.cbor";

/// Longest file, bytes.
const FILE_BYTES_MAX: u64 = super::missing::BYTES_MAX + (16 << 20);

/// Streams to the target: one for pages that somebody waits for, one for the others.
pub(super) const STREAMS: u32 = 2;

/// What is served, as it is on disk.
#[derive(Encode, Decode)]
struct Offered {
    #[n(0)]
    mv: MoveId,
    /// Spaces with the ranges that are missing at the target.
    #[n(1)]
    spaces: Vec<SpaceAccess>,
    /// Processes, and when each was started: a number may be another's after a while.
    #[n(2)]
    started: Vec<(i32, u64)>,
    /// Most bytes per second of what nobody waits for, if that was asked for.
    #[n(3)]
    bandwidth_bytes_per_s_max: Option<u64>,
}

/// Streams that were opened and carry nothing yet.
pub(super) struct Ways {
    node: Arc<dyn Node>,
    peer: HostName,
    workload: WorkloadId,
    mv: MoveId,
    generation: u32,
    open: Vec<Box<dyn Stream>>,
}

impl Ways {
    /// To `peer`, none open yet. Each restart of a node begins above all generations of the one before it.
    pub fn new(node: &Arc<dyn Node>, peer: &HostName, key: Key) -> Self {
        let generation = u32::try_from(super::registry::now_unix() & 0xff_ffff).unwrap_or(0) << 8;
        let (node, peer) = (node.clone(), peer.clone());
        Self { node, peer, workload: key.id, mv: key.mv, generation, open: Vec::new() }
    }

    /// Opens all, instead of those that were open.
    pub fn open(&mut self) -> io::Result<()> {
        self.open.clear();
        self.generation += 1;
        for index in 0..STREAMS {
            let purpose = Purpose::Demand {
                workload: self.workload,
                mv: self.mv,
                generation: self.generation,
                index,
                count: STREAMS,
            };
            self.open.push(self.node.connect(&self.peer, purpose)?);
        }
        Ok(())
    }
}

/// The server.
pub(super) struct Serving {
    ways: Ways,
    source: Arc<Frozen>,
    missing: Arc<Vec<Missing>>,
    left: (u64, Hash),
    started: Vec<(i32, u64)>,
    cap: Option<Arc<Cap>>,
    progress: Arc<Progress>,
    streams: Vec<Served>,
}

/// One stream that is being served.
struct Served {
    thread: JoinHandle<()>,
    socket: OwnedFd,
}

impl Served {
    fn end(self) {
        // Whoever reads or writes it sees its end by that.
        let _ = shutdown(&self.socket, Shutdown::Both);
        let _ = self.thread.join();
    }
}

impl Serving {
    /// Serves `missing`, whose hash was said to the target, and which lies where `places` says; writes that down in `directory`.
    pub fn begin(
        ways: Ways,
        directory: &Path,
        places: &[SpaceAccess],
        (missing, hash): (Vec<Missing>, Hash),
        bandwidth_bytes_per_s_max: Option<u64>,
    ) -> Result<Self> {
        let unable = |e: io::Error| {
            Error::from_source(Kind::Unable, &e).context("The pages that follow cannot be served")
        };
        let at = |each: &Missing| {
            let place = places.iter().find(|place| place.space == each.space)?;
            Some(SpaceAccess { ranges: each.ranges.clone(), ..place.clone() })
        };
        let spaces: Option<Vec<SpaceAccess>> = missing.iter().map(at).collect();
        let spaces = spaces.ok_or_else(|| Error::new(Kind::Bug, "Pages of a space that was not captured"))?;
        let started: io::Result<Vec<(i32, u64)>> =
            spaces.iter().filter_map(process).map(|pid| Ok((pid, stat::read(pid)?.start_time))).collect();
        let started = started.map_err(unable)?;
        let offered = Offered { mv: ways.mv, spaces, started, bandwidth_bytes_per_s_max };
        let bytes = minicbor::to_vec(&offered).unwrap_or_default();
        std::fs::write(directory.join(FILE), bytes).map_err(unable)?;
        Self::of(ways, offered, (missing, hash)).map_err(unable)
    }

    /// Goes on after a restart of the node.
    ///
    /// # Errors
    /// `NotFound` when the frozen copy is not there any more: its pages will never come.
    pub fn again(ways: Ways, directory: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        std::fs::File::open(directory.join(FILE))?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        let offered: Offered = minicbor::decode(&bytes).map_err(|e| io::Error::other(e.to_string()))?;
        if offered.mv != ways.mv {
            return Err(io::ErrorKind::NotFound.into());
        }
        if !live(&offered.started) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let missing = offered.spaces.iter();
        let missing: Vec<Missing> =
            missing.map(|each| Missing { space: each.space, ranges: each.ranges.clone() }).collect();
        let hash = Hash::of(&super::missing::to_bytes(&missing));
        Self::of(ways, offered, (missing, hash))
    }

    fn of(ways: Ways, offered: Offered, (missing, hash): (Vec<Missing>, Hash)) -> io::Result<Self> {
        let pages = super::missing::pages(&missing);
        let source = Frozen {
            source: LinuxSource::open(offered.spaces)?,
            broken: AtomicBool::new(false),
            node: ways.node.clone(),
            half_bytes: pages * PAGE_SIZE / 2,
            read_bytes: AtomicU64::new(0),
        };
        Ok(Self {
            ways,
            source: Arc::new(source),
            missing: Arc::new(missing),
            left: (pages, hash),
            started: offered.started,
            cap: offered.bandwidth_bytes_per_s_max.map(Cap::new).map(Arc::new),
            progress: Arc::default(),
            streams: Vec::new(),
        })
    }

    /// What was left behind: how many pages, and the hash of the set as it was said.
    pub fn left(&self) -> (u64, Hash) {
        self.left
    }

    /// Whether a part of the frozen copy does not exist any more: its pages will never come.
    pub fn is_gone(&self) -> bool {
        self.source.broken.load(Ordering::SeqCst) && !live(&self.started)
    }

    /// Whether streams are open that nobody serves yet.
    pub fn is_ready(&self) -> bool {
        !self.ways.open.is_empty()
    }

    /// Sees to it that every stream is served; opens all of them anew where one has ended.
    pub fn keep(&mut self) -> io::Result<()> {
        let done = self.progress.agreed.get().is_some();
        if done || (!self.streams.is_empty() && !self.streams.iter().any(|each| each.thread.is_finished())) {
            return Ok(());
        }
        self.end();
        if self.ways.open.len() != STREAMS as usize {
            self.ways.open()?;
        }
        for (index, stream) in std::mem::take(&mut self.ways.open).into_iter().enumerate() {
            self.streams.push(self.serve(stream, index == 0)?);
        }
        Ok(())
    }

    /// Serves one; the `first` is that of pages that somebody waits for.
    fn serve(&self, mut stream: Box<dyn Stream>, first: bool) -> io::Result<Served> {
        stream.set_timeout(None)?;
        let socket = stream.beneath()?;
        let (source, missing, progress) = (self.source.clone(), self.missing.clone(), self.progress.clone());
        let cap = self.cap.clone();
        let serving = std::thread::Builder::new().name("ferry-pages".into()).spawn(move || {
            if first {
                schedule::precede();
            }
            let served = demand::serve(&mut *stream, &*source, &missing, &progress, cap.as_deref());
            if let Err(error) = served {
                tracing::debug!(%error, "a stream of pages ended");
            }
            // The other side must not wait for somebody who has left.
            if let Ok(socket) = stream.beneath() {
                let _ = shutdown(&socket, Shutdown::Both);
            }
        });
        Ok(Served { thread: serving?, socket })
    }

    /// Ends every stream.
    pub fn end(&mut self) {
        self.streams.drain(..).for_each(Served::end);
    }
}

/// Whether each of these processes still has its memory. One that was killed while it was frozen is there as a zombie.
fn live(started: &[(i32, u64)]) -> bool {
    started.iter().all(|(pid, start)| {
        stat::read(*pid).is_ok_and(|stat| stat.start_time == *start && !matches!(stat.state, b'Z' | b'X'))
    })
}

fn process(access: &SpaceAccess) -> Option<i32> {
    match access.via {
        Via::Task { pid } => Some(pid),
        Via::File { .. } => None,
    }
}

/// The frozen copy, and whether it could always be read.
struct Frozen {
    source: LinuxSource,
    broken: AtomicBool,
    node: Arc<dyn Node>,
    /// Half of what is missing, and what was read: between the two the fault walk has a node stand still.
    half_bytes: u64,
    read_bytes: AtomicU64,
}

impl Frozen {
    fn note(&self, bytes: usize, read: io::Result<()>) -> io::Result<()> {
        if read.is_err() {
            self.broken.store(true, Ordering::SeqCst);
        }
        let before = self.read_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        if before < self.half_bytes && before + bytes as u64 >= self.half_bytes {
            self.node.stands_at("HALF");
        }
        read
    }
}

impl PageSource for Frozen {
    fn ranges(&self) -> &[(SpaceId, Vec<Range>)] {
        self.source.ranges()
    }

    fn read(&self, space: SpaceId, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.note(buffer.len(), self.source.read(space, address, buffer))
    }

    fn read_ranges(&self, space: SpaceId, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        self.note(buffer.len(), self.source.read_ranges(space, ranges, buffer))
    }
}
