//! Mounts that the workload itself has made in its capsule: found by comparing the mount table with Ferry's own part
//! of it, and made again on the target. What cannot be made again is refused by name.

use super::error::{Doing, Error, Result};
use super::within::{self, Want};
use crate::records::capsule::Mount as Record;
use ferry_sys::mountinfo::Mount;
use ferry_sys::mounts::{MountAttrFlags as Attr, attach, clone_mount, new_mount, set_attributes};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{FileType, OFlags};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Most mounts of its own that a workload may have.
const MOUNTS_MAX: usize = 1000;
/// File systems without content of their own, or whose content travels.
const KINDS: [&str; 5] = ["tmpfs", "proc", "sysfs", "devpts", "mqueue"];
/// Options of a tmpfs that are given to the new one.
const TMPFS_OPTIONS: [&str; 6] = ["size", "nr_inodes", "mode", "uid", "gid", "huge"];

/// What a capsule's mount table holds beyond what Ferry put there.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Mounts that can be made again, in order.
    pub(super) mounts: Vec<Record>,
    /// All tmpfs whose contents travel: Ferry's and the workload's.
    pub(super) tmpfs: Vec<PathBuf>,
    /// What stands in the way, by name.
    pub(super) blockers: Vec<Error>,
}

/// Compares `table` with `own`, the places that Ferry has mounted.
pub(super) fn compare(table: &[Mount], own: &BTreeSet<PathBuf>) -> Found {
    let mut found = Found::default();
    let mut seen = BTreeSet::new();
    for (at, mount) in table.iter().enumerate() {
        let first_here = seen.insert(mount.point.clone());
        if own.contains(&mount.point) && first_here {
            if mount.kind == "tmpfs" && !mount.has("ro") {
                found.tmpfs.push(mount.point.clone());
            }
            continue;
        }
        match describe(mount, &table[..at], &table[at + 1..]) {
            Ok(record) => {
                if record.kind == "tmpfs" {
                    found.tmpfs.push(mount.point.clone());
                }
                found.mounts.push(record);
            }
            Err(error) => found.blockers.push(error),
        }
    }
    for gone in own.difference(&seen) {
        found.blockers.push(refused(
            format!("The workload has unmounted {}", gone.display()),
            "let it mount it again, or start it anew".into(),
        ));
    }
    if found.mounts.len() > MOUNTS_MAX {
        found.blockers.push(refused(
            format!("The workload has {} mounts of its own, more than {MOUNTS_MAX}", found.mounts.len()),
            "unmount some".into(),
        ));
    }
    found
}

fn refused(what: String, lifted_by: String) -> Error {
    Error::Refused { what, lifted_by }
}

fn describe(mount: &Mount, before: &[Mount], after: &[Mount]) -> Result<Record> {
    let point = mount.point.display();
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            refused(format!("The name of the mount at {point} is not UTF-8"), "unmount it".into())
        })
    };
    if after.iter().any(|later| later.point == mount.point)
        || before.iter().any(|first| first.point == mount.point)
    {
        return Err(refused(format!("Two mounts stand on each other at {point}"), format!("umount {point}")));
    }
    let record = |kind: &str, source: String| -> Result<Record> {
        Ok(Record {
            point: text(&mount.point)?,
            kind: kind.into(),
            source,
            options: mount.options.clone(),
            super_options: if kind == "bind" { String::new() } else { mount.super_options.clone() },
        })
    };
    // A part of a file system that is mounted already, or the same one once more: a bind mount.
    let origin = before.iter().find_map(|first| {
        let beneath = mount.root.strip_prefix(&first.root).ok()?;
        (first.device == mount.device && first.kind == mount.kind).then(|| first.point.join(beneath))
    });
    match origin {
        Some(origin) => record("bind", text(&origin)?),
        None if KINDS.contains(&mount.kind.as_str()) && mount.root == Path::new("/") => {
            record(&mount.kind, mount.source.to_string_lossy().into_owned())
        }
        None => Err(refused(
            format!("The workload has mounted a file system of type {} at {point}", mount.kind),
            format!("umount {point}, or give it to the workload by --with {point} when it starts"),
        )),
    }
}

/// The mounts that the workload had, made again beneath `root`.
pub(super) fn rebuild(root: BorrowedFd<'_>, mounts: &[Record]) -> Result<()> {
    if mounts.len() > MOUNTS_MAX {
        return Err(Error::Invalid(format!("More than {MOUNTS_MAX} mounts are described")));
    }
    mounts.iter().try_for_each(|mount| rebuild_one(root, mount))
}

fn rebuild_one(root: BorrowedFd<'_>, record: &Record) -> Result<()> {
    let point = Path::new(&record.point);
    let attributes = attributes(&record.options);
    if record.kind == "bind" {
        let source = within::place(root, Path::new(&record.source), Want::Directory)?;
        let is_directory = rustix::fs::fstat(&source)
            .map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
            .doing(|| format!("look at {}", record.source))?;
        let copy =
            clone_mount(source.as_fd(), Path::new(""), false).doing(|| format!("bind {}", record.source))?;
        set_attributes(copy.as_fd(), attributes, Attr::empty(), false)
            .doing(|| format!("set the attributes of {}", record.point))?;
        let place = within::place(root, point, if is_directory { Want::Directory } else { Want::File })?;
        return attach(copy.as_fd(), place.as_fd()).doing(|| format!("mount {} again", record.point));
    }
    if !KINDS.contains(&record.kind.as_str()) {
        return Err(Error::Invalid(format!("A mount of type {} is described", record.kind)));
    }
    let given: Vec<(&str, &str)> = record
        .super_options
        .split(',')
        .filter_map(|option| option.split_once('='))
        .filter(|(key, _)| record.kind == "tmpfs" && TMPFS_OPTIONS.contains(key))
        .collect();
    let mount = new_mount(&record.kind, &record.source, &given, attributes)
        .doing(|| format!("make the {} for {} again", record.kind, record.point))?;
    let place = within::place(root, point, Want::Directory)?;
    attach(mount.as_fd(), place.as_fd()).doing(|| format!("mount {} again", record.point))
}

fn attributes(options: &str) -> Attr {
    options.split(',').fold(Attr::empty(), |all, option| {
        all | match option {
            "ro" => Attr::MOUNT_ATTR_RDONLY,
            "nosuid" => Attr::MOUNT_ATTR_NOSUID,
            "nodev" => Attr::MOUNT_ATTR_NODEV,
            "noexec" => Attr::MOUNT_ATTR_NOEXEC,
            _ => Attr::empty(),
        }
    })
}

/// Message queues (POSIX) that exist in the capsule whose root is `root`.
pub(super) fn message_queues(root: BorrowedFd<'_>) -> Vec<String> {
    let Ok(directory) = within::open(root, Path::new("/dev/mqueue"), OFlags::RDONLY | OFlags::DIRECTORY)
    else {
        return Vec::new();
    };
    let Ok(entries) = rustix::fs::Dir::read_from(&directory) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "." && name != "..")
        .take(MOUNTS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str]) -> Vec<Mount> {
        ferry_sys::mountinfo::parse(lines.join("\n").as_bytes()).unwrap()
    }

    #[test]
    fn own_mounts_are_left_out_and_the_rest_described_or_refused() {
        let table = table(&[
            "1 0 0:50 / / rw - overlay ferry rw",
            "2 1 0:51 / /tmp rw - tmpfs ferry rw",
            "3 1 0:52 / /srv/cache rw,nosuid - tmpfs none rw,size=1024k,mode=700",
            "4 1 0:50 /etc /srv/etc ro - overlay ferry rw",
            "5 1 0:51 /x /srv/x rw - tmpfs ferry rw",
            "6 1 7:0 / /srv/disk rw - ext4 /dev/loop0 rw",
        ]);
        let own = BTreeSet::from(["/".into(), "/tmp".into(), "/run".into()]);
        let found = compare(&table, &own);
        let kinds: Vec<_> =
            found.mounts.iter().map(|mount| (mount.kind.as_str(), mount.source.as_str())).collect();
        assert_eq!(kinds, [("tmpfs", "none"), ("bind", "/etc"), ("bind", "/tmp/x")]);
        assert_eq!(found.tmpfs, [Path::new("/tmp"), Path::new("/srv/cache")]);
        let words: Vec<_> = found.blockers.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), 2, "{words:?}");
        assert!(words[0].contains("ext4") && words[0].contains("/srv/disk"));
        assert!(words[1].contains("unmounted /run"));
    }
}
