//! Files of a workload: packed at the source, put beneath its root at the target; and what is left to remove afterwards.

use super::node::Node;
use crate::shim::{CONTENTS, Client, LOG};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::WorkloadId;
use ferry_model::plan::Plan;
use ferry_process::capsule::contents::{pack_upper, unpack_upper};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a transfer of files holds: nothing; or what changed last, with the memory file systems.
const NOTHING: u8 = 0;
const LAST: u8 = 1;

/// Most bytes of a log that go along.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// Files of one move, at its source.
pub(super) struct Stage {
    directory: PathBuf,
}

impl Stage {
    pub fn new(directory: &Path, _plan: &Plan) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// While the workload runs.
    pub fn send_all(&mut self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&[NOTHING])
    }

    /// When it is frozen and captured.
    pub fn send_changes(&mut self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&[LAST])?;
        pack_upper(&self.directory, to).map_err(io::Error::other)?;
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
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    match kind[0] {
        NOTHING => Ok(()),
        LAST => {
            unpack_upper(directory, from).map_err(io::Error::other)?;
            take_file(&directory.join(CONTENTS), from)?;
            take_file(&directory.join(LOG), from)
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "Files of an unknown kind")),
    }
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
