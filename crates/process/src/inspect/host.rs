//! What a tree that lives outside of a capsule has of its host: working directories, files in memory file systems, the terminal that it
//! sits at; and what of that stands in the way of a move, by name.

use crate::capsule::tree::Parts;
use crate::capture::TaskRef;
use crate::capture::files::Furniture;
use crate::records::State;
use crate::records::capsule::{Capsule, Clocks};
use crate::records::file::Kind;
use crate::records::memory::Backing;
use ferry_model::plan::{Blocker, Holder, Resource};
use ferry_model::resource::{Attachment, Binding};
use ferry_sys::proc;
use ferry_sys::sysv::{self, Kind as Ipc};
use ferry_sys::timens;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// File systems that a capsule has of its own, in memory: what the tree uses of the host's goes along into them.
const IN_MEMORY: [&str; 3] = ["/dev/shm", "/run", "/tmp"];
/// Namespaces that must be the host's: others are not rebuilt.
const NAMESPACES: [&str; 7] = ["mnt", "net", "ipc", "uts", "pid", "user", "time"];

/// Directories that the tree is in, and what stands in the way.
#[must_use]
pub fn host(tasks: &[TaskRef], furniture: &[Furniture]) -> Vec<Resource> {
    let mut found: BTreeMap<String, Resource> = BTreeMap::new();
    for task in tasks {
        for name in ["cwd", "root"] {
            let Ok(path) = proc::link(task.host_pid, name) else { continue };
            let path = String::from_utf8_lossy(&path).into_owned();
            let own = ["/proc", "/sys", "/dev"].iter().any(|own| Path::new(&path).starts_with(own));
            if path != "/" && !own && !path.ends_with(" (deleted)") {
                found.entry(path.clone()).or_insert_with(|| resource(task, "directory", path, None));
            }
        }
    }
    let mut all: Vec<Resource> = found.into_values().collect();
    all.extend(tasks.iter().flat_map(of_namespaces));
    all.extend(system_v(tasks));
    all.extend(other_terminals(tasks, furniture));
    all
}

fn resource(task: &TaskRef, sort: &str, name: String, unsupported: Option<Blocker>) -> Resource {
    Resource {
        sort: sort.into(),
        name,
        holder: Some(Holder { pid: task.ns_pid, fd: None }),
        binding: Binding::Identifier,
        attachment: Attachment::Unattached,
        bytes: 0,
        hash: None,
        unsupported,
        shared: None,
    }
}

fn of_namespaces(task: &TaskRef) -> Vec<Resource> {
    let identity = |who: &str, kind: &str| std::fs::read_link(format!("/proc/{who}/ns/{kind}")).ok();
    let other = |kind: &&&str| {
        let theirs = identity(&task.host_pid.to_string(), kind);
        theirs.is_some() && theirs != identity("self", kind)
    };
    let refuse = |kind: &&str| {
        let what = format!("Process {} has a {kind} namespace of its own", task.ns_pid);
        let lifted_by =
            "start the program by ferry run: namespaces that others have made are not rebuilt".into();
        resource(task, "namespace", what.clone(), Some(Blocker { what, lifted_by }))
    };
    NAMESPACES.iter().filter(other).map(refuse).collect()
}

/// System V objects of the host's namespace that one of the tree was the last to use. One that is attached is seen in its memory.
fn system_v(tasks: &[TaskRef]) -> Vec<Resource> {
    let mut found = Vec::new();
    for (kind, sort, what) in [
        (Ipc::Segment, "shared-memory-segment", "segment"),
        (Ipc::Semaphores, "semaphores", "semaphores"),
        (Ipc::Queue, "message-queue", "queue"),
    ] {
        // A kernel without them has none.
        for object in sysv::list(kind).unwrap_or_default() {
            let mut users = object.users.to_vec();
            if kind == Ipc::Semaphores {
                // Gone meanwhile.
                users = sysv::semaphore_users(object.id, object.size).unwrap_or_default();
            }
            let Some(task) = tasks.iter().find(|task| users.contains(&task.host_pid)) else { continue };
            let name = format!("System V {what} {}", object.id);
            let what = format!("Process {} uses the {name} of the host (key {:#x})", task.ns_pid, object.key);
            let lifted_by =
                "start the program by ferry run: in a capsule it has System V objects of its own, which move"
                    .into();
            found.push(resource(task, sort, name, Some(Blocker { what, lifted_by })));
        }
    }
    found
}

/// The pseudo-terminal that a tree uses and somebody else holds the other end of: the first one found.
#[must_use]
pub fn terminal(tasks: &[TaskRef]) -> Option<u32> {
    terminals(tasks).into_values().next()
}

/// Those terminals, by the descriptor at which they were found first.
fn terminals(tasks: &[TaskRef]) -> BTreeMap<(i32, i32), u32> {
    let mut found = BTreeMap::new();
    let mut own = BTreeSet::new();
    for task in tasks {
        let folder = format!("/proc/{}/fd", task.host_pid);
        for fd in proc::numbers(&folder).unwrap_or_default() {
            let Ok(target) = std::fs::read_link(format!("{folder}/{fd}")) else { continue };
            let target = target.to_string_lossy();
            if let Some(number) =
                target.strip_prefix("/dev/pts/").and_then(|number| number.parse::<u32>().ok())
            {
                found.insert((task.ns_pid, fd), number);
            } else if target.ends_with("/ptmx") {
                let info = proc::read(task.host_pid, &format!("fdinfo/{fd}")).unwrap_or_default();
                let info = String::from_utf8_lossy(&info).into_owned();
                let number = info.lines().find_map(|line| line.strip_prefix("tty-index:"));
                own.extend(number.and_then(|number| number.trim().parse::<u32>().ok()));
            }
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|_, number| !own.contains(number) && seen.insert(*number));
    found
}

/// One terminal is bound again to one of Ferry's; a second one is not.
fn other_terminals(tasks: &[TaskRef], furniture: &[Furniture]) -> Vec<Resource> {
    use crate::capture::files::FurnitureKind;
    let bound = |number: u32| furniture.iter().any(|piece| piece.what == FurnitureKind::Terminal(number));
    let refuse = |((pid, fd), number): ((i32, i32), u32)| {
        let what = format!(
            "pid {pid}, descriptor {fd}: the terminal /dev/pts/{number}, the second one that somebody else holds"
        );
        let task = TaskRef { host_pid: pid, ns_pid: pid };
        let lifted_by = "Let it use one terminal alone: that one is bound again at the target".into();
        resource(&task, "terminal", what.clone(), Some(Blocker { what, lifted_by }))
    };
    terminals(tasks).into_iter().filter(|(_, number)| !bound(*number)).map(refuse).collect()
}

/// What a capsule must be like in which the tree of process `pid` goes on.
///
/// # Errors
/// When its clocks or names cannot be read.
pub fn record(pid: i32) -> io::Result<Capsule> {
    let clocks = timens::Clocks::now_in(Path::new(&format!("/proc/{pid}")))?;
    let not_negative = |nanos: i128| u64::try_from(nanos).unwrap_or_default();
    let names = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    Ok(Capsule {
        hostname: text(names.nodename()),
        domainname: text(names.domainname()),
        clocks: Clocks {
            monotonic_ns: not_negative(clocks.monotonic_ns),
            boottime_ns: not_negative(clocks.boottime_ns),
        },
        ..Capsule::default()
    })
}

/// Takes terminals away from sessions whose leader stays at the source: at the target nobody is left to control them.
pub fn leave_sessions(state: &mut State) {
    let pids: BTreeSet<i32> = state.tasks.iter().map(|task| task.pid).collect();
    for terminal in &mut state.files.terminals {
        if !pids.contains(&terminal.session) {
            (terminal.session, terminal.foreground) = (0, 0);
        }
    }
}

/// What of the host's memory file systems the tree uses, and what of it is `named` with all that is beneath: for each of them the
/// paths beneath it.
#[must_use]
pub fn in_memory<'a>(state: &State, named: impl Iterator<Item = &'a str>) -> Vec<(String, Parts)> {
    let named: Vec<&str> = named.collect();
    let mut paths: BTreeSet<Vec<u8>> = BTreeSet::new();
    for description in &state.files.descriptions {
        if let Kind::File { path, .. } | Kind::Directory { path } = &description.kind {
            paths.insert(path.clone());
        }
    }
    paths.extend(state.files.pipes.iter().filter_map(|pipe| pipe.path.clone()));
    for vma in state.spaces.iter().flat_map(|space| &space.vmas) {
        if let Backing::File { path, .. } = &vma.backing {
            paths.insert(path.clone());
        }
    }
    paths.extend(state.tasks.iter().flat_map(|task| [task.cwd.clone(), task.root.clone()]));
    paths.extend(state.spaces.iter().map(|space| space.exe.clone()));
    let beneath = |point: &str| -> Parts {
        let prefix = [point.as_bytes(), b"/"].concat();
        let parts = paths.iter().filter_map(|path| path.strip_prefix(prefix.as_slice()));
        let mut parts: Parts =
            parts.filter(|part| !part.is_empty()).map(|part| (part.to_vec(), false)).collect();
        for named in &named {
            // The empty path: the whole of it.
            let beneath = named.strip_prefix(point).filter(|rest| rest.is_empty() || rest.starts_with('/'));
            parts.extend(beneath.map(|rest| (rest.trim_start_matches('/').as_bytes().to_vec(), true)));
        }
        parts
    };
    IN_MEMORY
        .iter()
        .map(|point| ((*point).to_owned(), beneath(point)))
        .filter(|(_, parts)| !parts.is_empty())
        .collect()
}

/// Whether a path lies in a file system that every capsule has of its own, in memory.
#[must_use]
pub fn is_in_memory(path: &str) -> bool {
    IN_MEMORY.iter().any(|point| Path::new(path).starts_with(point))
}
