//! Files of a workload: sent while it runs, again where they have changed since, and the last changes when it is frozen; put
//! beneath its root at the target; and what is left to remove afterwards.

use super::node::Node;
use crate::shim::{CONTENTS, Client, LOG, Spec};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::WorkloadId;
use ferry_model::plan::Plan;
use ferry_model::resource::{Action, Binding};
use ferry_process::capsule::contents::{self, unpack_upper};
use ferry_process::capsule::mapped;
use ferry_process::capsule::tree::{self, Changes, Index, Limits, Parts, pack_changes};
use ferry_process::inspect::host::is_in_memory;
use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What one part of a transfer of files holds: nothing; files beneath its root; files in a memory file system of a capsule that has its
/// inside; what its capture has put aside, with its log. Parts follow each other until the transfer ends. (1 was the last of these together
/// with files.)
const NOTHING: u8 = 0;
const PARTS: u8 = 2;
const MEMORY: u8 = 3;
const REST: u8 = 4;

/// Longest name of a mount point, bytes.
const POINT_BYTES_MAX: usize = 4096;

/// Most bytes of a log that go along.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// Most rounds while the workload runs.
const ROUNDS_MAX: u32 = 5;

/// So little may be left to the pause: about what a link carries within a few milliseconds.
const ROUND_BYTES_MIN: u64 = 2 << 20;

/// Where a tree is.
enum Place {
    /// On this host.
    At(PathBuf),
    /// At this mount point, in the capsule of the workload in a directory.
    InMemory(String),
}

/// The inside of the capsule in a workload's directory, looked at once where it is needed.
struct Inside<'a> {
    workload: &'a Path,
    memory: OnceCell<contents::Memory>,
}

impl<'a> Inside<'a> {
    fn of(workload: &'a Path) -> Self {
        Self { workload, memory: OnceCell::new() }
    }

    /// Opens the memory file system at `point`.
    fn open(&self, point: &str) -> io::Result<File> {
        let memory = match self.memory.get() {
            Some(memory) => memory,
            None => {
                let memory = contents::Memory::of(self.workload).map_err(io::Error::other)?;
                self.memory.get_or_init(|| memory)
            }
        };
        memory.open(point).map_err(io::Error::other)
    }
}

/// A tree that is sent while it is in use.
struct Tree {
    place: Place,
    /// These parts of it; none: all.
    parts: Option<Parts>,
    /// What of it belongs to another tree.
    without: Parts,
    /// What the target has.
    there: Index,
}

impl Tree {
    /// What has changed since it was sent last, where, and what it is like now.
    fn changes(&self, inside: &Inside<'_>, frozen: bool) -> io::Result<(File, Index, Changes)> {
        let limits = Limits::default();
        let root = match &self.place {
            Place::At(root) => File::open(root)?,
            Place::InMemory(point) => inside.open(point)?,
        };
        let failed = |error: tree::Error| io::Error::other(error);
        let mut now = Index::look(&root, self.parts.as_ref(), &self.without, &limits).map_err(failed)?;
        if !frozen {
            match mapped(inside.workload) {
                Ok(mapped) => now.unsettle(&mapped),
                // Not a tree in a capsule: its content is compared in the pause.
                Err(_) => now.unsettle_all(),
            }
        }
        let changes = now.since(&self.there, &root, self.parts.is_some(), frozen).map_err(failed)?;
        Ok((root, now, changes))
    }

    /// Sends what has changed since the last time; returns bytes of content.
    fn send(&mut self, kind: u8, inside: &Inside<'_>, frozen: bool, to: &mut dyn Write) -> io::Result<u64> {
        let (root, mut now, changes) = self.changes(inside, frozen)?;
        let (crossing, limits) = (self.parts.is_some(), Limits::default());
        let failed = |error: tree::Error| io::Error::other(error);
        to.write_all(&[kind])?;
        if let Place::InMemory(point) = &self.place {
            let len = u16::try_from(point.len()).map_err(io::Error::other)?;
            to.write_all(&len.to_le_bytes())?;
            to.write_all(point.as_bytes())?;
        }
        pack_changes(&root, &changes, &mut now, crossing, !frozen, to, &limits).map_err(failed)?;
        self.there = now;
        Ok(changes.bytes)
    }
}

/// Files of one move, at its source.
pub(super) struct Stage {
    directory: PathBuf,
    root: PathBuf,
    /// Executables, libraries and files that the workload only reads: they do not change.
    beneath: Parts,
    /// What the workload wrote.
    upper: Tree,
    /// What `--with` names and this host does not share with the target; of an adopted tree, what it may be writing to on the host.
    with: Option<Tree>,
    /// Memory file systems of the capsule, once the target has such. Before, and if it never has, they go with the captured state.
    memory: Vec<Tree>,
    rounds: u32,
    /// Bytes of the last round.
    bytes: u64,
}

impl Stage {
    /// By the plan. `root` is the workload's root, as this host reaches it; that of an `adopted` tree is the host's own.
    pub fn new(directory: &Path, root: PathBuf, spec: &Spec, plan: &Plan, adopted: bool) -> Self {
        let (mut beneath, mut with) = (Parts::new(), Parts::new());
        let upper = directory.join("upper");
        let sorts = ["file", "directory", "library", "executable", "pipe"];
        for item in &plan.items {
            let name = item.resource.name.trim_start_matches('/');
            let travels = matches!(item.action, Action::Move | Action::Copy)
                && sorts.contains(&item.resource.sort.as_str())
                && item.resource.name.starts_with('/');
            if !travels || name.is_empty() {
                continue;
            }
            // Memory file systems of a tree in no capsule go with the captured state.
            let in_memory = adopted && is_in_memory(&item.resource.name);
            if spec.with.iter().any(|with| with.path == item.resource.name) {
                if !in_memory {
                    with.insert(name.as_bytes().to_vec(), true);
                }
            } else if adopted && item.resource.binding == Binding::Identifier {
                // It may change until the freeze.
                if !in_memory {
                    with.entry(name.as_bytes().to_vec()).or_insert(false);
                }
            } else if fs::symlink_metadata(upper.join(name)).is_err() {
                beneath.insert(name.as_bytes().to_vec(), false);
            }
        }
        // A tree that lived in no capsule has none.
        let _ = fs::create_dir_all(&upper);
        let tree =
            |root, parts, without| Tree { place: Place::At(root), parts, without, there: Index::default() };
        Self {
            directory: directory.to_owned(),
            beneath,
            // Where something is mounted, the upper directory has an empty place that nobody sees.
            upper: tree(upper, None, with.clone()),
            with: (!with.is_empty()).then(|| tree(root.clone(), Some(with), Parts::new())),
            root,
            memory: Vec::new(),
            rounds: 0,
            bytes: u64::MAX,
        }
    }

    /// Whether the target has none of `path`, as the workload sees it, or another one: it comes along, and is in its place for good in the
    /// pause only.
    pub fn brings(&self, path: &[u8]) -> bool {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let above = |end: &usize| self.beneath.contains_key(&path[..*end]);
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| above(&end))
    }

    /// From here on sends what is in these memory file systems, by mount point: the target's capsule has them, too.
    pub fn add_memory(&mut self, points: Vec<String>) {
        let tree = |point| Tree {
            place: Place::InMemory(point),
            parts: None,
            without: Parts::new(),
            there: Index::default(),
        };
        self.memory = points.into_iter().map(tree).collect();
    }

    /// Whether [`Self::add_memory`] was called.
    pub fn sends_memory(&self) -> bool {
        !self.memory.is_empty()
    }

    /// What has changed in memory file systems.
    pub fn send_memory(&mut self, frozen: bool, to: &mut dyn Write) -> io::Result<()> {
        let inside = Inside::of(&self.directory);
        for tree in &mut self.memory {
            self.bytes = self.bytes.saturating_add(tree.send(MEMORY, &inside, frozen, to)?);
        }
        Ok(())
    }

    /// Whether so much has changed since the last round that it is better sent before the pause. What cannot be looked at now is
    /// found when it is sent.
    pub fn is_due(&self) -> bool {
        let trees = std::iter::once(&self.upper).chain(&self.with).chain(&self.memory);
        let inside = Inside::of(&self.directory);
        let bytes = |tree: &Tree| tree.changes(&inside, false).map_or(0, |(_, _, changes)| changes.bytes);
        trees.map(bytes).sum::<u64>() > ROUND_BYTES_MIN
    }

    /// Whether another round is worth its time: the last one brought less than half of what the one before did, and more than nothing.
    pub fn is_worth_another(&self) -> bool {
        self.rounds < ROUNDS_MAX && self.bytes > ROUND_BYTES_MIN
    }

    /// One round while the workload runs.
    pub fn send_round(&mut self, to: &mut dyn Write) -> io::Result<()> {
        if self.rounds == 0 && !self.beneath.is_empty() {
            to.write_all(&[PARTS])?;
            let root = File::open(&self.root)?;
            let packed = tree::pack_parts(&root, &self.beneath, to, &Limits::default());
            packed.map_err(io::Error::other)?;
        }
        let (before, inside) = (self.bytes, Inside::of(&self.directory));
        self.bytes = self.upper.send(PARTS, &inside, false, to)?;
        if let Some(with) = &mut self.with {
            self.bytes += with.send(PARTS, &inside, false, to)?;
        }
        self.send_memory(false, to)?;
        self.rounds += 1;
        if self.rounds > 1 && self.bytes > before / 2 {
            // It writes as fast as this sends: more rounds would change nothing.
            self.rounds = ROUNDS_MAX;
        }
        Ok(())
    }

    /// When it stands still: what has changed.
    pub fn send_changes(&mut self, to: &mut dyn Write) -> io::Result<()> {
        if let Some(with) = &mut self.with {
            with.send(PARTS, &Inside::of(&self.directory), true, to)?;
        }
        self.send_memory(true, to)?;
        self.upper.send(PARTS, &Inside::of(&self.directory), true, to)?;
        Ok(())
    }

    /// Both, of one that is captured.
    pub fn send_last(&mut self, to: &mut dyn Write) -> io::Result<()> {
        self.send_changes(to)?;
        self.send_rest(to)
    }

    /// When it is captured: the rest.
    pub fn send_rest(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&[REST])?;
        send_file(&self.directory.join(CONTENTS), u64::MAX, to)?;
        send_file(&self.directory.join(LOG), LOG_BYTES_MAX, to)?;
        // Sent: it would only take room while both sides wait for the decision.
        let _ = fs::remove_file(self.directory.join(CONTENTS));
        Ok(())
    }
}

/// The last bytes of a file, with their number in front. A file that is not there counts as empty.
fn send_file(path: &Path, bytes_max: u64, to: &mut dyn Write) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return to.write_all(&0u64.to_le_bytes()),
        Err(e) => return Err(e),
    };
    let len = file.metadata()?.len();
    let from = len.saturating_sub(bytes_max);
    file.seek(SeekFrom::Start(from))?;
    to.write_all(&(len - from).to_le_bytes())?;
    let sent = io::copy(&mut file.take(len - from), to)?;
    if sent == len - from { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn take_file(path: &Path, from: &mut dyn Read) -> io::Result<()> {
    let mut len = [0; 8];
    from.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
    let taken = io::copy(&mut from.take(len), &mut file)?;
    if taken == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Puts what [`Stage`] sent in its place. `directory` is the workload's, at the target.
pub(super) fn take(directory: &Path, from: &mut dyn Read) -> io::Result<()> {
    let (mut kind, inside) = ([0], Inside::of(directory));
    while from.read(&mut kind)? > 0 {
        match kind[0] {
            NOTHING => {}
            PARTS => drop(unpack_upper(directory, from).map_err(io::Error::other)?),
            REST => take_rest(directory, from)?,
            MEMORY => take_memory(&inside, from)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "Files of an unknown kind")),
        }
    }
    Ok(())
}

fn take_memory(inside: &Inside<'_>, from: &mut dyn Read) -> io::Result<()> {
    let mut len = [0; 2];
    from.read_exact(&mut len)?;
    let mut point = vec![0; usize::from(u16::from_le_bytes(len))];
    if point.len() > POINT_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "A mount point has too long a name"));
    }
    from.read_exact(&mut point)?;
    let point = String::from_utf8(point).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    tree::unpack(inside.open(&point)?, from, &Limits::default()).map(drop).map_err(io::Error::other)
}

fn take_rest(directory: &Path, from: &mut dyn Read) -> io::Result<()> {
    take_file(&directory.join(CONTENTS), from)?;
    take_file(&directory.join(LOG), from)
}

/// Names in a workload's directory that outlive its copy: what happened to it.
fn stays(name: &str) -> bool {
    name.starts_with("journal") || [super::NODE_RECORD, super::WARM_IMAGE, super::ARRIVING].contains(&name)
}

/// Makes room for an arriving workload: an empty directory, but for the journal of earlier visits.
pub(super) fn clear(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if stays(&entry.file_name().to_string_lossy()) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Ends this host's copy of a workload with everything that was made for it, but for the journal. Repeatable.
pub(super) fn destroy(node: &Arc<dyn Node>, id: WorkloadId) -> Result<()> {
    let directory = node.directory(id);
    if !directory.exists() {
        return Ok(());
    }
    let shim = Client::connect(&directory).ok();
    let shim = match shim {
        None if directory.join(crate::shim::RECORD).exists() => {
            let spawned = Client::spawn(&node.program(), &directory, true);
            Some(
                spawned
                    .map_err(|e| Error::from_source(Kind::Unable, &e).context("No shim could be started"))?,
            )
        }
        other => other,
    };
    if let Some(mut shim) = shim {
        shim.destroy()?;
    }
    clear(&directory).map_err(|e| {
        Error::from_source(Kind::Unable, &e).context(format!("{} could not be emptied", directory.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    /// What one transfer of a tree holds, without its kind.
    fn sent(tree: &mut Tree, frozen: bool) -> Vec<u8> {
        let mut stream = Vec::new();
        tree.send(MEMORY, &Inside::of(Path::new("/nowhere")), frozen, &mut stream).unwrap();
        stream.split_off(1)
    }

    #[test]
    fn a_large_file_in_memory_is_not_sent_again_in_the_pause() {
        let (source, target) =
            (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        let here = |name: &str| source.path().join(name);
        let there = |name: &str| target.path().join(name);
        let large: Vec<u8> = (0..32_u32 << 20).map(|at| (at >> 7) as u8 ^ at as u8).collect();
        fs::write(here("large"), &large).unwrap();
        fs::hard_link(here("large"), here("same")).unwrap();
        fs::write(here("renamed"), b"name").unwrap();
        fs::write(here("removed"), b"gone").unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, here("pipe"), mode).unwrap();
        let mut tree = Tree {
            place: Place::At(source.path().to_owned()),
            parts: None,
            without: Parts::new(),
            there: Index::default(),
        };
        let first = sent(&mut tree, false);
        assert!(first.len() > large.len());
        let unpack = |stream: &[u8]| {
            let root = File::open(target.path()).unwrap();
            tree::unpack(root, &mut &*stream, &Limits::default()).unwrap();
        };
        unpack(&first);
        fs::rename(here("renamed"), here("other")).unwrap();
        fs::remove_file(here("removed")).unwrap();
        fs::write(here("fresh"), b"new").unwrap();
        let last = sent(&mut tree, true);
        assert!(last.len() < 64 << 10, "{} bytes travel in the pause", last.len());
        unpack(&last);
        assert!(fs::read(there("large")).unwrap() == large);
        assert_eq!(fs::metadata(there("large")).unwrap().ino(), fs::metadata(there("same")).unwrap().ino());
        assert!(fs::metadata(there("pipe")).unwrap().file_type().is_fifo());
        assert_eq!(fs::read(there("other")).unwrap(), b"name");
        assert_eq!(fs::read(there("fresh")).unwrap(), b"new");
        assert!(!there("renamed").exists() && !there("removed").exists());
    }
}
