//! Extended attributes of files, by descriptor and name, never through a symbolic link.
//!
//! Some belong to the host, not to the workload, and do not travel: references of an overlay into its lower layer, and
//! labels of the host's security modules.

use super::entry::{XATTR_BYTES_MAX, XATTRS_MAX};
use minicbor::bytes::ByteVec;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};
use rustix::io::Errno;
use std::io;

/// Whether an attribute travels, and may be set on what arrived.
pub(super) fn travels(name: &[u8]) -> bool {
    const OVERLAY: &[u8] = b"trusted.overlay.";
    if let Some(overlay) = name.strip_prefix(OVERLAY) {
        // A redirect or a reference to metadata could make a lower file of the target's appear as the workload's.
        return matches!(overlay, b"opaque" | b"whiteout" | b"whiteouts");
    }
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// The path by which a file is named for calls that take no descriptor of its directory.
pub(super) fn path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(if name.is_empty() { b"." } else { name });
    path
}

/// Attributes of `name` in `directory` that travel.
pub(super) fn read(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<(ByteVec, ByteVec)>> {
    let path = path(directory, name);
    let mut list = vec![0u8; XATTR_BYTES_MAX];
    let length = match llistxattr(&path[..], &mut list[..]) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        result => result?,
    };
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty() && travels(name)) {
        let mut value = vec![0u8; XATTR_BYTES_MAX];
        match lgetxattr(&path[..], name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                found.push((ByteVec::from(name.to_vec()), ByteVec::from(value)));
            }
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.truncate(XATTRS_MAX);
    Ok(found)
}

/// Removes those attributes that travel and are not among `kept`.
pub(super) fn remove_others(
    directory: BorrowedFd<'_>,
    name: &[u8],
    kept: &[(ByteVec, ByteVec)],
) -> io::Result<()> {
    let path = path(directory, name);
    for (present, _) in read(directory, name)? {
        if !kept.iter().any(|(key, _)| *key == present) {
            match rustix::fs::lremovexattr(&path[..], &present[..]) {
                Err(Errno::NODATA | Errno::NOTSUP) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

/// Sets those attributes that travel.
pub(super) fn write(directory: BorrowedFd<'_>, name: &[u8], xattrs: &[(ByteVec, ByteVec)]) -> io::Result<()> {
    let path = path(directory, name);
    for (key, value) in xattrs.iter().filter(|(key, _)| travels(key)) {
        match lsetxattr(&path[..], &key[..], &value[..], XattrFlags::empty()) {
            // A file system that cannot hold user attributes on this kind of file does not make it another file.
            Err(Errno::NOTSUP | Errno::PERM) if key.starts_with(b"user.") => {}
            result => result?,
        }
    }
    Ok(())
}
