//! Content hashes of files, remembered as long as the file is visibly the same.
//!
//! A workload's libraries are hashed at the source and at the target for every plan; libc alone is two megabytes. What
//! identifies a state of a file is its device, inode, size, and both of its times to the nanosecond: a file that was changed
//! within the same tick of the clock as it was hashed is not remembered.

use ferry_model::ids::Hash;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// Hashes kept; the oldest half is forgotten when they are more.
const ENTRIES_MAX: usize = 8192;

/// How long a file must have been left alone for its hash to be remembered, seconds. File systems count time in ticks
/// of up to 10 ms; two seconds cover those that count in seconds (ext3, FAT).
const SETTLED_SECONDS: i64 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Key {
    fn of(meta: &Metadata) -> Self {
        let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Remembered hashes. Shared by all plans of a node.
#[derive(Default)]
pub struct FileHashes {
    known: Mutex<HashMap<Key, (u64, Hash)>>,
}

impl FileHashes {
    /// Hash of the whole content of an open regular file. Its position is not used or changed.
    pub fn of(&self, file: &File) -> io::Result<Hash> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "Only regular files have a content hash",
            ));
        }
        let key = Key::of(&meta);
        if let Some((_, hash)) = self.lock().get(&key) {
            return Ok(*hash);
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        let mut at = 0;
        loop {
            let read = std::os::unix::fs::FileExt::read_at(file, &mut buffer, at)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            at += read as u64;
        }
        let hash = Hash(*hasher.finalize().as_bytes());
        if Key::of(&file.metadata()?) == key && settled(&meta) {
            self.remember(key, hash);
        }
        Ok(hash)
    }

    fn remember(&self, key: Key, hash: Hash) {
        let mut known = self.lock();
        let next = known.values().map(|(age, _)| *age).max().map_or(0, |age| age + 1);
        if known.len() >= ENTRIES_MAX {
            let limit = next.saturating_sub(ENTRIES_MAX as u64 / 2);
            known.retain(|_, (age, _)| *age >= limit);
        }
        known.insert(key, (next, hash));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, (u64, Hash)>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn settled(meta: &Metadata) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed());
    now.saturating_sub(meta.ctime().max(meta.mtime())) > SETTLED_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_change_of_content_is_seen_even_within_the_same_second() {
        let mut file = tempfile::tempfile().unwrap();
        let hashes = FileHashes::default();
        file.write_all(b"one").unwrap();
        assert_eq!(hashes.of(&file).unwrap(), Hash::of(b"one"));
        file.write_all(b"two").unwrap();
        assert_eq!(hashes.of(&file).unwrap(), Hash::of(b"onetwo"));
        std::os::unix::fs::FileExt::write_at(&file, b"x", 0).unwrap();
        assert_eq!(hashes.of(&file).unwrap(), Hash::of(b"xnetwo"));
    }

    #[test]
    fn what_is_settled_is_remembered() {
        let hashes = FileHashes::default();
        let file = File::open("/proc/self/exe").unwrap();
        let first = hashes.of(&file).unwrap();
        assert_eq!(hashes.of(&file).unwrap(), first);
        assert!(hashes.of(&File::open("/").unwrap()).is_err(), "a directory has none");
    }
}
