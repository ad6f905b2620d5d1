//! Directories that a workload writes to and that do not move by themselves, and those that the user has named so that they do.
//!
//! A file that is open for writing moves with its descriptor. What else is in its directory (the log of yesterday, the journal of a
//! data base that is made for each transaction) is open at some moments only, and nobody but the user can say whether it is
//! needed. So such a directory is named by the plan, and stands in the way until the user has spoken.

use crate::capture::TaskRef;
use crate::capture::files::{Furniture, FurnitureKind};
use ferry_model::plan::{Blocker, Holder, Resource};
use ferry_model::planning::{REMEMBERED_INODE, UNDECLARED};
use ferry_model::resource::Binding;
use ferry_sys::mountinfo::Mount;
use ferry_sys::{fdinfo, proc};
use rustix::fs::OFlags;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What the kernel shows as files: nothing of it is anybody's data.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];
/// File systems that hold nothing that could be left behind.
const KERNEL_KINDS: [&str; 4] = ["proc", "sysfs", "devpts", "mqueue"];
/// In one directory, files that are named one by one; where more are written, only the directory is.
const NAMED_MAX: usize = 4;

/// A file that somebody writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its path, as the workload sees it.
    pub path: PathBuf,
    /// Who writes to it; no descriptor: it is mapped.
    pub holder: Holder,
}

/// Regular files with a name that `tasks` have open for writing, or mapped shared and writable, without `furniture`. A task that ends
/// meanwhile has none.
#[must_use]
pub fn written(tasks: &[TaskRef], furniture: &[Furniture]) -> Vec<Written> {
    let mut found = Vec::new();
    for task in tasks {
        let mut add = |path: Vec<u8>, fd| {
            let path = PathBuf::from(String::from_utf8_lossy(&path).into_owned());
            let kernel = |own: &&str| path.starts_with(own) && !path.starts_with("/dev/shm");
            if path.is_absolute() && !KERNEL.iter().any(kernel) {
                found.push(Written { path, holder: Holder { pid: task.ns_pid, fd } });
            }
        };
        for fd in proc::numbers(&format!("/proc/{}/fd", task.host_pid)).unwrap_or_default() {
            let link = format!("fd/{fd}");
            if is_written(task.host_pid, fd, furniture)
                && let Ok(path) = proc::link(task.host_pid, &link)
            {
                add(path, Some(fd));
            }
        }
        let maps = proc::read(task.host_pid, "maps").unwrap_or_default();
        let mappings = maps.split(|byte| *byte == b'\n').filter_map(proc::maps::parse_line);
        for mapping in mappings {
            let writes = mapping.shared && mapping.prot & libc::PROT_WRITE as u32 != 0;
            let memory = [&b"/memfd:"[..], b"/SYSV"].iter().any(|name| mapping.name.starts_with(name));
            if writes && mapping.inode != 0 && !memory && !mapping.deleted() {
                add(mapping.name, None);
            }
        }
    }
    found
}

/// Whether a descriptor is of a regular file that has a name, open for writing.
fn is_written(pid: i32, fd: i32, furniture: &[Furniture]) -> bool {
    let Ok(stat) = rustix::fs::stat(format!("/proc/{pid}/fd/{fd}")) else { return false };
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile
        || stat.st_nlink == 0
        || furniture.iter().any(|piece| piece.what == FurnitureKind::File(stat.st_dev, stat.st_ino))
    {
        return false;
    }
    let text = proc::read(pid, &format!("fdinfo/{fd}")).unwrap_or_default();
    let flags = fdinfo::parse(&String::from_utf8_lossy(&text)).flags;
    flags & OFlags::PATH.bits() == 0 && flags & OFlags::RWMODE.bits() != OFlags::RDONLY.bits()
}

/// What the user has named: it covers itself and what is beneath it.
fn is_declared(path: &Path, declared: &[&Path]) -> bool {
    declared.iter().any(|one| path.starts_with(one))
}

/// The directories of `written` about which `declared` says nothing, each as something that stands in the way of a move. `line` makes of
/// the options (`--with PATH ..`) what the user is to type.
#[must_use]
pub fn undeclared(written: &[Written], declared: &[&Path], line: &dyn Fn(&str) -> String) -> Vec<Resource> {
    let mut directories: BTreeMap<&Path, Vec<&Written>> = BTreeMap::new();
    for one in written.iter().filter(|one| !is_declared(&one.path, declared)) {
        directories.entry(one.path.parent().unwrap_or(&one.path)).or_default().push(one);
    }
    let resource = |(directory, written): (&Path, Vec<&Written>)| {
        let first = written[0];
        let by = match first.holder.fd {
            Some(fd) => format!("pid {}, descriptor {fd}", first.holder.pid),
            None => format!("mapped by pid {}", first.holder.pid),
        };
        let what = format!(
            "{} is written to ({by}: {}), and nobody has said what else of it is needed",
            directory.display(),
            first.path.display()
        );
        let files: BTreeSet<&Path> = written.iter().map(|one| one.path.as_path()).collect();
        let options = |paths: &[&Path]| {
            let each: Vec<String> = paths.iter().map(|path| format!("--with {}", quoted(path))).collect();
            each.join(" ")
        };
        let mut lifted_by = line(&options(&[directory]));
        if files.len() <= NAMED_MAX {
            let files: Vec<&Path> = files.into_iter().collect();
            lifted_by += &format!("; if nothing else of it is needed: {}", options(&files));
        }
        stands_in_the_way(directory, Some(first.holder), what, lifted_by)
    };
    directories.into_iter().map(resource).collect()
}

/// A path as it is typed in a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+@%:,".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn stands_in_the_way(path: &Path, holder: Option<Holder>, what: String, lifted_by: String) -> Resource {
    Resource {
        holder,
        unsupported: Some(Blocker { what, lifted_by }),
        ..resource(UNDECLARED, path, Binding::Identifier, 0)
    }
}

fn resource(sort: &str, path: &Path, binding: Binding, bytes: u64) -> Resource {
    Resource {
        sort: sort.into(),
        name: path.to_string_lossy().into_owned(),
        holder: None,
        binding,
        attachment: super::capsule::attachment_of(bytes),
        bytes,
        hash: None,
        unsupported: None,
        shared: None,
    }
}

/// Of `written`, the data bases of which a program that has them open remembers the inode number. `root` is the workload's root, as this
/// process reaches it.
#[must_use]
pub fn remembered(root: &Path, written: &[Written]) -> Vec<Resource> {
    use std::io::Read;
    const SQLITE: &[u8; 16] = b"SQLite format 3\0";
    let mut seen = BTreeSet::new();
    let of_sqlite = |one: &&Written| {
        let mut start = [0; SQLITE.len()];
        let place = root.join(one.path.strip_prefix("/").unwrap_or(&one.path));
        let read = std::fs::File::open(place).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == *SQLITE && seen.insert(one.path.clone())
    };
    let resource = |one: &Written| Resource {
        holder: Some(one.holder),
        ..resource(REMEMBERED_INODE, &one.path, Binding::Identifier, 0)
    };
    written.iter().filter(of_sqlite).map(resource).collect()
}

/// What the user has named, as resources: each path with all that is beneath it, and by name what is not part of it although it is
/// seen there: `mounts` of other file systems. `root` is the workload's root, as this process reaches it.
#[must_use]
pub fn declared(root: &Path, declared: &[(&Path, Binding)], mounts: &[Mount]) -> Vec<Resource> {
    let paths: Vec<&Path> = declared.iter().map(|(path, _)| *path).collect();
    let mut all = Vec::new();
    for (path, binding) in declared {
        let place = root.join(path.strip_prefix("/").unwrap_or(path));
        let sort = if place.is_dir() { "directory" } else { "file" };
        all.push(resource(sort, path, *binding, super::capsule::tree_bytes(&place)));
        let beneath = |mount: &&Mount| {
            mount.point != *path
                && mount.point.starts_with(path)
                && !paths.contains(&mount.point.as_path())
                && !KERNEL_KINDS.contains(&mount.kind.as_str())
        };
        for mount in mounts.iter().filter(beneath).filter(|_| *binding != Binding::Type) {
            let point = mount.point.display();
            let what = format!("{point} is another file system than {}, and is not named", path.display());
            let lifted_by = format!("name it too: --with {}", quoted(&mount.point));
            all.push(stands_in_the_way(&mount.point, None, what, lifted_by));
        }
    }
    all
}

/// A named path that lies where a capsule has a memory file system of its own: what came along would not be seen there.
#[must_use]
pub fn hidden(path: &Path) -> Resource {
    let what = format!(
        "{} lies where every capsule has a memory file system of its own, which would hide it at the target",
        path.display()
    );
    let lifted_by = format!(
        "keep it elsewhere (in /srv, /var/lib ..), or have it found anew: --with {}:type",
        quoted(path)
    );
    stands_in_the_way(path, None, what, lifted_by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_model::resource::Attachment;
    use std::fs::{File, OpenOptions};

    fn own() -> TaskRef {
        let pid = std::process::id().cast_signed();
        TaskRef { host_pid: pid, ns_pid: pid }
    }

    #[test]
    fn what_is_open_for_writing_is_found_and_what_is_only_read_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        let writer = File::create(at("written")).unwrap();
        let _appender = OpenOptions::new().append(true).create(true).open(at("appended")).unwrap();
        File::create(at("read")).unwrap();
        let _reader = File::open(at("read")).unwrap();
        let _gone = File::create(at("gone")).unwrap();
        std::fs::remove_file(at("gone")).unwrap();
        let found: Vec<Written> =
            written(&[own()], &[]).into_iter().filter(|one| one.path.starts_with(at(""))).collect();
        let paths: BTreeSet<_> = found.iter().map(|one| one.path.clone()).collect();
        assert_eq!(paths, BTreeSet::from([at("written"), at("appended")]));
        let fd = std::os::fd::AsRawFd::as_raw_fd(&writer);
        assert!(found.iter().any(|one| one.holder.fd == Some(fd)), "{found:?}");
    }

    #[test]
    fn a_directory_blocks_once_with_the_line_to_type() {
        let one = |path: &str, fd| Written { path: path.into(), holder: Holder { pid: 7, fd } };
        let all = [one("/srv/db/main", Some(3)), one("/srv/db/wal", None), one("/srv/my logs/a", Some(4))];
        let line = |options: &str| format!("ferry adopt 7 {options}");
        let found = undeclared(&all, &[], &line);
        assert_eq!(found.len(), 2);
        let blocker = found[0].unsupported.clone().unwrap();
        assert!(blocker.what.contains("/srv/db is written to (pid 7, descriptor 3: /srv/db/main)"));
        assert!(blocker.lifted_by.starts_with("ferry adopt 7 --with /srv/db;"), "{}", blocker.lifted_by);
        assert!(
            blocker.lifted_by.ends_with("--with /srv/db/main --with /srv/db/wal"),
            "{}",
            blocker.lifted_by
        );
        assert!(found[1].unsupported.clone().unwrap().lifted_by.contains("--with '/srv/my logs'"));
        // The whole directory, one above it, or each of its files.
        for declared in [vec!["/srv/db"], vec!["/srv"], vec!["/srv/db/main", "/srv/db/wal"]] {
            let paths: Vec<&Path> = declared.iter().map(Path::new).collect();
            assert!(undeclared(&all[..2], &paths, &line).is_empty(), "{declared:?}");
        }
        let half = undeclared(&all[..2], &[Path::new("/srv/db/main")], &line);
        assert!(half[0].unsupported.clone().unwrap().what.contains("mapped by pid 7: /srv/db/wal"));
    }

    #[test]
    fn another_file_system_within_a_named_directory_is_named() {
        let text = "1 0 8:1 / / rw - ext4 x rw\n2 1 8:2 / /srv/deep rw - ext4 x rw\n3 1 0:5 / /srv/proc rw - proc x rw\n";
        let mounts = ferry_sys::mountinfo::parse(text.as_bytes()).unwrap();
        let names = |paths: &[(&Path, Binding)]| -> Vec<String> {
            let found = declared(Path::new("/nowhere"), paths, &mounts);
            let blocking = found.into_iter().filter(|one| one.unsupported.is_some());
            blocking.map(|one| one.name).collect()
        };
        let (outer, inner) = (Path::new("/srv"), Path::new("/srv/deep"));
        assert_eq!(names(&[(outer, Binding::Identifier)]), ["/srv/deep"]);
        assert!(names(&[(outer, Binding::Type)]).is_empty());
        assert!(names(&[(outer, Binding::Identifier), (inner, Binding::Value)]).is_empty());
    }

    #[test]
    fn a_data_base_that_remembers_its_inode_number_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("base"), b"SQLite format 3\0and more").unwrap();
        std::fs::write(dir.path().join("log"), b"SQLite").unwrap();
        let one = |path: &str| Written { path: path.into(), holder: Holder { pid: 7, fd: Some(3) } };
        let found = remembered(dir.path(), &[one("/base"), one("/log"), one("/base"), one("/gone")]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].sort.as_str()), ("/base", REMEMBERED_INODE));
    }

    #[test]
    fn attachment_follows_size() {
        let found = declared(Path::new("/"), &[(Path::new("/nowhere"), Binding::Value)], &[]);
        assert_eq!((found[0].attachment, found[0].binding), (Attachment::Unattached, Binding::Value));
    }
}
