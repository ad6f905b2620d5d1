//! One entry of a tree, and the rules that every name must obey.

use super::Error;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// Longest path in a tree, bytes: as the kernel's PATH_MAX.
pub(super) const PATH_BYTES_MAX: usize = 4096;
/// Longest single name, bytes.
const NAME_BYTES_MAX: usize = 255;
/// Most data segments of one sparse file.
pub(super) const SEGMENTS_MAX: usize = 1 << 20;
/// Largest description of one entry: a million segments of at most 18 bytes, and what else there is.
pub(super) const ENTRY_BYTES_MAX: u32 = 32 << 20;
/// Most extended attributes of one file.
pub(super) const XATTRS_MAX: usize = 256;
/// Largest value of an extended attribute, bytes: the kernel's limit.
pub(super) const XATTR_BYTES_MAX: usize = 64 << 10;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Kind {
    /// A regular file, with content.
    #[n(0)]
    File,
    /// A directory.
    #[n(1)]
    Directory,
    /// A symbolic link to `link`.
    #[n(2)]
    Symlink,
    /// One more name of the file that came before as `link`.
    #[n(3)]
    HardLink,
    /// A named pipe.
    #[n(4)]
    Fifo,
    /// A Unix socket's name. Nobody listens until a task binds it anew.
    #[n(5)]
    Socket,
    /// A character device; 0:0 is an overlay's whiteout.
    #[n(6)]
    CharacterDevice,
    /// A block device.
    #[n(7)]
    BlockDevice,
    /// Nothing: what an earlier stream put here has gone, with everything beneath it.
    #[n(8)]
    Gone,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Path beneath the tree's root; empty for the root itself.
    #[n(0)]
    pub path: ByteVec,
    /// What it is.
    #[n(1)]
    pub kind: Kind,
    /// Permission bits, with set-user-id and its like.
    #[n(2)]
    pub mode: u32,
    /// Owner.
    #[n(3)]
    pub uid: u32,
    /// Group.
    #[n(4)]
    pub gid: u32,
    /// Time of the last change of its content, seconds.
    #[n(5)]
    pub mtime_s: i64,
    /// Its nanoseconds.
    #[n(6)]
    pub mtime_ns: u32,
    /// Device number, major and minor.
    #[n(7)]
    pub device: (u32, u32),
    /// Target of a symbolic link, or path of the first name of a hard link.
    #[n(8)]
    pub link: ByteVec,
    /// Extended attributes.
    #[n(9)]
    pub xattrs: Vec<(ByteVec, ByteVec)>,
    /// Size of a regular file, bytes.
    #[n(10)]
    pub size: u64,
    /// Its data: offset and length of each segment, ascending. The rest are holes.
    #[n(11)]
    pub segments: Vec<(u64, u64)>,
}

impl Entry {
    /// An entry of which nothing is known but where it is.
    pub(super) fn at(path: &[u8]) -> Self {
        Self {
            path: path.to_vec().into(),
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime_s: 0,
            mtime_ns: 0,
            device: (0, 0),
            link: ByteVec::from(Vec::new()),
            xattrs: Vec::new(),
            size: 0,
            segments: Vec::new(),
        }
    }

    /// The name for messages.
    pub(super) fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// Bytes of content that follow.
    pub(super) fn content_bytes(&self) -> u64 {
        self.segments.iter().map(|(_, length)| length).sum()
    }

    /// Refuses what `pack` does not write. Everything is checked before anything of it is used.
    pub(super) fn check(&self, depth_max: usize) -> Result<(), Error> {
        let refuse = |why: &str| Err(Error::Refused(format!("{:?} {why}", self.name())));
        if let Some(why) = bad_path(&self.path, depth_max) {
            return refuse(why);
        }
        if self.path.is_empty() && self.kind != Kind::Directory {
            return refuse("is the root and not a directory");
        }
        if self.mode & !0o7777 != 0 || self.mtime_ns >= 1_000_000_000 {
            return refuse("has an impossible mode or time");
        }
        let linked = matches!(self.kind, Kind::Symlink | Kind::HardLink);
        if linked == self.link.is_empty() || self.link.len() > PATH_BYTES_MAX || self.link.contains(&0) {
            return refuse("has an impossible link");
        }
        if self.kind == Kind::HardLink
            && let Some(why) = bad_path(&self.link, depth_max)
        {
            return refuse(why);
        }
        if self.kind != Kind::File && (self.size != 0 || !self.segments.is_empty()) {
            return refuse("has content and is no file");
        }
        if self.xattrs.len() > XATTRS_MAX || self.segments.len() > SEGMENTS_MAX {
            return refuse("has too many parts");
        }
        let fits = |(name, value): &(ByteVec, ByteVec)| {
            (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(&0) && value.len() <= XATTR_BYTES_MAX
        };
        if !self.xattrs.iter().all(fits) {
            return refuse("has an impossible extended attribute");
        }
        if self.size > i64::MAX as u64 {
            return refuse("has an impossible size");
        }
        let mut end = 0;
        for (offset, length) in &self.segments {
            let next = offset.checked_add(*length);
            match next {
                Some(next) if *offset >= end && *length > 0 && next <= self.size => end = next,
                _ => return refuse("has segments that overlap or lie beyond its end"),
            }
        }
        Ok(())
    }
}

/// Why a path is not one beneath the root, if it is not.
fn bad_path(path: &[u8], depth_max: usize) -> Option<&'static str> {
    if path.is_empty() {
        return None;
    }
    if path.len() > PATH_BYTES_MAX || path.contains(&0) {
        return Some("is no path");
    }
    if path[0] == b'/' {
        return Some("is an absolute path");
    }
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    if parts.len() > depth_max {
        return Some("lies too deep");
    }
    if parts.iter().any(|part| *part == b"..") {
        return Some("climbs out of its directory");
    }
    let odd = |part: &&[u8]| part.is_empty() || *part == b"." || part.len() > NAME_BYTES_MAX;
    if parts.iter().any(odd) { Some("is not a plain path") } else { None }
}
