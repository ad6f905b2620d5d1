//! `unshare(2)`: the calling thread leaves namespaces of its own accord.
#![allow(unsafe_code)]

use rustix::io;
pub use rustix::thread::UnshareFlags;

/// Moves the calling thread into new namespaces of the kinds in `flags`. A new pid or time namespace takes effect for
/// children only.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, EINVAL for kinds that this kernel lacks or when called with threads where the kernel
/// forbids it.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    let flags = flags.difference(UnshareFlags::FILES);
    // SAFETY: the one hazard is CLONE_FILES, which would hide descriptors from other threads; it was masked out.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
