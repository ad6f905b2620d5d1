//! A restore from a directory, without a node.
//!
//! The order is what makes it safe: everything is verified, then the tree is rebuilt as puppets that cannot run, memory is hashed on its
//! way in, the image is marked as restored, and only then the puppets are let go. Whatever fails before leaves nothing.

use super::facts::{self, Moment};
use super::memory::Sink;
use super::records;
use super::streams::Bound;
use crate::shim::clone::part;
use ferry_image::{Reader, Trust, Verified, consumed};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::{Hash, WorkloadId};
use ferry_process::capture::TaskRef;
use ferry_process::nursery::{Nursery, Place};
use ferry_process::records::{MemoryObject, State};
use ferry_process::restore::files::{Recreated, RestoreContext};
use ferry_process::restore::{self, Home, Puppets, Restored};
use ferry_sys::proc::stat;
use ferry_sys::schedule::Stay;
use ferry_sys::timens::Clocks;
use ferry_transfer::linux::LinuxSink;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The image.
    pub dir: PathBuf,
    /// Ferry's state directory, with the keys.
    pub state: PathBuf,
    /// Fail rather than use a new pid namespace.
    pub same_pids: bool,
    /// The tree becomes a workload of its own, beside the one that was captured.
    pub as_clone: bool,
    /// Accept any signer.
    pub trust_image: bool,
    /// Threads that copy memory.
    pub threads: usize,
    /// The tree is not waited for: standard streams that led elsewhere are bound to `/dev/null`, not to this process's own.
    pub detach: bool,
    /// Gets the first process' id, as this host numbers it, before the tree runs.
    pub pidfile: Option<PathBuf>,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Hash of the image.
    pub image: Hash,
    /// Identity of the workload: that of the image, or a new one for a clone.
    pub workload: WorkloadId,
    /// First process, as this host numbers it.
    pub pid: i32,
    /// First process, as it numbers itself.
    pub pid_inside: i32,
    /// The tree is in a pid namespace of its own, because ids that it needs are taken here.
    pub new_pid_namespace: bool,
    /// Processes.
    pub processes: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// From the beginning until the tree ran, microseconds.
    pub restored_us: u64,
    /// Of it, reading and verifying manifest and records, microseconds.
    pub verify_us: u64,
    /// Of it, making puppets and their mappings, microseconds.
    pub build_us: u64,
    /// Of it, memory, microseconds.
    pub memory_us: u64,
    /// Of it, descriptors, signals, timers, registers, microseconds.
    pub finish_us: u64,
    /// Batches of remote calls.
    pub batches: u64,
    /// Remote calls in batches.
    pub calls: u64,
    /// Remote calls made alone.
    pub lone_calls: u64,
    /// What could not be had and is not essential.
    pub warnings: Vec<String>,
}

/// A tree that runs again.
#[derive(Debug)]
pub struct Running {
    /// What was done.
    pub report: Report,
    /// The process to wait for, a child of this one.
    pub child: i32,
}

impl Running {
    /// Waits until the first process has ended: its exit code, or 128 and the signal's number.
    ///
    /// # Errors
    /// ECHILD when something else has collected it.
    pub fn wait(&self) -> std::io::Result<u8> {
        loop {
            // Other orphans of the tree are collected on the way.
            if let Some((pid, status)) = ferry_sys::fork::wait(-1, true)?
                && pid == self.child
            {
                let code = if status & 0x7f == 0 { (status >> 8) & 0xff } else { 128 + (status & 0x7f) };
                return Ok(code as u8);
            }
        }
    }
}

/// Restores. To be called by a process with one thread, which becomes the subreaper of what it restores.
///
/// # Errors
/// In every case nothing of the tree is left, and the image can be restored again.
pub fn restore(request: &Request) -> Result<Running> {
    let begin = Instant::now();
    let trust = Trust::load(&request.state, request.trust_image)?;
    let image = Reader::open(&request.dir)?.verify(&trust)?;
    if !request.as_clone {
        may_run_again(&image)?;
    }
    facts::check(&image.manifest().host)?;
    let (mut state, moment) = records::read(&image)?;
    if request.as_clone {
        part(&mut state, &[], &[]);
    }
    let root = root(&state)?;
    let verify_us = micros(begin);

    let since = Instant::now();
    let place = place(&state, request.same_pids)?;
    let nursery = Nursery::make(place, clocks(&moment)?)
        .map_err(|e| unable("Cannot make the process under which the tree is rebuilt", &e))?;
    if place == Place::Here {
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
            .map_err(|e| unable("Cannot become the parent of orphans", &e.into()))?;
    }
    let home = Home { init: nursery.pid(), cgroup: None, staged: None };
    let puppets = Puppets::build(&state, &home).map_err(|e| failed(&e))?;
    let build_us = micros(since);

    let since = Instant::now();
    let sink = LinuxSink::open(puppets.access())
        .map_err(|e| unable("Cannot reach the memory of the puppets", &e))?;
    let loaded = image.load(request.threads, &Sink::new(&sink, &state))?;
    drop(sink);
    let memory_us = micros(since);

    let since = Instant::now();
    // Descriptors are made on a thread that is waited for: it need not wake another processor. Memory is in by now.
    let _stay = Stay::here();
    // After the memory: a memfd is sealed when its descriptors are made, and takes nothing more.
    let bound = Bound::new(request.detach)?;
    let descriptors = descriptors(&state, &puppets, &nursery, &bound)?;
    let pid = host_pid(&puppets.tasks(), root)?;
    if let Some(path) = &request.pidfile {
        std::fs::write(path, format!("{pid}\n"))
            .map_err(|e| unable(&format!("Cannot write {}", path.display()), &e))?;
    }
    let restored = run(request, &image, puppets, descriptors).inspect_err(|_| {
        if let Some(path) = &request.pidfile {
            let _ = std::fs::remove_file(path);
        }
    })?;
    // The tree runs from here on.
    let (restored_us, finish_us) = (micros(begin), micros(since));
    let child = nursery.finish(root).map_err(|e| unable("Cannot let go of the tree", &e))?;
    let report = Report {
        image: image.hash(),
        workload: identity(request, &image)?,
        pid,
        pid_inside: root,
        new_pid_namespace: place == Place::NewPidNamespace,
        processes: state.tasks.len(),
        memory_bytes: loaded.bytes,
        restored_us,
        verify_us,
        build_us,
        memory_us,
        finish_us,
        batches: restored.stats.batches,
        calls: restored.stats.calls,
        lone_calls: restored.stats.lone,
        warnings: restored.warnings,
    };
    let child = if place == Place::Here { pid } else { child };
    Ok(Running { report, child })
}

/// What went on after its image was made may still run: only a clone of it has an identity of its own.
fn may_run_again(image: &Verified) -> Result<()> {
    if image.manifest().ends {
        return Ok(image.check_not_consumed()?);
    }
    Err(Error::new(Kind::Refused, "The program went on after this image was made (--leave-running)")
        .hint("--as-clone makes a second one, without the connections to others that the first has"))
}

/// Every open file description, made again in this process.
fn descriptors(state: &State, puppets: &Puppets, nursery: &Nursery, bound: &Bound) -> Result<Recreated> {
    let object = |object: &MemoryObject| Some(((object.device, object.inode), puppets.object(object.id)?));
    let ctx = RestoreContext {
        init: Some(nursery.pid()),
        furniture: bound.by_name(),
        objects: state.objects.iter().filter_map(object).collect(),
    };
    Ok(Recreated::create(&state.files, &ctx)?)
}

/// Marks the image and lets the puppets go. If they cannot be let go, they are gone and the mark is taken back.
fn run(
    request: &Request,
    image: &Verified,
    puppets: Puppets,
    mut descriptors: Recreated,
) -> Result<Restored> {
    descriptors.seal()?;
    let mark = match image.manifest().ends && !request.as_clone {
        true => Some(consumed::mark(image.dir(), &note())?),
        false => None,
    };
    let released = descriptors.release_network().map_err(Error::from);
    let done = released.and_then(|()| puppets.finish(&descriptors).map_err(|error| failed(&error)));
    if let (Err(_), Some(mark)) = (&done, mark) {
        mark.undo()?;
    }
    done
}

/// The first process of the tree: the one whose parent is not in it.
fn root(state: &State) -> Result<i32> {
    let inside = |pid: i32| state.tasks.iter().any(|task| task.pid == pid);
    let root = state.tasks.iter().find(|task| !inside(task.parent) && task.space.is_some());
    root.map(|task| task.pid)
        .ok_or_else(|| Error::new(Kind::Refused, "The image holds no process that is alive"))
}

fn host_pid(tasks: &[TaskRef], root: i32) -> Result<i32> {
    let task = tasks.iter().find(|task| task.ns_pid == root);
    task.map(|task| task.host_pid).ok_or_else(|| Error::new(Kind::Bug, "The first process was not restored"))
}

/// How long an ended process may still wait for its parent to collect it, before its id counts as taken.
const ZOMBIE_MAX: Duration = Duration::from_secs(1);

/// Among the host's processes if every id is free there, else in a namespace of its own.
fn place(state: &State, same_pids: bool) -> Result<Place> {
    let threads = state.tasks.iter().flat_map(|task| &task.threads).map(|thread| thread.tid);
    let leaders = state.tasks.iter().flat_map(|task| [task.pid, task.group, task.session]);
    let since = Instant::now();
    for id in threads.chain(leaders).filter(|id| *id > 0) {
        while let Ok(stat) = stat::read(id) {
            if matches!(stat.state, b'Z' | b'X') && since.elapsed() < ZOMBIE_MAX {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            if same_pids {
                let text = format!("The id {id} is taken on this host");
                return Err(Error::new(Kind::Unable, text).hint(
                    "End that process, or restore without --same-pids: in a pid namespace of its own",
                ));
            }
            return Ok(Place::NewPidNamespace);
        }
    }
    Ok(Place::Here)
}

/// In another boot the clocks begin anew: the tree must not see that.
fn clocks(moment: &Moment) -> Result<Option<Clocks>> {
    let now = Moment::now()?;
    let wanted =
        Clocks { monotonic_ns: i128::from(moment.monotonic_ns), boottime_ns: i128::from(moment.boottime_ns) };
    Ok((now.boot != moment.boot).then_some(wanted))
}

fn identity(request: &Request, image: &Verified) -> Result<WorkloadId> {
    if !request.as_clone {
        return Ok(image.manifest().workload.id);
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|e| Error::new(Kind::Unable, format!("Cannot draw random numbers: {e}")))?;
    Ok(WorkloadId(id))
}

fn note() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("on {host}, {} s after 1970", since.as_secs())
}

fn failed(error: &restore::Error) -> Error {
    let kind = match error {
        restore::Error::Unfit { .. } | restore::Error::Damaged(_) => Kind::Refused,
        _ => Kind::Unable,
    };
    Error::from_source(kind, error)
}

fn unable(what: &str, error: &std::io::Error) -> Error {
    Error::from_source(Kind::Unable, error).context(what)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
