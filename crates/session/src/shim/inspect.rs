//! What the workload holds, for the plan: read only, nothing is stopped.

use super::protocol::Phase;
use super::spec::With;
use super::workload::{Workload, no_capsule, unable};
use crate::facts::shared_identity;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::plan::Resource;
use ferry_model::resource::Binding;
use ferry_process::adoption::Adoption;
use ferry_process::capture::Scope;
use ferry_process::capture::TaskRef;
use ferry_process::capture::files::{FilesContext, Furniture};
use ferry_process::inspect;
use ferry_process::inspect::host::is_in_memory;
use ferry_process::live::Tracking;
use ferry_sys::mountinfo::{self, Mount, Sharing};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// File systems that a capsule has for itself.
const OWN_KINDS: [&str; 6] = ["overlay", "tmpfs", "proc", "sysfs", "devpts", "mqueue"];

impl Workload {
    /// The whole inventory: tasks with their code and memory, descriptors, capsule; with what cannot be moved, by name. `with` counts
    /// as named beside what was named before.
    pub(super) fn inspect(&self, with: &[With]) -> Result<Vec<Resource>> {
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
            let read = |file: File| Ok((self.hashes.of(&file)?, file.metadata()?.len()));
            if let Ok((hash, bytes)) = File::open(path).and_then(read) {
                // A process that has ended since it was looked at could not say how long its files are.
                (resource.hash, resource.bytes) = (Some(hash), bytes);
            }
        }
        match &self.capsule {
            Some(capsule) => found.extend(inspect::capsule::capsule(capsule)?),
            None => found.extend(inspect::host::host(&tasks, &furniture)),
        }
        let mounts = mountinfo::read(&PathBuf::from(format!("/proc/{root}")))
            .map_err(|e| unable("The capsule's mount table could not be read", &e))?;
        found.extend(self.directories(root, with, &tasks, &furniture, &mounts));
        note_shared(&mut found, &mounts);
        Ok(found)
    }

    /// Notes paths that the user has named since the workload began.
    pub(super) fn declare(&mut self, with: Vec<With>) -> Result<()> {
        self.require(&[Phase::Running], "be told what it needs")?;
        if let Some(record) = &mut self.record {
            record.spec.with.retain(|old| !with.iter().any(|new| new.path == old.path));
            record.spec.with.extend(with);
        }
        self.save()
    }

    /// Directories that were named, and those that are written to and were not.
    fn directories(
        &self,
        root: i32,
        with: &[With],
        tasks: &[TaskRef],
        furniture: &[Furniture],
        mounts: &[Mount],
    ) -> Vec<Resource> {
        let place = PathBuf::from(format!("/proc/{root}/root"));
        let Some(spec) = self.record.as_ref().map(|record| &record.spec) else { return Vec::new() };
        let named: Vec<(&Path, Binding)> =
            spec.with.iter().chain(with).map(|with| (Path::new(&with.path), with.binding)).collect();
        let mut found = inspect::written::declared(&place, &named, mounts);
        let hidden = |path: &Path| {
            is_in_memory(&path.to_string_lossy())
                && over(mounts, path).is_some_and(|mount| match self.adopted {
                    // What the tree uses of these goes along with them; what other hosts see too does not.
                    Some(_) => mountinfo::sharing(&mount.kind) != Sharing::Local,
                    None => mount.point == path,
                })
        };
        let lasting = named.iter().filter(|(path, binding)| *binding != Binding::Type && hidden(path));
        found.extend(lasting.map(|(path, _)| inspect::written::hidden(path)));

        let mut written = inspect::written::written(tasks, furniture);
        found.extend(inspect::written::remembered(&place, &written));
        if self.adopted.is_none() {
            // What lies in the capsule's own file systems moves whole, named or not.
            written.retain(|one| over(mounts, &one.path).is_some_and(|mount| !is_own(mount)));
        }
        let paths: Vec<&Path> = named.iter().map(|(path, _)| *path).collect();
        let begun = match self.adopted.as_ref().map(Adoption::pid) {
            Some(pid) => format!("ferry adopt {pid}"),
            None => "ferry run".to_owned(),
        };
        let line =
            |options: &str| format!("name it: {begun} {options}, or now: ferry move {} {options}", spec.name);
        found.extend(inspect::written::undeclared(&written, &paths, &line));
        found
    }
}

/// The mount that `path` is seen through.
fn over<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let over = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    over.max_by_key(|mount| mount.point.components().count())
}

fn is_own(mount: &Mount) -> bool {
    OWN_KINDS.contains(&mount.kind.as_str())
}

/// Notes on which file system that other hosts have too a path lies. What the capsule has laid an overlay over is the workload's own,
/// whatever is beneath.
fn note_shared(found: &mut [Resource], mounts: &[Mount]) {
    let mut known: HashMap<&Path, Option<String>> = HashMap::new();
    for resource in found.iter_mut().filter(|each| each.name.starts_with('/')) {
        let path = Path::new(&resource.name);
        let Some(mount) = over(mounts, path) else { continue };
        if !is_own(mount) {
            // Seen in the capsule where it is on the host.
            let identity = known.entry(&mount.point).or_insert_with(|| shared_identity(&mount.point));
            resource.shared.clone_from(identity);
        }
    }
}
