//! Files of a workload: packed at the source, put beneath its root at the target; and what is left to remove afterwards.

use super::node::Node;
use crate::shim::{CONTENTS, Client, LOG, Spec};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::WorkloadId;
use ferry_model::plan::Plan;
use ferry_model::resource::Action;
use ferry_process::capsule::contents::{pack_upper, unpack_upper};
use ferry_process::capsule::tree::{self, Parts};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a transfer of files holds: nothing; what changed last, with the memory file systems; files from beneath the workload's
/// overlay, which the target lacks or has otherwise.
const NOTHING: u8 = 0;
const LAST: u8 = 1;
const PARTS: u8 = 2;

/// Most bytes of a log that go along.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// Files of one move, at its source.
pub(super) struct Stage {
    directory: PathBuf,
    root: PathBuf,
    /// Executables, libraries and files that the workload only reads: they do not change.
    beneath: Parts,
    /// What `--with` names and this host does not share with the target.
    with: Parts,
}

impl Stage {
    /// By the plan. `root` is the workload's root, as this host reaches it.
    pub fn new(directory: &Path, root: PathBuf, spec: &Spec, plan: &Plan) -> Self {
        let (mut beneath, mut with) = (Parts::new(), Parts::new());
        let upper = directory.join("upper");
        let sorts = ["file", "directory", "library", "executable"];
        for item in &plan.items {
            let name = item.resource.name.trim_start_matches('/');
            let travels = matches!(item.action, Action::Move | Action::Copy)
                && sorts.contains(&item.resource.sort.as_str())
                && item.resource.name.starts_with('/');
            if !travels || name.is_empty() {
                continue;
            }
            if spec.with.iter().any(|with| with.path == item.resource.name) {
                with.insert(name.as_bytes().to_vec(), true);
            } else if fs::symlink_metadata(upper.join(name)).is_err() {
                beneath.insert(name.as_bytes().to_vec(), false);
            }
        }
        Self { directory: directory.to_owned(), root, beneath, with }
    }

    /// While the workload runs.
    pub fn send_all(&mut self, to: &mut dyn Write) -> io::Result<()> {
        if self.beneath.is_empty() {
            return to.write_all(&[NOTHING]);
        }
        to.write_all(&[PARTS])?;
        pack_beneath(&self.root, &self.beneath, to)
    }

    /// When it is frozen and captured.
    pub fn send_changes(&mut self, to: &mut dyn Write) -> io::Result<()> {
        if !self.with.is_empty() {
            to.write_all(&[PARTS])?;
            pack_beneath(&self.root, &self.with, to)?;
        }
        to.write_all(&[LAST])?;
        pack_upper(&self.directory, to).map_err(io::Error::other)?;
        send_file(&self.directory.join(CONTENTS), u64::MAX, to)?;
        send_file(&self.directory.join(LOG), LOG_BYTES_MAX, to)?;
        // Sent: it would only take room while both sides wait for the decision.
        let _ = fs::remove_file(self.directory.join(CONTENTS));
        Ok(())
    }
}

fn pack_beneath(root: &Path, parts: &Parts, to: &mut dyn Write) -> io::Result<()> {
    let root = File::open(root)?;
    tree::pack_parts(&root, parts, to, &tree::Limits::default()).map(drop).map_err(io::Error::other)
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
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    match kind[0] {
        NOTHING => Ok(()),
        PARTS => {
            unpack_upper(directory, from).map_err(io::Error::other)?;
            // What changed last may follow in the same transfer.
            match from.read(&mut kind)? {
                0 => Ok(()),
                _ if kind[0] == LAST => take_last(directory, from),
                _ => Err(unknown()),
            }
        }
        LAST => take_last(directory, from),
        _ => Err(unknown()),
    }
}

fn take_last(directory: &Path, from: &mut dyn Read) -> io::Result<()> {
    unpack_upper(directory, from).map_err(io::Error::other)?;
    take_file(&directory.join(CONTENTS), from)?;
    take_file(&directory.join(LOG), from)
}

fn unknown() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "Files of an unknown kind")
}

/// Names in a workload's directory that outlive its copy: what happened to it.
fn stays(name: &str) -> bool {
    name.starts_with("journal")
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
