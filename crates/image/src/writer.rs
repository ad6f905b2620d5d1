//! Writing an image: into a directory beside the one that was asked for, which takes its name only when all is there.
//!
//! Whatever happens before [`Writer::finish`] returns, there is either no image or a whole one. A writer that is killed
//! leaves `NAME.tmp`; the lock on it dies with the writer, so the next one can tell that it is abandoned and removes it.

mod memory;

pub use memory::{MemoryReport, ReadMemory};

use crate::error::{Error, Result};
use crate::key::HostKey;
use crate::limits;
use crate::manifest::{HostFacts, Manifest, Record, Stream, Workload};
use crate::name;
use crate::place::Place;
use crate::signature;
use crate::space::Space;
use crate::stream::StreamWriter;
use ferry_model::ids::Hash;
use rustix::fs::{FlockOperation, Mode};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the manifest says besides content.
#[derive(Clone, Debug)]
pub struct Header {
    /// Whose state it is.
    pub workload: Workload,
    /// What it needs.
    pub host: HostFacts,
    /// The checkpoint ends the workload: the image may be restored once.
    pub ends: bool,
}

/// An image that is being written.
#[derive(Debug)]
pub struct Writer {
    /// Where it will be.
    target: PathBuf,
    /// Where it is meanwhile.
    temporary: PathBuf,
    place: Place,
    records: Vec<Record>,
    streams: Vec<Stream>,
    spaces: Vec<Space>,
    pages: Vec<u64>,
    buffers: Vec<Vec<u8>>,
    finished: bool,
}

impl Writer {
    /// Begins an image that will be at `target`, which must not exist. Its parent must.
    pub fn create(target: &Path) -> Result<Self> {
        if target.symlink_metadata().is_ok() {
            return Err(Error::Exists(target.to_owned()));
        }
        let mut name = target.file_name().ok_or_else(|| Error::Exists(target.to_owned()))?.to_owned();
        name.push(".tmp");
        let temporary = target.with_file_name(name);
        let place = claim(target, &temporary)?;
        Ok(Self {
            target: target.to_owned(),
            temporary,
            place,
            records: Vec::new(),
            streams: Vec::new(),
            spaces: Vec::new(),
            pages: Vec::new(),
            buffers: Vec::new(),
            finished: false,
        })
    }

    /// Adds the record file `records/NAME`.
    pub fn record(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        name::check(name)?;
        crate::manifest::at_most(name, bytes.len() as u64, limits::RECORD_BYTES_MAX)?;
        self.place.write(&format!("{}/{name}", name::RECORDS), bytes)?;
        self.records.push(Record { name: name.to_owned(), bytes: bytes.len() as u64, hash: Hash::of(bytes) });
        Ok(())
    }

    /// Begins the stream `streams/NAME`, to be ended by [`Writer::end_stream`].
    pub fn stream(&mut self, name: &str) -> Result<StreamWriter> {
        name::check(name)?;
        let file = self.place.create(&format!("{}/{name}", name::STREAMS))?;
        Ok(StreamWriter::new(name, file))
    }

    /// Ends a stream: only now it is part of the image.
    pub fn end_stream(&mut self, stream: StreamWriter) -> Result<()> {
        let stream = stream.finish().map_err(|e| Error::io("write a stream", e))?;
        self.streams.push(stream);
        Ok(())
    }

    /// Writes manifest and signature, makes everything durable and gives the image its name. Returns the manifest, whose
    /// hash is the image's.
    pub fn finish(mut self, header: Header, key: &HostKey) -> Result<Manifest> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let manifest = Manifest {
            format: limits::FORMAT_VERSION,
            workload: header.workload,
            created_unix_ms: since_1970.as_millis() as u64,
            host: header.host,
            ends: header.ends,
            records: std::mem::take(&mut self.records),
            streams: std::mem::take(&mut self.streams),
            spaces: std::mem::take(&mut self.spaces),
            pages: std::mem::take(&mut self.pages),
        };
        let bytes = manifest.encode();
        // What this code would refuse to read, it must not write.
        crate::manifest::at_most(name::MANIFEST, bytes.len() as u64, limits::MANIFEST_BYTES_MAX)?;
        Manifest::decode(&bytes)?;
        self.place.write(name::MANIFEST, &bytes)?;
        self.place.write(name::SIGNATURE, &signature::sign(&bytes, key))?;
        self.sync()?;
        self.publish()?;
        Ok(manifest)
    }

    /// Syncs every file and folder. Not `syncfs`: that would also wait for everything that others have written.
    fn sync(&self) -> Result<()> {
        sync_tree(&self.temporary).map_err(|e| Error::io("make the image durable", e))
    }

    fn publish(&mut self) -> Result<()> {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let cwd = rustix::fs::CWD;
        match rustix::fs::renameat_with(cwd, &self.temporary, cwd, &self.target, flags) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(Error::Exists(self.target.clone())),
            Err(e) => return Err(Error::io(format!("rename the image to {}", self.target.display()), e)),
        }
        self.finished = true;
        let parent = match self.target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        Place::open(parent)?.sync()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing can be done about a failure here; the next writer of this name tries again.
            let _ = std::fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Makes and locks the temporary directory; one that a killed writer left is removed first.
fn claim(target: &Path, temporary: &Path) -> Result<Place> {
    for _ in 0..8 {
        match rustix::fs::mkdir(temporary, Mode::RWXU) {
            Ok(()) => {
                let place = Place::open(temporary)?;
                rustix::fs::flock(place.dir(), FlockOperation::NonBlockingLockExclusive)
                    .map_err(|_| Error::Busy(target.to_owned()))?;
                // Another writer may have taken it for abandoned before it was locked.
                let stat =
                    rustix::fs::fstat(place.dir()).map_err(|e| Error::io("inspect the new image", e))?;
                if stat.st_nlink == 0 {
                    continue;
                }
                return Ok(place);
            }
            Err(rustix::io::Errno::EXIST) => {
                let Ok(abandoned) = Place::open(temporary) else { continue };
                rustix::fs::flock(abandoned.dir(), FlockOperation::NonBlockingLockExclusive)
                    .map_err(|_| Error::Busy(target.to_owned()))?;
                std::fs::remove_dir_all(temporary)
                    .map_err(|e| Error::io(format!("remove the abandoned {}", temporary.display()), e))?;
            }
            Err(e) => return Err(Error::io(format!("make the directory {}", temporary.display()), e)),
        }
    }
    Err(Error::Busy(target.to_owned()))
}

fn sync_tree(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            std::fs::File::open(entry.path())?.sync_all()?;
        }
    }
    std::fs::File::open(folder)?.sync_all()
}
