//! The journal of one workload on one host: what is in it has happened, whatever crashes next.
//!
//! A file of frames: length (u32, little-endian), its complement, checksum (16 bytes), CBOR, zeros up to a multiple of 8. Each
//! checksum covers the one before it, so a frame cannot be lost, moved or repeated without being noticed. Aligned frames keep
//! a length and its complement in one sector: both are there or neither. Each append is synced before it returns. A frame that a crash cut
//! short is the last one; it is dropped on opening: what it said had not happened yet. Anything else that does not check is
//! reported and never guessed at. Space is reserved ahead, so a full disk does not stop a handover half way.

use ferry_model::handover::Entry;
use ferry_model::handover::entry::{last_key, last_record};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// First bytes of the file: name and version of the format.
const MAGIC: &[u8; 8] = b"FERRYJ\x00\x01";
/// Length, its complement and checksum before each entry, bytes.
const HEADER: usize = 8 + CHECKSUM;
const CHECKSUM: usize = 16;
/// Longest entry, bytes. The longest there is holds a reason of 1 KiB and two host names.
pub const ENTRY_BYTES_MAX: usize = 4 << 10;
const FRAME_BYTES_MAX: usize = frame_bytes(ENTRY_BYTES_MAX);
/// Longest file, bytes: reading it must never be a burden.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Past this it is rewritten at the next reservation, bytes: some hundreds of moves.
const COMPACT_BYTES: u64 = 256 << 10;
/// Space held free for one move, bytes: its longest course is some twenty entries.
const RESERVE_BYTES: u64 = 96 << 10;

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file could not be opened, read or written.
    #[error("The journal {} cannot be {doing}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It is open elsewhere.
    #[error("The journal {} is in use by another process", path.display())]
    Busy {
        /// Which.
        path: PathBuf,
    },
    /// Something other than its last frame is damaged.
    #[error("The journal {} is damaged at byte {at}: keep the file and run `ferry doctor`", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where the first frame that does not check begins.
        at: u64,
    },
    /// An entry that no reader would accept.
    #[error("A journal entry of {bytes} bytes is over the limit of {ENTRY_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A write failed earlier: what is on disk is unknown until it is opened again.
    #[error("The journal {} failed before and has to be opened again", path.display())]
    Failed {
        /// Which.
        path: PathBuf,
    },
}

/// Shorthand for results of this module.
pub type Result<T, E = JournalError> = std::result::Result<T, E>;

/// A journal that a session and the registry on the same host write to.
pub type Shared = Arc<Mutex<Journal>>;

/// Told of each entry once it is on disk.
pub type Watch = Box<dyn FnMut(&Entry) + Send>;

/// An open journal. Only one per file at a time, across processes.
pub struct Journal {
    file: File,
    path: PathBuf,
    entries: Vec<Entry>,
    /// Checksum of the last frame.
    chain: [u8; CHECKSUM],
    /// Where the next frame goes.
    end: u64,
    failed: bool,
    watch: Option<Watch>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("path", &self.path)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal at `path`, making it (0600, synced with its directory) if it is not there.
    ///
    /// # Errors
    /// When it is open elsewhere, damaged before its last frame, or the file system fails.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |doing| move |source| JournalError::Io { path: path.to_owned(), doing, source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .map_err(io("opened"))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(JournalError::Busy { path: path.to_owned() }),
            Err(e) => return Err(io("locked")(e.into())),
        }
        let size = file.metadata().map_err(io("read"))?.len();
        if size > FILE_BYTES_MAX {
            return Err(JournalError::Damaged { path: path.to_owned(), at: FILE_BYTES_MAX });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("read"))?;
        let mut journal = Self {
            file,
            path: path.to_owned(),
            entries: Vec::new(),
            chain: [0; CHECKSUM],
            end: MAGIC.len() as u64,
            failed: false,
            watch: None,
        };
        if bytes.len() < MAGIC.len() && MAGIC.starts_with(&bytes) {
            journal.begin().map_err(io("made"))?;
            return Ok(journal);
        }
        journal.read(&bytes)?;
        // What a cut frame left must not lie behind a shorter one written next.
        journal.file.set_len(journal.end).map_err(io("repaired"))?;
        Ok(journal)
    }

    /// Opens it for sharing between a session and the registry.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_shared(path: &Path) -> Result<Shared> {
        Ok(Arc::new(Mutex::new(Self::open(path)?)))
    }

    fn begin(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(MAGIC)?;
        self.file.sync_all()?;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    }

    fn read(&mut self, bytes: &[u8]) -> Result<()> {
        let damaged = |at: usize| JournalError::Damaged { path: self.path.clone(), at: at as u64 };
        if !bytes.starts_with(MAGIC) {
            return Err(damaged(0));
        }
        let mut at = MAGIC.len();
        while at < bytes.len() {
            let rest = &bytes[at..];
            let Some((length, complement, checksum)) = header(rest) else { break };
            if length != !complement {
                // Never written, though the file had grown already; or damaged.
                let unwritten = length == 0 && complement == 0 && rest.len() <= FRAME_BYTES_MAX;
                if unwritten {
                    break;
                }
                return Err(damaged(at));
            }
            let length = length as usize;
            let payload = rest.get(HEADER..HEADER + length);
            let sound = payload.is_some_and(|payload| link(&self.chain, payload) == checksum);
            if !sound {
                // A frame that a crash cut is the last: nothing but zeros can follow.
                let after = rest.get(frame_bytes(length)..).unwrap_or_default();
                if length > ENTRY_BYTES_MAX || after.iter().any(|byte| *byte != 0) {
                    return Err(damaged(at));
                }
                break;
            }
            let entry =
                payload.and_then(|payload| minicbor::decode(payload).ok()).ok_or_else(|| damaged(at))?;
            self.entries.push(entry);
            self.chain = checksum;
            at += frame_bytes(length);
        }
        self.end = at as u64;
        Ok(())
    }

    /// What has happened, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends `entry`; it is on disk when this returns.
    ///
    /// # Errors
    /// After one the entry may or may not be on disk: the journal refuses everything until it is opened again.
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        if self.failed {
            return Err(JournalError::Failed { path: self.path.clone() });
        }
        let (frame, chain) = frame(&self.chain, entry)?;
        let written = self.file.write_all_at(&frame, self.end).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            self.failed = true;
            return Err(JournalError::Io { path: self.path.clone(), doing: "written", source });
        }
        self.chain = chain;
        self.end += frame.len() as u64;
        self.entries.push(entry.clone());
        if let Some(watch) = &mut self.watch {
            watch(entry);
        }
        Ok(())
    }

    /// Has `watch` told of each entry from now on, before [`Self::append`] returns. The fault tests stop a node there.
    pub fn set_watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Called before a move begins, while failing is still harmless: shortens a long journal and holds space for the whole move.
    ///
    /// # Errors
    /// When the disk is full: then nothing should begin.
    pub fn reserve(&mut self) -> Result<()> {
        if self.failed {
            return Err(JournalError::Failed { path: self.path.clone() });
        }
        if self.end > COMPACT_BYTES {
            self.compact()?;
        }
        let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, self.end, RESERVE_BYTES) {
            // A file system that cannot reserve: then a full disk is found by the append, which is safe, only later.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(e) => {
                Err(JournalError::Io { path: self.path.clone(), doing: "given space", source: e.into() })
            }
        }
    }

    /// Keeps the record and the last move, whatever its state: what came before is over.
    fn compact(&mut self) -> Result<()> {
        let last = last_key(&self.entries);
        let record = last_record(&self.entries);
        let keep: Vec<Entry> = self
            .entries
            .iter()
            .filter(|entry| match entry {
                Entry::Record(one) => Some(one) == record,
                Entry::Step { key, .. } => Some(*key) == last,
            })
            .cloned()
            .collect();
        let mut path = self.path.clone().into_os_string();
        path.push(".new");
        let path = PathBuf::from(path);
        let io = |doing| {
            let path = path.clone();
            move |source| JournalError::Io { path, doing, source }
        };
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("replaced")(e)),
            _ => {}
        }
        let mut new = Self::open(&path)?;
        for entry in &keep {
            new.append(entry)?;
        }
        std::fs::rename(&path, &self.path).map_err(io("renamed"))?;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("synced"))?;
        new.path = std::mem::take(&mut self.path);
        new.watch = self.watch.take();
        *self = new;
        Ok(())
    }
}

/// Length, complement and checksum, if a whole header is there.
fn header(bytes: &[u8]) -> Option<(u32, u32, [u8; CHECKSUM])> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some((number(0)?, number(4)?, bytes.get(8..HEADER)?.try_into().ok()?))
}

/// Length of the frame of an entry of `length` bytes.
const fn frame_bytes(length: usize) -> usize {
    (HEADER + length).next_multiple_of(8)
}

fn link(previous: &[u8; CHECKSUM], payload: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous).update(&(payload.len() as u64).to_le_bytes()).update(payload);
    let mut checksum = [0; CHECKSUM];
    hasher.finalize_xof().fill(&mut checksum);
    checksum
}

fn frame(previous: &[u8; CHECKSUM], entry: &Entry) -> Result<(Vec<u8>, [u8; CHECKSUM])> {
    let mut payload = Vec::new();
    // Writing to a vector cannot fail.
    let Ok(()) = minicbor::encode(entry, &mut payload) else {
        unreachable!("an entry can always be encoded")
    };
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if payload.len() > ENTRY_BYTES_MAX {
        return Err(JournalError::TooLong { bytes: payload.len() });
    }
    let chain = link(previous, &payload);
    let mut frame = Vec::with_capacity(frame_bytes(payload.len()));
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&(!length).to_le_bytes());
    frame.extend_from_slice(&chain);
    frame.extend_from_slice(&payload);
    frame.resize(frame_bytes(payload.len()), 0);
    Ok((frame, chain))
}

#[cfg(test)]
mod tests;
