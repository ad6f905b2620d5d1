//! A checkpoint of a process tree into a directory, without a node.
//!
//! The tree is stopped as late and as shortly as can be: keys, directory and advice flags come before. What fails while it is
//! stopped lets it run on and leaves no image; it is ended only after the image is whole and durable.

use super::facts::{self, Moment};
use super::memory::Source;
use super::{records, streams};
use ferry_image::{Header, HostKey, MemoryReport, Workload, Writer};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::{Epoch, Hash, WorkloadId};
use ferry_process::capture::files::{self, FilesContext};
use ferry_process::capture::{self, Captured, Context, Scope, Seized};
use ferry_process::records::State;
use ferry_transfer::linux::LinuxSource;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Root of the tree, a pid of this host.
    pub pid: i32,
    /// Where the image will be; it must not exist.
    pub dir: PathBuf,
    /// Ferry's state directory, with the key that signs.
    pub state: PathBuf,
    /// The tree goes on afterwards; otherwise it is ended.
    pub leave_running: bool,
    /// Threads that copy memory.
    pub threads: usize,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Hash of the image.
    pub image: Hash,
    /// Identity that the image carries.
    pub workload: WorkloadId,
    /// Processes in it.
    pub processes: usize,
    /// Threads in it.
    pub threads: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of them that were zeros and not stored.
    pub zero_bytes: u64,
    /// How long the tree stood still, microseconds. Where the tree was ended: until all of it was captured.
    pub frozen_us: u64,
    /// Of it, everything but memory, microseconds.
    pub state_us: u64,
    /// From the beginning until the image was durable, microseconds.
    pub total_us: u64,
    /// Batches of remote calls.
    pub batches: u64,
    /// Remote calls in batches.
    pub calls: u64,
    /// Remote calls made alone.
    pub lone_calls: u64,
}

/// Makes the checkpoint.
///
/// # Errors
/// In every case the tree runs on as before and there is no image.
pub fn checkpoint(request: &Request) -> Result<Report> {
    let begin = Instant::now();
    let mut writer = Writer::create(&request.dir)?;
    writer.prepare(request.threads);
    let key = HostKey::load_or_create(&request.state)?;
    let workload = new_identity(request.pid)?;
    let done = stopped(request, &mut writer, begin).map_err(|error| rolled_back(error, request.pid))?;
    let Done { seized, state, memory, moment, mut report } = done;
    // What is still stopped runs on if this fails: `seized` is dropped.
    records::write(&mut writer, &state, &moment).map_err(|error| rolled_back(error, request.pid))?;
    let header = Header { workload, host: facts::needed(&state), ends: !request.leave_running };
    let manifest = writer.finish(header, &key).map_err(|error| rolled_back(error.into(), request.pid))?;
    if let Some((held, seized)) = seized {
        let ended = seized.kill();
        held.keep_silent();
        ended.map_err(|error| {
            Error::from_source(Kind::Remainder, &error)
                .context(format!("The image is complete, but process {} could not be ended", request.pid))
                .hint("End it before the image is restored, or two of it run")
        })?;
    }
    report.image = manifest.hash();
    report.workload = manifest.workload.id;
    report.memory_bytes = memory.bytes;
    report.zero_bytes = memory.zero_bytes;
    report.total_us = micros(begin);
    Ok(report)
}

/// What the time in which the tree is stopped gives.
struct Done {
    /// The tree and its connections, if it is to be ended. In this order: connections go on before the tree does.
    seized: Option<(Connections, Seized)>,
    state: State,
    memory: MemoryReport,
    moment: Moment,
    report: Report,
}

fn stopped(request: &Request, writer: &mut Writer, begin: Instant) -> Result<Done> {
    let unable = |error: capture::Error| capture_error(&error);
    let mut seized = capture::seize(&Scope::Tree(request.pid)).map_err(unable)?;
    let since = seized.since();
    let moment = Moment::of(request.pid)?;
    let tasks = seized.tasks();
    let Captured { mut state, memory: spaces, stats, .. } =
        seized.capture(&Context::default()).map_err(unable)?;
    let furniture = streams::outside(&tasks);
    let objects = state.objects.iter().map(|object| (object.device, object.inode)).collect();
    let ctx = FilesContext { furniture: &furniture, objects, ..FilesContext::default() };
    let held = files::capture(&tasks, &ctx)?;
    state.files = held.files;
    let mut held = Connections(held.held);
    let state_us = micros(since);
    let source = LinuxSource::open(spaces)
        .map_err(|e| Error::from_source(Kind::Unable, &e).context("Cannot reach the memory of the tree"))?;
    let source = Source(&source);
    let memory = writer.memory(&source.spaces(), request.threads, &source)?;
    let mut frozen_us = micros(since);
    let seized = if request.leave_running {
        held.0.resume();
        seized.release().map_err(unable)?;
        frozen_us = micros(since);
        None
    } else {
        Some((held, seized))
    };
    let report = Report {
        image: Hash([0; 32]),
        workload: WorkloadId([0; 16]),
        processes: state.tasks.len(),
        threads: state.tasks.iter().map(|task| task.threads.len()).sum(),
        memory_bytes: 0,
        zero_bytes: 0,
        frozen_us,
        state_us,
        total_us: micros(begin),
        batches: stats.batches,
        calls: stats.calls,
        lone_calls: stats.lone,
    };
    Ok(Done { seized, state, memory, moment, report })
}

/// Connections in repair mode. Dropped on a way back, they go on.
#[derive(Debug)]
struct Connections(files::Held);

impl Connections {
    /// Leaves them in repair mode, in which they are closed without a word to their peers.
    fn keep_silent(mut self) {
        drop(std::mem::take(&mut self.0));
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.resume();
    }
}

/// A tree that no node knows gets an identity with its image.
fn new_identity(pid: i32) -> Result<Workload> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|e| Error::new(Kind::Unable, format!("Cannot draw random numbers: {e}")))?;
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).map_err(|_| {
        Error::new(Kind::Usage, format!("There is no process {pid}")).hint("ps -e lists processes")
    })?;
    Ok(Workload {
        id: WorkloadId(id),
        name: comm.trim_end().to_owned(),
        epoch: Epoch(1),
        kind: "process".into(),
    })
}

fn capture_error(error: &capture::Error) -> Error {
    let kind = match error {
        capture::Error::Unsupported { .. } => Kind::Refused,
        _ => Kind::Unable,
    };
    Error::from_source(kind, error)
}

/// What failed while the tree was stopped was rolled back; what was refused stays a refusal.
fn rolled_back(error: Error, pid: i32) -> Error {
    match error.kind {
        Kind::Unable => Error { kind: Kind::RolledBack, ..error }
            .context(format!("Process {pid} runs on, and there is no image")),
        _ => error,
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
