//! The restore of a workload in a capsule from its image: verified, built whole and frozen, then taken through the decider of the host
//! that owns it, and only then let go.
//!
//! The registry is the authority, not the directory: an image may be copied, and only one of the copies is taken. A clone is a new
//! workload, so nobody is asked; its ends of established connections are gone.

use super::alone::{self, Alone};
use super::files;
use super::node::Node;
use super::request::CloneSpec;
use crate::handover::{Act, Driver, Stopped, World};
use crate::imaging::workload::Image;
use crate::shim::protocol::Phase;
use crate::shim::{Client, Spec};
use ferry_image::Trust;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::facts;
use ferry_model::handover::{Answer, Cas, Entry, Input, Key, Message, Outcome, Record, Restore, Standing};
use ferry_model::ids::{Epoch, Hash, HostName, MoveId, WorkloadId};
use ferry_model::plan::Inventory;
use ferry_model::planning::{self, Method, Options, UNDECLARED};
use ferry_model::resource::Action;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Sorts of resources that a restore finds on its host, or has brought along.
const ON_DISK: [&str; 4] = ["executable", "library", "file", "directory"];

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Restoration {
    /// The image.
    pub dir: PathBuf,
    /// A new workload beside the one that was saved.
    pub clone: Option<CloneSpec>,
    /// Accept any signer.
    pub trust_image: bool,
    /// Threads that copy memory.
    pub threads: usize,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// Hash of the image.
    pub image: Hash,
    /// The workload.
    pub workload: WorkloadId,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// From the beginning until it ran, microseconds.
    pub restored_us: u64,
}

/// Restores a workload that was suspended, or a clone of one that was saved.
pub(super) fn run(
    node: &Arc<dyn Node>,
    mv: MoveId,
    request: &Restoration,
    doubt: &Arc<AtomicBool>,
) -> Result<Restored> {
    let began = Instant::now();
    let trust = Trust::load(&node.state(), request.trust_image)?;
    let image = Image::open(&request.dir, &trust)?.ok_or_else(|| {
        Error::new(Kind::Usage, "The image is of a process tree that lived in no capsule")
            .hint("ferry restore brings it back without a node")
    })?;
    let mut spec = image.about.spec.clone();
    let (key, owner) = match &request.clone {
        Some(clone) => {
            clone.apply(&mut spec)?;
            (Key { id: clone.id, epoch: Epoch(0), mv }, node.host())
        }
        None => {
            let record = suspended_to(node, &image)?;
            (Key { id: record.id, epoch: record.epoch, mv }, record.owner)
        }
    };
    // The bridge is this host's matter, whatever it is called elsewhere.
    if let (Some(network), Some(bridge)) = (&mut spec.network, node.facts().bridge) {
        network.bridge = bridge;
    }
    let missing = fits(node, &image, &spec, request.clone.is_some())?;
    let job = Job { key, owner, spec, as_clone: request.clone.is_some(), threads: request.threads, missing };
    let memory_bytes = job.run(node, &image, doubt)?;
    let restored_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Restored { image: image.hash(), workload: key.id, memory_bytes, restored_us })
}

/// The record that says that the workload is this image. The host that made the image is asked, and whoever it gave the workload to.
fn suspended_to(node: &Arc<dyn Node>, image: &Image) -> Result<Record> {
    let as_clone = "--as-clone makes a new workload of it, with an identity of its own";
    let (id, maker) = (image.about.spec.id, &image.about.host);
    if !image.manifest().ends {
        return Err(Error::new(
            Kind::Refused,
            "The workload went on after this image was made (--leave-running)",
        )
        .hint(as_clone));
    }
    let answer = match *maker == node.host() {
        true => node.registry().read(id),
        false => node.registry().read_from(maker, id),
    };
    let (Answer::Won(record) | Answer::Is(record)) = answer else {
        return Err(Error::new(
            Kind::Refused,
            format!("Only {maker}, which suspended it, can say whether the workload may be taken, and it does not say"),
        )
        .hint(format!("start the node of {maker}, or connect it"))
        .hint(as_clone));
    };
    match record.standing {
        Standing::Suspended(hash) if hash == image.hash() => Ok(record),
        Standing::Suspended(_) => {
            Err(Error::new(Kind::Refused, "The workload is suspended to another, later image").hint(as_clone))
        }
        Standing::Running => Err(Error::new(
            Kind::Refused,
            format!(
                "The image was restored before: the workload belongs to {} and may run there",
                record.owner
            ),
        )
        .hint(as_clone)),
        Standing::Ended => {
            Err(Error::new(Kind::Refused, "The workload has ended since it was restored").hint(as_clone))
        }
    }
}

/// Whether what the image needs of its host is here. Returns what is not, and has to be among the files that the image brings.
fn fits(node: &Arc<dyn Node>, image: &Image, spec: &Spec, clone: bool) -> Result<Vec<String>> {
    let about = &image.about;
    let here = about.host == node.host();
    // A directory of the host that the workload was given is where it was, on the host that it was on.
    let stays = |name: &str| here && spec.with.iter().any(|with| with.path == name);
    let undeclared = |sort: &str| sort == UNDECLARED && !here;
    let on_disk =
        about.resources.iter().filter(|each| ON_DISK.contains(&each.sort.as_str()) || undeclared(&each.sort));
    let resources: Vec<_> = on_disk.filter(|each| !stays(&each.name)).cloned().collect();
    let holdings = node.holdings(&resources);
    let answer = facts::Answer { facts: node.facts(), holdings, refusals: Vec::new() };
    let memory_bytes = image.manifest().memory_bytes();
    let inventory = Inventory { workload: spec.id, facts: about.facts.clone(), resources, memory_bytes };
    let options = Options {
        target: node.host(),
        method: Method::Warm,
        clone,
        bindings: Vec::new(),
        end_connections: false,
        may_switch: false,
    };
    let plan = planning::make_here(&inventory, &answer, &options);
    super::planning::refuse_blockers(&plan)?;
    let brought = plan.items.iter().filter(|item| matches!(item.action, Action::Move | Action::Copy));
    Ok(brought.map(|item| item.resource.name.clone()).filter(|name| name.starts_with('/')).collect())
}

/// One workload to be built and taken.
pub(super) struct Job {
    /// `epoch` is the one under which it is suspended; 0 for a clone.
    pub key: Key,
    /// Who owns it until it is taken.
    pub owner: HostName,
    pub spec: Spec,
    pub as_clone: bool,
    pub threads: usize,
    /// Files that the image has to bring.
    pub missing: Vec<String>,
}

impl Job {
    /// Builds the workload from its image and takes it. Returns the bytes of memory.
    ///
    /// # Errors
    /// In every case nothing of it is left here, but that the outcome may be in doubt.
    pub fn run(self, node: &Arc<dyn Node>, image: &Image, doubt: &Arc<AtomicBool>) -> Result<u64> {
        let id = self.key.id;
        let memory_bytes = match self.build(node, image) {
            Ok(bytes) => bytes,
            Err(error) => {
                files::destroy(node, id)?;
                return Err(error);
            }
        };
        let mut role = ReviveRole { alone: Alone::new(node, self.key, doubt)?, failure: None };
        let parties = role.alone.parties(&self.owner);
        let taken = match self.as_clone {
            true => Restore::clone_of(self.key, parties, image.hash()),
            false => Restore::take(self.key, parties, image.hash()),
        };
        let ended =
            Driver::start(taken, &mut role).and_then(|mut driver| alone::settle(&mut driver, &mut role));
        let outcome = ended.map_err(|e| super::ground::stopped(&e))?;
        role.verdict(outcome).map(|()| memory_bytes)
    }

    fn build(&self, node: &Arc<dyn Node>, image: &Image) -> Result<u64> {
        let directory = node.directory(self.key.id);
        let unable = |e: std::io::Error| {
            Error::from_source(Kind::Unable, &e).context("There is no room for the workload")
        };
        files::clear(&directory).map_err(unable)?;
        image.files(|stream| files::take(&directory, stream))?;
        let absent = |name: &&String| {
            fs::symlink_metadata(directory.join("upper").join(name.trim_start_matches('/'))).is_err()
        };
        if let Some(name) = self.missing.iter().find(absent) {
            return Err(Error::new(
                Kind::Refused,
                format!("{} has other content at {name} than when the image was made, or none", node.host()),
            )
            .hint("restore it where it was made, or move it there with ferry move, which brings such files along"));
        }
        let journal = node.journal(self.key.id)?;
        let reserved = journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).reserve();
        reserved.map_err(|e| Error::from_source(Kind::Unable, &e))?;
        let shim = Client::spawn(&node.program(), &directory, false);
        let mut shim =
            shim.map_err(|e| Error::from_source(Kind::Unable, &e).context("No shim could be started"))?;
        image.build(&mut shim, self.spec.clone(), self.as_clone, self.threads)
    }
}

/// The role.
struct ReviveRole {
    alone: Alone,
    failure: Option<Error>,
}

impl AsRef<Alone> for ReviveRole {
    fn as_ref(&self) -> &Alone {
        &self.alone
    }
}

impl ReviveRole {
    fn verdict(&mut self, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Moved => Ok(()),
            Outcome::Aborted => Err(self.failure.take().unwrap_or_else(|| {
                Error::new(Kind::Refused, "The image was restored elsewhere in the same moment")
                    .hint("--as-clone makes a new workload of it, with an identity of its own")
            })),
            _ => Err(Error::new(
                Kind::Unable,
                "The workload was started and has ended, as its host or its end came",
            )),
        }
    }
}

impl World for ReviveRole {
    fn journal(&mut self, entry: &Entry) -> Result<(), Stopped> {
        self.alone.append(entry)
    }

    fn send(&mut self, _: Message) {}

    fn act(&mut self, act: Act) -> Option<Input> {
        match act {
            Act::Check => {
                let status = self.alone.ask(Client::status);
                let checked =
                    status.and_then(|status| status.can_start().map_err(|why| Error::new(Kind::Unable, why)));
                Some(match checked {
                    Ok(()) => Input::Ready,
                    Err(error) => {
                        let why = error.to_string();
                        self.failure.get_or_insert(error);
                        Input::NotReady(why)
                    }
                })
            }
            Act::Thaw => {
                super::hold::before_resume();
                self.alone.ask(Client::resume).ok()?;
                self.alone.node.arrived(self.alone.key.id);
                Some(Input::Thawed)
            }
            Act::Destroy => {
                self.alone.forget_shim();
                files::destroy(&self.alone.node, self.alone.key.id).ok()?;
                Some(Input::Destroyed)
            }
            Act::Freeze | Act::Restore | Act::Serve | Act::Hold => None,
        }
    }

    fn cas(&mut self, cas: &Cas) -> Answer {
        self.alone.cas(cas)
    }

    fn read(&mut self, id: WorkloadId) -> Answer {
        self.alone.read(id)
    }

    fn copy_exists(&mut self) -> bool {
        self.alone.alive()
    }
}

/// Takes a restore up again after the node was restarted. None: the journal knows none of this key.
pub(super) fn recover(node: &Arc<dyn Node>, key: Key) -> Result<Option<Outcome>> {
    let alone = Alone::new(node, key, &Arc::default())?;
    let (entries, copy) = (alone.entries(), alone.alive());
    let _ = fs::remove_dir_all(node.directory(key.id).join(super::ARRIVING));
    let Some(recovered) = Restore::recover(&entries, key, &alone.parties(&node.host()), copy) else {
        return Ok(None);
    };
    let mut role = ReviveRole { alone, failure: None };
    let ended =
        Driver::start(recovered, &mut role).and_then(|mut driver| alone::settle(&mut driver, &mut role));
    ended.map(Some).map_err(|e| super::ground::stopped(&e))
}

/// What a restore that never asked the decider left when its node died: nothing was promised, so it goes.
pub(super) fn sweep(node: &Arc<dyn Node>, id: WorkloadId) -> Result<bool> {
    let arriving = node.directory(id).join(super::ARRIVING);
    if arriving.exists() {
        fs::remove_dir_all(&arriving).map_err(|e| Error::from_source(Kind::Unable, &e))?;
        node.departed(id, None);
    }
    let status = Client::connect(&node.directory(id)).ok().and_then(|mut shim| shim.status().ok());
    if !status.is_some_and(|status| matches!(status.phase, Phase::Building | Phase::Prepared)) {
        return Ok(false);
    }
    files::destroy(node, id)?;
    node.departed(id, None);
    Ok(true)
}

/// What the workload in the image at `dir` was asked to be. `None`: the image is of a process tree that lived in no capsule.
///
/// # Errors
/// When the image is not whole, not trusted, or does not fit this host.
pub fn workload_in(dir: &Path, state: &Path, trust_image: bool) -> Result<Option<Spec>> {
    Ok(Image::open(dir, &Trust::load(state, trust_image)?)?.map(|image| image.about.spec))
}
