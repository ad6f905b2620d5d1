//! What the workload holds, for the plan: read only, nothing is stopped.

use super::furniture::refs;
use super::workload::{Workload, no_capsule, unable};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::plan::Resource;
use ferry_model::resource::Binding;
use ferry_process::capture::files::FilesContext;
use ferry_process::capture::{Scope, TaskRef};
use ferry_process::inspect;
use ferry_sys::proc::status;
use std::fs::File;

impl Workload {
    /// The whole inventory: tasks with their code and memory, descriptors, capsule; with what cannot be moved, by name.
    pub(super) fn inspect(&self) -> Result<Vec<Resource>> {
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        let scope = Scope::Cgroup(capsule.cgroup().path().to_owned());
        let mut found = inspect::tasks(&scope).map_err(|e| Error::from_source(Kind::Unable, &e))?;

        let pids = capsule.cgroup().procs().map_err(|e| unable("The tasks could not be listed", &e))?;
        let task = |host_pid: &i32| {
            let ns_pid = *status::read(&host_pid.to_string()).ok()?.ns_pid.last()?;
            Some(TaskRef { host_pid: *host_pid, ns_pid })
        };
        let tasks: Vec<TaskRef> = pids.iter().filter_map(task).collect();
        let furniture = self.furniture();
        let context = FilesContext { furniture: &furniture, ..FilesContext::default() };
        let mut held = inspect::files(&refs(&tasks), &context)?;
        held.retain(|each| each.unsupported.is_some() || !found.iter().any(|other| other.name == each.name));
        found.append(&mut held);

        // Bound by value means bound to a content: without its hash the target could not say that it has the same.
        for resource in
            found.iter_mut().filter(|each| each.binding == Binding::Value && each.name.starts_with('/'))
        {
            let path = format!("/proc/{}/root{}", capsule.init_pid(), resource.name);
            resource.hash = File::open(path).and_then(|file| self.hashes.of(&file)).ok();
        }
        found.extend(inspect::capsule::capsule(capsule)?);
        Ok(found)
    }
}
