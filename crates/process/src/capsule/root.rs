//! The root of a capsule: an overlay over the host's file systems, and own /proc, /dev, /sys, /run and /tmp.
//!
//! What the workload writes is in the overlay's upper directory and in the tmpfs: that is what moves. Disks that the
//! host has mounted beneath `/` get overlays of their own, whose upper directories lie inside of the first one at the
//! same path: what the workload wrote is one tree, whichever way source and target have cut their disks. Shared file
//! systems (NFS, FUSE ..) are seen as they are.

use super::error::{Doing, Error, Result};
use super::spec::Spec;
use super::within::{self, Want};
use ferry_sys::mountinfo::{self, Mount, Sharing};
use ferry_sys::mounts::{
    MountAttrFlags as Attr, attach, clone_mount, make_private, new_mount, set_attributes,
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What is mounted new in every capsule: the host's mounts beneath these are not carried in.
const OWN: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];
/// Largest single file mounted by the host (a container's /etc/hosts) that is copied in.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Source that the mount table shows for what Ferry has mounted.
pub(super) const SOURCE: &str = "ferry";

/// How a mount of the host's is carried into a capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// A disk: an overlay over it.
    Disk,
    /// Shared between hosts: seen as it is.
    Shared,
    /// The kernel's, or memory: left out.
    Other,
}

/// What `kind` of file system is, given the text of /proc/filesystems.
pub(super) fn nature(kind: &str, filesystems: &str) -> Nature {
    let needs_no_disk = filesystems.lines().any(|line| line.strip_prefix("nodev\t") == Some(kind));
    match kind {
        _ if mountinfo::sharing(kind) != Sharing::Local => Nature::Shared,
        "zfs" => Nature::Disk,
        _ if needs_no_disk => Nature::Other,
        _ => Nature::Disk,
    }
}

/// Builds the root in this process' mount namespace, at `root` beneath the workload's directory. Not yet entered.
pub(super) fn build(spec: &Spec) -> Result<OwnedFd> {
    let host = open_path(Path::new("/")).doing(|| "open the root directory".into())?;
    make_private(host.as_fd()).doing(|| "make the mount namespace private".into())?;
    let mounts = mountinfo::read(Path::new("/proc/self")).doing(|| "read the mount table".into())?;

    let root = overlay(spec, Path::new("/"), 0)?;
    let place = spec.directory.join("root");
    let place = open_path(&place).doing(|| format!("open {}", place.display()))?;
    attach(root.as_fd(), place.as_fd()).doing(|| "mount the capsule's root".into())?;

    carry_in(spec, &mounts, root.as_fd())?;
    kernel_file_systems(spec, root.as_fd())?;
    for hidden in &spec.hidden {
        hide(root.as_fd(), hidden)?;
    }
    for with in &spec.with {
        let host = Path::new(&with.host);
        let mount = clone_mount(CWD, host, true).doing(|| format!("open {} for --with", host.display()))?;
        if with.read_only {
            set_attributes(mount.as_fd(), Attr::MOUNT_ATTR_RDONLY, Attr::empty(), true)
                .doing(|| format!("make {} read-only", host.display()))?;
        }
        let want = if host.is_dir() { Want::Directory } else { Want::File };
        put(root.as_fd(), &mount, Path::new(&with.path), want)?;
    }
    Ok(root)
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Mounts `mount` at `path` inside, which is made if need be.
fn put(root: BorrowedFd<'_>, mount: &OwnedFd, path: &Path, want: Want) -> Result<()> {
    let place = within::place(root, path, want)?;
    attach(mount.as_fd(), place.as_fd()).doing(|| format!("mount {} in the capsule", path.display()))
}

/// A detached overlay over the host's file system at `point`.
fn overlay(spec: &Spec, point: &Path, number: usize) -> Result<OwnedFd> {
    let upper = spec.directory.join("upper").join(point.strip_prefix("/").unwrap_or(point));
    let work = spec.directory.join("work").join(number.to_string());
    if number > 0 {
        like_the_host(&spec.directory.join("upper"), point).doing(|| format!("make {}", upper.display()))?;
    }
    fs::create_dir_all(&work).doing(|| format!("make {}", work.display()))?;
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| not_text(path));
    let lower = text(point)?.replace('\\', "\\\\").replace(':', "\\:");
    // What the upper directory holds must mean the same above another host's files: no references into the lower one.
    let (upper, work) = (text(&upper)?, text(&work)?);
    let mut options: Vec<(&str, &str)> = vec![("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)];
    options.extend([("redirect_dir", "nofollow"), ("index", "off"), ("metacopy", "off")]);
    new_mount("overlay", SOURCE, &options, Attr::empty())
        .or_else(|_| new_mount("overlay", SOURCE, &options[..3], Attr::empty()))
        .doing(|| format!("make an overlay over {} with its upper layer in {upper}", point.display()))
}

fn not_text(path: &Path) -> Error {
    Error::Invalid(format!("The path {} is not UTF-8", path.display()))
}

/// Makes the directories of `point` beneath `upper` with the owners and modes that the host's have.
fn like_the_host(upper: &Path, point: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let mut host = PathBuf::from("/");
    let mut copy = upper.to_owned();
    for part in point.strip_prefix("/").unwrap_or(point) {
        host.push(part);
        copy.push(part);
        if !copy.exists() {
            let metadata = fs::symlink_metadata(&host)?;
            fs::create_dir(&copy)?;
            chown(&copy, Some(metadata.uid()), Some(metadata.gid()))?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        }
    }
    Ok(())
}

/// The mounts of the host that a capsule sees: the topmost one of each place.
pub(super) fn carried<'a>(spec: &Spec, mounts: &'a [Mount], filesystems: &str) -> Vec<(&'a Mount, Nature)> {
    let left_out = |mount: &Mount| {
        let beneath = |path: &Path| mount.point.starts_with(path);
        OWN.iter().any(|own| beneath(Path::new(own)))
            || beneath(&spec.directory)
            || spec.hidden.iter().any(|hidden| beneath(hidden))
            // Seen as it is, with all that is mounted beneath.
            || spec.with.iter().any(|with| beneath(Path::new(&with.path)))
    };
    let topmost = |at: usize| !mounts[at + 1..].iter().any(|later| later.point == mounts[at].point);
    mounts
        .iter()
        .enumerate()
        .filter(|(at, mount)| mount.point != Path::new("/") && !left_out(mount) && topmost(*at))
        .map(|(_, mount)| (mount, nature(&mount.kind, filesystems)))
        .filter(|(_, nature)| *nature != Nature::Other)
        .collect()
}

fn carry_in(spec: &Spec, mounts: &[Mount], root: BorrowedFd<'_>) -> Result<()> {
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for (number, (mount, nature)) in carried(spec, mounts, &filesystems).into_iter().enumerate() {
        let point = &mount.point;
        // A mount that is hidden by a later one above it, or beyond our reach, is not part of what the host shows.
        let Ok(metadata) = fs::symlink_metadata(point) else { continue };
        match nature {
            Nature::Disk if metadata.is_dir() => {
                let layer = overlay(spec, point, number + 1)?;
                if mount.has("ro") {
                    set_attributes(layer.as_fd(), Attr::MOUNT_ATTR_RDONLY, Attr::empty(), false)
                        .doing(|| format!("make {} read-only", point.display()))?;
                }
                put(root, &layer, point, Want::Directory)?;
            }
            Nature::Disk => copy_file(root, point)?,
            Nature::Shared | Nature::Other => {
                let copy = clone_mount(CWD, point, false).doing(|| format!("open {}", point.display()))?;
                let want = if metadata.is_dir() { Want::Directory } else { Want::File };
                put(root, &copy, point, want)?;
            }
        }
    }
    Ok(())
}

/// A single file that the host has mounted (as containers do with /etc/hosts): its content is copied in.
fn copy_file(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let copy = || -> Result<()> {
        let file = fs::File::open(path).doing(|| format!("open {}", path.display()))?;
        let mut content = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut content).doing(|| format!("read {}", path.display()))?;
        within::place(root, path, Want::File)?;
        let place = within::open(root, path, OFlags::WRONLY | OFlags::TRUNC)
            .doing(|| format!("open {}", path.display()))?;
        fs::File::from(place).write_all(&content).doing(|| format!("write {}", path.display()))
    };
    // Sockets and devices that were mounted one by one are the host's alone.
    if path.is_file() { copy() } else { Ok(()) }
}

/// An empty, read-only place instead of a directory of the host's.
fn hide(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    match within::open(root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(_) => Ok(()),
        Ok(place) => {
            let empty =
                new_mount("tmpfs", SOURCE, &[("size", "4k"), ("mode", "0755")], Attr::MOUNT_ATTR_RDONLY)
                    .doing(|| "make an empty file system".into())?;
            attach(empty.as_fd(), place.as_fd()).doing(|| format!("hide {}", path.display()))
        }
    }
}

/// Type, place, options, attributes.
type KernelFileSystem<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Attr);

fn kernel_file_systems(spec: &Spec, root: BorrowedFd<'_>) -> Result<()> {
    let safe = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV;
    let locked = safe | Attr::MOUNT_ATTR_NOEXEC;
    let resolver = resolver_file();
    let list: [KernelFileSystem<'_>; 8] = [
        ("proc", "/proc", &[], locked),
        ("sysfs", "/sys", &[], locked | Attr::MOUNT_ATTR_RDONLY),
        ("tmpfs", "/dev", &[("mode", "0755"), ("size", "64m")], Attr::MOUNT_ATTR_NOSUID),
        (
            "devpts",
            "/dev/pts",
            &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
            Attr::MOUNT_ATTR_NOSUID,
        ),
        ("tmpfs", "/dev/shm", &[("mode", "1777")], safe),
        ("mqueue", "/dev/mqueue", &[], locked),
        ("tmpfs", "/run", &[("mode", "0755")], safe),
        ("tmpfs", "/tmp", &[("mode", "1777")], safe),
    ];
    for (kind, point, options, attributes) in list {
        let mount = match new_mount(kind, SOURCE, options, attributes) {
            // Message queues may not be built in; then there are none to miss.
            Err(_) if kind == "mqueue" => continue,
            result => result.doing(|| format!("make a file system of type {kind} for {point}"))?,
        };
        put(root, &mount, Path::new(point), Want::Directory)?;
        if point == "/dev" {
            devices(mount.as_fd()).doing(|| "make the devices in /dev".into())?;
        }
    }
    within::place(root, Path::new("/run/lock"), Want::Directory)?;
    if let Some((path, content)) = resolver.filter(|_| !spec.own_network) {
        within::place(root, &path, Want::File)?;
        let file = within::open(root, &path, OFlags::WRONLY).doing(|| format!("open {}", path.display()))?;
        fs::File::from(file).write_all(&content).doing(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The host's /etc/resolv.conf, where it is a link into /run, which a capsule has for itself.
fn resolver_file() -> Option<(PathBuf, Vec<u8>)> {
    let path = fs::canonicalize("/etc/resolv.conf").ok().filter(|path| path.starts_with("/run"))?;
    let content = fs::read(&path).ok().filter(|content| content.len() as u64 <= FILE_BYTES_MAX)?;
    Some((path, content))
}

fn devices(dev: BorrowedFd<'_>) -> io::Result<()> {
    let nodes =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    for (name, major, minor) in nodes {
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, makedev(major, minor))?;
    }
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ];
    for (target, name) in links {
        rustix::fs::symlinkat(target, dev, name)?;
    }
    Ok(())
}

/// Opens /dev/null as descriptors 0, 1 and 2, which must be closed.
pub(super) fn standard_descriptors() -> io::Result<()> {
    for number in 0..3 {
        // Without close-on-exec: they are inherited by every program that gets no others.
        let fd = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR, Mode::empty())?;
        let opened = rustix::fd::IntoRawFd::into_raw_fd(fd);
        if opened != number {
            return Err(io::Error::other(format!("Descriptor {number} was not free")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_overlaid_shared_ones_seen_and_the_rest_left_out() {
        let known = "nodev\tsysfs\nnodev\ttmpfs\nnodev\tnfs4\n\text4\n\txfs\nnodev\tautofs\n";
        assert_eq!(nature("ext4", known), Nature::Disk);
        assert_eq!(nature("nfs4", known), Nature::Shared);
        assert_eq!(nature("fuse.sshfs", known), Nature::Shared);
        assert_eq!(nature("tmpfs", known), Nature::Other);
        assert_eq!(nature("autofs", known), Nature::Other);
    }

    #[test]
    fn only_the_topmost_mount_of_a_place_and_none_that_is_hidden() {
        let line = |id: u32, point: &str, kind: &str| format!("{id} 1 8:{id} / {point} rw - {kind} x rw\n");
        let text = line(1, "/", "ext4")
            + &line(2, "/home", "ext4")
            + &line(3, "/home", "xfs")
            + &line(4, "/run/disk", "ext4")
            + &line(5, "/var/lib/ferry/pool", "xfs")
            + &line(6, "/net", "nfs4");
        let mounts = mountinfo::parse(text.as_bytes()).unwrap();
        let spec = Spec { directory: "/w".into(), hidden: vec!["/var/lib/ferry".into()], ..Spec::default() };
        let found = |spec: &Spec| -> Vec<_> {
            carried(spec, &mounts, "nodev\tnfs4\n").iter().map(|(mount, _)| mount.id).collect()
        };
        assert_eq!(found(&spec), [3, 6]);
        let named = |path: &str| super::super::With {
            path: path.into(),
            host: path.into(),
            binding: None,
            read_only: false,
        };
        let with = vec![named("/home")];
        assert_eq!(found(&Spec { with, ..spec }), [6], "what is named is not mounted twice");
    }
}
