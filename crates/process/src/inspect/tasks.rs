//! The inventory of processes, as resources of a plan: memory, what is mapped, and everything about a process that this version
//! cannot move. Nothing is stopped or changed.

use crate::capture::memory::obstacle;
use crate::capture::{Error, Scope, members};
use crate::live::direct;
use ferry_model::plan::{Blocker, Holder, Resource};
use ferry_model::planning::{MEMORY, MEMORY_GROWTH, UNTRACKED};
use ferry_model::resource::{Attachment, Binding};
use ferry_sys::kcmp::{self, What};
use ferry_sys::proc;
use ferry_sys::proc::maps::{self, Mapping};
use ferry_sys::proc::smaps::{self, Entry};
use ferry_sys::proc::stat::{self, Stat};
use ferry_sys::proc::status::{self, Status};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Finds what the processes of a tree are made of. `watched` are those whose memory Ferry itself watches at the moment.
///
/// # Errors
/// When the tree cannot be listed. A process that ends meanwhile is left out.
pub fn tasks(scope: &Scope, watched: &HashSet<i32>) -> Result<Vec<Resource>, Error> {
    let mut found: BTreeMap<(String, String), Resource> = BTreeMap::new();
    let pids = members(scope)?;
    let mut seen: Vec<Seen> = Vec::new();
    for pid in pids {
        let Some(one) = Seen::look(pid, watched.contains(&pid)) else { continue };
        for resource in one.resources(&seen) {
            found.entry((resource.sort.clone(), resource.name.clone())).or_insert(resource);
        }
        seen.push(one);
    }
    Ok(found.into_values().collect())
}

struct Seen {
    pid: i32,
    ns_pid: i32,
    stat: Stat,
    status: Status,
    threads: Vec<(i32, Status)>,
    maps: Vec<Mapping>,
    areas: Vec<Entry>,
    exe: String,
    watched: bool,
}

impl Seen {
    fn look(pid: i32, watched: bool) -> Option<Self> {
        let stat = stat::read(pid).ok()?;
        let status = status::read(&pid.to_string()).ok()?;
        let threads = proc::numbers(&format!("/proc/{pid}/task"))
            .ok()?
            .into_iter()
            .filter_map(|tid| Some((tid, status::read(&format!("{pid}/task/{tid}")).ok()?)))
            .collect();
        Some(Self {
            pid,
            ns_pid: status.ns_tgid.last().copied().unwrap_or(pid),
            maps: maps::parse(&proc::read(pid, "maps").ok()?).ok()?,
            areas: smaps::parse(&proc::read(pid, "smaps").unwrap_or_default()).ok()?,
            exe: proc::link(pid, "exe")
                .map(|path| String::from_utf8_lossy(&path).into_owned())
                .unwrap_or_default(),
            stat,
            status,
            threads,
            watched,
        })
    }

    fn resource(&self, sort: &str, name: String, binding: Binding, bytes: u64) -> Resource {
        Resource {
            sort: sort.into(),
            name,
            holder: Some(Holder { pid: self.ns_pid, fd: None }),
            binding,
            attachment: Attachment::Unattached,
            bytes,
            hash: None,
            shared: None,
            unsupported: None,
        }
    }

    fn comm(&self) -> String {
        String::from_utf8_lossy(&self.stat.comm).into_owned()
    }

    fn resources(&self, others: &[Self]) -> Vec<Resource> {
        let mut all = Vec::new();
        if !matches!(self.stat.state, b'Z' | b'X') {
            let private: u64 = self.areas.iter().map(|area| area.anonymous).sum();
            let name = format!("private memory of process {} ({})", self.ns_pid, self.comm());
            all.push(self.resource(MEMORY, name, Binding::Identifier, private));
            let shared: u64 = self
                .areas
                .iter()
                .zip(&self.maps)
                .filter(|(_, map)| !map.shared)
                .map(|(area, _)| area.shared_dirty)
                .sum();
            if shared > 0 {
                // Each process gets a copy of its own at the target: the growth, if all of them were shared by two.
                let name =
                    format!("pages that process {} shares since a fork and gets copies of", self.ns_pid);
                all.push(self.resource(MEMORY_GROWTH, name, Binding::Value, shared / 2));
            }
            all.extend(self.mapped());
            all.extend(self.untracked(others, private));
        }
        for (what, lifted_by) in self.obstacles(others) {
            let mut resource = self.resource(
                "process",
                format!("process {} ({}): {what}", self.ns_pid, self.comm()),
                Binding::Identifier,
                0,
            );
            resource.unsupported = Some(Blocker {
                what: format!("Process {} ({}) has {what}", self.ns_pid, self.comm()),
                lifted_by: lifted_by.into(),
            });
            all.push(resource);
        }
        all
    }

    /// Memory that a live move sends in the pause, because nobody can tell what is written to it.
    fn untracked(&self, others: &[Self], private: u64) -> Vec<Resource> {
        let mut all = Vec::new();
        let mut add = |one: &Self, why: String, bytes| {
            let name = format!("the private memory of process {} ({}), which {why}", one.ns_pid, one.comm());
            all.push(one.resource(UNTRACKED, name, Binding::Identifier, bytes));
        };
        if direct::is_open_in(self.pid) {
            add(self, "has a file open for direct I/O".into(), private);
        }
        let living = |other: &&Self| !matches!(other.stat.state, b'Z' | b'X');
        if let Some(other) =
            others.iter().filter(living).find(|other| is_same(self.pid, other.pid, What::Files))
        {
            add(self, format!("shares its descriptors with process {}", other.ns_pid), private);
            let theirs = other.areas.iter().map(|area| area.anonymous).sum();
            add(other, format!("shares its descriptors with process {}", self.ns_pid), theirs);
        }
        all
    }

    /// Files that are mapped: executables and libraries by value, what is shared and writable by identifier.
    fn mapped(&self) -> Vec<Resource> {
        let mut all = Vec::new();
        let root = format!("/proc/{}/root", self.pid);
        for mapping in self.maps.iter().filter(|mapping| mapping.name.starts_with(b"/") && mapping.inode != 0)
        {
            let path = String::from_utf8_lossy(&mapping.name).into_owned();
            if mapping.deleted()
                || path.starts_with("/memfd:")
                || path.starts_with("/SYSV")
                || path.starts_with("/dev/zero")
            {
                continue;
            }
            let size = std::fs::metadata(Path::new(&root).join(path.trim_start_matches('/')))
                .map_or(0, |metadata| metadata.len());
            let writes = mapping.shared && mapping.prot & libc::PROT_WRITE as u32 != 0;
            let (sort, binding) = match () {
                () if writes => ("file", Binding::Identifier),
                () if path == self.exe => ("executable", Binding::Value),
                () => ("library", Binding::Value),
            };
            all.push(self.resource(sort, path, binding, size));
        }
        all
    }

    /// What cannot be moved, each with what lifts it.
    fn obstacles(&self, others: &[Self]) -> Vec<(String, &'static str)> {
        const NEXT: &str = "not in this version: end it, or let it do without";
        let mut all = Vec::new();
        let zombie = matches!(self.stat.state, b'Z' | b'X');
        if zombie {
            if self.threads.iter().any(|(tid, _)| *tid != self.pid) {
                all.push(("a first thread that has ended while others run".into(), NEXT));
            }
            return all;
        }
        let apart =
            |one: i32, two: i32, what: What| kcmp::compare(one, two, what).map_or(true, Ordering::is_eq);
        for (tid, status) in &self.threads {
            let ns_tid = status.ns_pid.last().copied().unwrap_or(*tid);
            if status.seccomp != 0 {
                all.push((format!("a seccomp filter (thread {ns_tid})"), "start it without the filter"));
            }
            if status.ns_pid.len() != self.status.ns_pid.len() {
                all.push((format!("a thread in another pid namespace ({ns_tid})"), NEXT));
            }
            if !status.thread_features.is_empty() {
                all.push((
                    format!("a shadow stack (thread {ns_tid})"),
                    "start it with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK",
                ));
            }
            if status.tracer != 0 {
                all.push((format!("a debugger (thread {ns_tid})"), "detach the debugger"));
            }
            if *tid != self.pid
                && !(apart(self.pid, *tid, What::Files) && apart(self.pid, *tid, What::FileSystem))
            {
                all.push((format!("thread {ns_tid} with descriptors or a directory of its own"), NEXT));
            }
        }
        if let Some(outer) =
            others.first().filter(|outer| outer.status.ns_pid.len() != self.status.ns_pid.len())
        {
            all.push((
                format!("a pid namespace of its own, nested in that of process {}", outer.ns_pid),
                NEXT,
            ));
        }
        for other in others.iter().filter(|other| !matches!(other.stat.state, b'Z' | b'X')) {
            if is_same(self.pid, other.pid, What::Space) {
                all.push((
                    format!("memory shared with process {} (vfork or CLONE_VM)", other.ns_pid),
                    "wait until it has executed a program",
                ));
            }
            let related = self.stat.parent == other.pid;
            if is_same(self.pid, other.pid, What::FileSystem)
                || (!related && is_same(self.pid, other.pid, What::Files))
            {
                all.push((format!("descriptors or a directory shared with process {}", other.ns_pid), NEXT));
            }
        }
        if self.exe.ends_with(" (deleted)") {
            all.push((
                "an executable that has been deleted".into(),
                "start it again from the file that replaced it",
            ));
        }
        if self.has_no_vdso() {
            all.push(("no vDSO".into(), "boot without vdso=0"));
        }
        if self.is_32_bit() {
            all.push(("32-bit code".into(), NEXT));
        }
        all.extend(self.memory_obstacles());
        all
    }

    /// A process that is ending, or is just executing a program, has no vDSO for a moment: only what stays so counts.
    fn has_no_vdso(&self) -> bool {
        let without = |maps: &[Mapping]| !maps.iter().any(|mapping| mapping.name == b"[vdso]");
        let again = || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            proc::read(self.pid, "maps").ok().and_then(|text| maps::parse(&text).ok()).unwrap_or_default()
        };
        if !without(&self.maps) {
            return false;
        }
        let maps = again();
        !maps.is_empty() && without(&maps)
    }

    fn memory_obstacles(&self) -> Vec<(String, &'static str)> {
        const NEXT: &str = "not in this version: let it unmap the memory";
        let mut all: Vec<(String, &'static str)> = Vec::new();
        for mapping in &self.maps {
            let name = String::from_utf8_lossy(&mapping.name).into_owned();
            let area = self.areas.iter().find(|area| area.start == mapping.start);
            let flagged = area.and_then(|area| obstacle(area.flags, self.watched));
            let device = area.is_some_and(|area| area.flags.has(b"io") || area.flags.has(b"pf"));
            let kernel = name == "[vdso]" || name.starts_with("[vvar") || name == "[vsyscall]";
            let what = match () {
                () if kernel => continue,
                () if flagged.is_some() => flagged.unwrap_or_default().to_owned(),
                () if device || name == "[uprobes]" => {
                    format!("memory of a device or of the kernel ({name})")
                }
                () if name.starts_with("/SYSV") => "System V shared memory".to_owned(),
                () if name.starts_with("anon_inode:") => format!("a mapping of {name}"),
                () if area.is_some_and(|area| area.key != 0) => "memory with a protection key".to_owned(),
                () => continue,
            };
            all.push((format!("{what} at {:#x}", mapping.start), NEXT));
        }
        all
    }

    fn is_32_bit(&self) -> bool {
        use std::io::Read;
        let mut start = [0u8; 5];
        let opened = std::fs::File::open(format!("/proc/{}/exe", self.pid));
        opened.and_then(|mut file| file.read_exact(&mut start)).is_ok_and(|()| start[4] == 1)
    }
}

fn is_same(one: i32, two: i32, what: What) -> bool {
    kcmp::compare(one, two, what).is_ok_and(Ordering::is_eq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_a_device_may_write_to_is_named() {
        use std::os::unix::fs::OpenOptionsExt;
        let exe = std::env::current_exe().unwrap();
        let direct = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(exe).unwrap();
        let mut child = std::process::Command::new("/bin/sleep").arg("60").stdin(direct).spawn().unwrap();
        let found = tasks(&Scope::Tree(child.id() as i32), &HashSet::new());
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found.unwrap();
        let named: Vec<&Resource> = found.iter().filter(|resource| resource.sort == UNTRACKED).collect();
        assert!(matches!(named[..], [one] if one.name.contains("direct I/O") && one.bytes > 0), "{found:?}");
    }

    /// This very process: a Rust program with libraries and nothing special.
    #[test]
    fn own_memory_and_libraries_are_found() {
        let all = tasks(&Scope::Tree(std::process::id() as i32), &HashSet::new()).unwrap();
        let memory = all.iter().find(|resource| resource.sort == MEMORY).expect("memory");
        assert!(memory.bytes > 0);
        assert!(all.iter().any(|resource| resource.sort == "library"
            && resource.name.contains("libc")
            && resource.bytes > 100_000));
        assert!(
            all.iter().any(|resource| resource.sort == "executable" && resource.binding == Binding::Value)
        );
        let blocked: Vec<&Resource> = all.iter().filter(|resource| resource.unsupported.is_some()).collect();
        assert!(blocked.is_empty(), "{blocked:?}");
    }
}
