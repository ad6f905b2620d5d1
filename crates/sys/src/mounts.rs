//! The mount API of Linux 5.2 and later: a file system is configured, becomes a detached mount, and is put in place by
//! descriptor, so that no half-made mount is ever visible and no path is looked up twice.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
pub use rustix::mount::MountAttrFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount,
    open_tree,
};
use std::io;
use std::path::Path;

/// Makes a file system of type `kind` with `options` (an empty value is a flag) and a detached mount of it.
///
/// # Errors
/// As the file system says; the kernel's own words, where it gives them, are in the text.
pub fn new_mount(
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configured = (|| {
        fsconfig_set_string(context.as_fd(), "source", source)?;
        for (key, value) in options {
            match value {
                &"" => fsconfig_set_flag(context.as_fd(), *key)?,
                value => fsconfig_set_string(context.as_fd(), *key, *value)?,
            }
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    })();
    configured.map_err(|error: rustix::io::Errno| explain(error.into(), &context))
}

/// Adds what the kernel wrote into the context's message log.
fn explain(error: io::Error, context: &OwnedFd) -> io::Error {
    let mut words = String::new();
    let mut buffer = [0u8; 1024];
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        if length == 0 || words.len() > 4096 {
            break;
        }
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        words.push_str(if words.is_empty() { "" } else { "; " });
        words.push_str(line.trim_end().trim_start_matches(['e', 'w', 'i']).trim_start());
    }
    if words.is_empty() { error } else { io::Error::new(error.kind(), format!("{error}: {words}")) }
}

/// Lets the file system that is mounted at `root` forget the names that nobody uses: it is reconfigured, with nothing changed. An
/// overlay then sees what was put beneath it.
///
/// # Errors
/// As the file system says; ENOSYS before 5.2.
pub fn forget_names(root: BorrowedFd<'_>) -> io::Result<()> {
    let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
    let context = fspick(root, "", flags)?;
    fsconfig_reconfigure(context.as_fd()).map_err(|error| explain(error.into(), &context))
}

/// A detached copy of the mount at `path` beneath `directory`; with all mounts beneath it when `recursive`.
///
/// # Errors
/// ENOENT, ENOSYS before 5.2, EINVAL where the mount is unbindable.
pub fn clone_mount(directory: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    Ok(open_tree(directory, path, flags)?)
}

/// Puts a detached mount onto the file or directory `onto`.
///
/// # Errors
/// ENOTDIR when one is a file and the other a directory, EINVAL when it is not detached.
pub fn attach(mount: BorrowedFd<'_>, onto: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", onto, "", flags)?)
}

/// Sets and clears attributes of a mount, and of all beneath it when `recursive`.
///
/// # Errors
/// ENOSYS before 5.12, EPERM for a flag that is locked.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    set: MountAttrFlags,
    clear: MountAttrFlags,
    recursive: bool,
) -> io::Result<()> {
    change(mount, u64::from(set.bits()), u64::from(clear.bits()), 0, recursive)
}

/// Makes the mount at `path` and all beneath it private: nothing propagates in or out.
///
/// # Errors
/// ENOENT, or ENOSYS before 5.12.
pub fn make_private(mount: BorrowedFd<'_>) -> io::Result<()> {
    change(mount, 0, 0, libc::MS_PRIVATE, true)
}

fn change(mount: BorrowedFd<'_>, set: u64, clear: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    let attr =
        linux_raw_sys::general::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the empty path and `attr` outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `root` (a directory that is a mount) the root of this mount namespace and drops the old one with all its mounts.
///
/// # Errors
/// EINVAL when it is not a mount or the namespace's mounts are shared.
pub fn pivot_into(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // The old root ends up on top of the new one, at the same place: no directory for it is needed.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}
