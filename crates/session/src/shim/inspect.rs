//! What the workload holds, for the plan: read only, nothing is stopped.

use super::furniture::refs;
use super::workload::{Workload, no_capsule, unable};
use ferry_model::error::Result;
use ferry_model::plan::{Blocker, Holder, Resource};
use ferry_model::resource::{Attachment, Binding};
use ferry_process::capture::TaskRef;
use ferry_process::capture::files::FilesContext;
use ferry_sys::proc::{self, maps, status};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

impl Workload {
    /// The whole inventory: code, memory, descriptors, capsule; with what cannot be moved, by name.
    pub(super) fn inspect(&self) -> Result<Vec<Resource>> {
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        let pids = capsule.cgroup().procs().map_err(|e| unable("The tasks could not be listed", &e))?;
        let task = |host_pid: &i32| {
            let ns_pid = *status::read(&host_pid.to_string()).ok()?.ns_pid.last()?;
            Some(TaskRef { host_pid: *host_pid, ns_pid })
        };
        let tasks: Vec<TaskRef> = pids.iter().filter_map(task).collect();
        let mut found = self.code(&tasks, &format!("/proc/{}/root", capsule.init_pid()));
        for task in &tasks {
            found.extend(memory(*task));
            found.extend(refusals(*task));
        }
        let furniture = self.furniture();
        let context = FilesContext { furniture: &furniture, ..FilesContext::default() };
        let mut held = ferry_process::inspect::files::files(&refs(&tasks), &context)?;
        for resource in held.iter_mut().filter(|each| each.binding == Binding::Value) {
            let path = format!("/proc/{}/root{}", capsule.init_pid(), resource.name);
            resource.hash = File::open(path).and_then(|file| self.hashes.of(&file)).ok();
        }
        held.retain(|each| !found.iter().any(|code| code.name == each.name && each.unsupported.is_none()));
        found.extend(held);
        found.extend(ferry_process::inspect::capsule::capsule(capsule)?);
        Ok(found)
    }

    /// Executables and libraries: whatever is mapped from files, each once, with its content hash.
    fn code(&self, tasks: &[TaskRef], root: &str) -> Vec<Resource> {
        let mut found = BTreeMap::new();
        for task in tasks {
            let exe = std::fs::read_link(format!("/proc/{}/exe", task.host_pid)).unwrap_or_default();
            let Ok(maps) = proc::read(task.host_pid, "maps") else { continue };
            for mapping in maps::parse(&maps).unwrap_or_default() {
                let path = Path::new(std::ffi::OsStr::from_bytes(&mapping.name));
                if mapping.inode == 0 || !path.is_absolute() || mapping.deleted() || path.starts_with("/dev") {
                    continue;
                }
                let name = path.display().to_string();
                let sort = if path == exe { "executable" } else { "library" };
                found.entry(name).or_insert((sort, task.ns_pid));
            }
        }
        let resource = |(name, (sort, pid)): (String, (&str, i32))| {
            let opened = File::open(format!("{root}{name}"));
            let hash = opened.as_ref().ok().and_then(|file| self.hashes.of(file).ok());
            let bytes = opened.and_then(|file| file.metadata()).map_or(0, |meta| meta.len());
            Resource { hash, bytes, ..plain(sort, name, pid, Binding::Value) }
        };
        found.into_iter().map(resource).collect()
    }
}

fn plain(sort: &str, name: String, pid: i32, binding: Binding) -> Resource {
    Resource {
        sort: sort.into(),
        name,
        holder: Some(Holder { pid, fd: None }),
        binding,
        attachment: Attachment::Unattached,
        bytes: 0,
        hash: None,
        unsupported: None,
        shared: None,
    }
}

fn memory(task: TaskRef) -> Option<Resource> {
    let resident = status::read(&task.host_pid.to_string()).ok()?.resident;
    let name = format!("memory of process {}", task.ns_pid);
    Some(Resource { bytes: resident, ..plain("memory", name, task.ns_pid, Binding::Identifier) })
}

/// What of a task itself this version cannot rebuild, by name.
fn refusals(task: TaskRef) -> Vec<Resource> {
    let mut found = Vec::new();
    let threads = proc::numbers(&format!("/proc/{}/task", task.host_pid)).unwrap_or_default();
    for tid in threads {
        let Ok(status) = status::read(&format!("{}/task/{tid}", task.host_pid)) else { continue };
        if status.seccomp != 0 {
            found.push(("a seccomp filter", "run it without the filter"));
            break;
        }
    }
    if let Ok(maps) = proc::read(task.host_pid, "maps") {
        let rings = maps::parse(&maps).unwrap_or_default();
        if rings.iter().any(|mapping| mapping.name.starts_with(b"anon_inode:[io_uring]")) {
            found.push(("an io_uring", "let the program use plain system calls (for many: a setting)"));
        }
    }
    let resource = |(what, lifted_by): (&str, &str)| {
        let name = format!("{what} of process {}", task.ns_pid);
        let blocker = Blocker { what: format!("Process {} has {what}", task.ns_pid), lifted_by: lifted_by.into() };
        Resource { unsupported: Some(blocker), ..plain("task", name, task.ns_pid, Binding::Identifier) }
    };
    found.into_iter().map(resource).collect()
}
