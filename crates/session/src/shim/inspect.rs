//! What the workload holds, for the plan: read only, nothing is stopped.

use super::workload::{Workload, no_capsule, unable};
use crate::facts::shared_identity;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::plan::Resource;
use ferry_model::resource::Binding;
use ferry_process::capture::Scope;
use ferry_process::capture::files::FilesContext;
use ferry_process::inspect;
use ferry_process::live::Tracking;
use ferry_sys::mountinfo;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// File systems that a capsule has for itself.
const OWN_KINDS: [&str; 6] = ["overlay", "tmpfs", "proc", "sysfs", "devpts", "mqueue"];

impl Workload {
    /// The whole inventory: tasks with their code and memory, descriptors, capsule; with what cannot be moved, by name.
    pub(super) fn inspect(&self) -> Result<Vec<Resource>> {
        let scope = Scope::Cgroup(self.cgroup()?.path().to_owned());
        let none = HashSet::new();
        let watched = self.tracking.as_ref().map_or(&none, Tracking::watched);
        let mut found = inspect::tasks(&scope, watched).map_err(|e| Error::from_source(Kind::Unable, &e))?;

        let tasks = self.tasks()?;
        let furniture = self.furniture();
        let context = FilesContext { furniture: &furniture, ..FilesContext::default() };
        let mut held = inspect::files(&tasks, &context)?;
        held.retain(|each| each.unsupported.is_some() || !found.iter().any(|other| other.name == each.name));
        found.append(&mut held);

        let root = match (&self.capsule, &self.adopted) {
            (Some(capsule), _) => capsule.init_pid(),
            (None, Some(adopted)) => adopted.pid(),
            (None, None) => return Err(no_capsule()),
        };
        // Bound by value means bound to a content: without its hash the target could not say that it has the same.
        for resource in
            found.iter_mut().filter(|each| each.binding == Binding::Value && each.name.starts_with('/'))
        {
            let path = format!("/proc/{root}/root{}", resource.name);
            resource.hash = File::open(path).and_then(|file| self.hashes.of(&file)).ok();
        }
        match &self.capsule {
            Some(capsule) => found.extend(inspect::capsule::capsule(capsule)?),
            None => found.extend(inspect::host::host(&tasks, &furniture)),
        }
        note_shared(&mut found, root)?;
        Ok(found)
    }
}

/// Notes on which file system that other hosts have too a path lies. What the capsule has laid an overlay over is the workload's own,
/// whatever is beneath.
fn note_shared(found: &mut [Resource], init: i32) -> Result<()> {
    let mounts = mountinfo::read(&PathBuf::from(format!("/proc/{init}")))
        .map_err(|e| unable("The capsule's mount table could not be read", &e))?;
    let mut known: HashMap<&Path, Option<String>> = HashMap::new();
    for resource in found.iter_mut().filter(|each| each.name.starts_with('/')) {
        let path = Path::new(&resource.name);
        let over = mounts.iter().filter(|mount| path.starts_with(&mount.point));
        let Some(mount) = over.max_by_key(|mount| mount.point.components().count()) else { continue };
        if !OWN_KINDS.contains(&mount.kind.as_str()) {
            // Seen in the capsule where it is on the host.
            let identity = known.entry(&mount.point).or_insert_with(|| shared_identity(&mount.point));
            resource.shared.clone_from(identity);
        }
    }
    Ok(())
}
