//! `/proc/PID/mountinfo`: the mount table of a mount namespace, parsed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Most lines accepted: far above the kernel's default limit of mounts in one namespace (100,000).
const LINES_MAX: usize = 200_000;

/// What the type of a file system says of other hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Other hosts that mount the same source see the same files: the source names it everywhere.
    Named,
    /// Other hosts may see the same files, but what the mount table calls its source is this host's matter.
    Unnamed,
    /// It is this host's.
    Local,
}

/// What `kind` says of other hosts.
#[must_use]
pub fn sharing(kind: &str) -> Sharing {
    match kind {
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "lustre" | "afs" | "gpfs" | "orangefs" | "glusterfs"
        | "fuse.glusterfs" | "fuse.sshfs" | "fuse.cephfs" | "fuse.s3fs" => Sharing::Named,
        // A tag, a block device, or whatever the daemon behind it likes.
        "9p" | "virtiofs" | "ocfs2" | "gfs2" | "fuse" | "fuseblk" => Sharing::Unnamed,
        _ if kind.starts_with("fuse.") => Sharing::Unnamed,
        _ => Sharing::Local,
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Id of this mount.
    pub id: u64,
    /// Id of the mount that it stands on.
    pub parent: u64,
    /// Device number of the file system, `(major, minor)`.
    pub device: (u32, u32),
    /// Which directory of the file system is its root.
    pub root: PathBuf,
    /// Where it stands, seen from the reader's root.
    pub point: PathBuf,
    /// Flags of the mount: `rw`, `nosuid`, `relatime` ..
    pub options: String,
    /// `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
    pub propagation: Vec<String>,
    /// Type of file system; `fuse.x` where there is a subtype.
    pub kind: String,
    /// What was mounted, as the file system tells it.
    pub source: OsString,
    /// Options of the file system.
    pub super_options: String,
}

impl Mount {
    /// Whether a flag (`ro`, `nosuid`) is among the mount's options.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|each| each == option)
    }
}

/// The mounts that the process sees whose /proc directory is `proc` (`/proc/self`, `/proc/17`), in the kernel's order.
///
/// # Errors
/// When the file cannot be read, or a line is not as the kernel writes it.
pub fn read(proc: &Path) -> io::Result<Vec<Mount>> {
    parse(&fs::read(proc.join("mountinfo"))?)
}

/// Parses the content of a mountinfo file.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for anything that the kernel would not write.
pub fn parse(bytes: &[u8]) -> io::Result<Vec<Mount>> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mounts: Option<Vec<Mount>> = lines.take(LINES_MAX).map(parse_line).collect();
    mounts.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "Unexpected line in mountinfo"))
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next();
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let id = number(next()?)?;
    let parent = number(next()?)?;
    let device = text(next()?);
    let (major, minor) = device.split_once(':')?;
    let root = PathBuf::from(unescape(next()?));
    let point = PathBuf::from(unescape(next()?));
    let options = text(next()?);
    let mut propagation = Vec::new();
    loop {
        match next()? {
            b"-" => break,
            field => propagation.push(text(field)),
        }
    }
    let kind = text(next()?);
    let source = unescape(next()?);
    let super_options = text(next().unwrap_or_default());
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { id, parent, device, root, point, options, propagation, kind, source, super_options })
}

/// Undoes the kernel's octal escapes (`\040` is a blank).
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let digits = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let octal = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(field[at]));
        at += if octal.is_some() { 4 } else { 1 };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_everything() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n";
        let mounts = parse(line).unwrap();
        assert_eq!(mounts[0].point, Path::new("/mnt 2"));
        assert_eq!(mounts[0].root, Path::new("/mnt1"));
        assert_eq!(mounts[0].propagation, ["master:1", "shared:7"]);
        assert_eq!((mounts[0].device, mounts[0].kind.as_str()), ((98, 0), "ext3"));
        assert!(mounts[0].has("noatime") && !mounts[0].has("ro"));
    }

    #[test]
    fn a_cut_line_is_an_error() {
        assert!(parse(b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1").is_err());
        assert!(parse(b"x 35 98:0 / / rw - a b c").is_err());
    }

    #[test]
    fn the_own_table_has_a_root() {
        assert!(read(Path::new("/proc/self")).unwrap().iter().any(|mount| mount.point == Path::new("/")));
    }
}
