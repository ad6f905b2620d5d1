//! What of a captured state is put into the capsule by another thread while puppets become the workload: addresses and routes, settings,
//! memory file systems, descriptions. It asks nothing of a puppet, and a puppet waits for each of its steps.

use super::furniture::Place;
use super::spec::Spec;
use super::workload::unable;
use super::{CONTENTS, ground};
use ferry_model::error::Result;
use ferry_network::Identity;
use ferry_process::records::State;
use ferry_process::records::capsule::Capsule as CapsuleRecord;
use ferry_process::records::file::Kind;
use ferry_process::records::memory::Backing;
use ferry_process::restore::files::Recreated;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// What is put in.
pub(super) struct Beside<'a> {
    pub place: Place<'a>,
    pub spec: &'a Spec,
    pub record: &'a CapsuleRecord,
    pub network: Option<&'a Identity>,
    pub state: &'a State,
}

impl Beside<'_> {
    /// What the capsule has: network, settings, System V objects, memory file systems.
    pub fn fill(&self) -> Result<()> {
        let Place { dir, capsule, .. } = self.place;
        if let Some(identity) = self.network {
            ground::fill_network(capsule, self.spec, identity)?;
        }
        let contents = File::open(dir.join(CONTENTS));
        let contents = contents.map_err(|e| unable("The memory file systems have not arrived", &e))?;
        capsule.restore_contents(self.record, &mut BufReader::new(contents))?;
        let _ = std::fs::remove_file(dir.join(CONTENTS));
        Ok(())
    }

    /// All of it; the descriptions where they wait for no puppet.
    pub fn run(&self) -> Result<Option<Recreated>> {
        self.fill()?;
        let opened =
            if asks_tasks(self.state) { None } else { Some(self.place.open(self.state, BTreeMap::new())?) };
        Ok(opened)
    }

    /// Whether puppets can become the workload meanwhile: nothing that they map is in a memory file system.
    pub fn is_apart(&self) -> bool {
        !maps_from(self.state, &self.record.tmpfs)
    }
}

/// Whether a file at or beneath one of these mount points is mapped.
fn maps_from(state: &State, points: &[String]) -> bool {
    let beneath = |path: &[u8]| {
        let path = String::from_utf8_lossy(path);
        points.iter().any(|point| Path::new(&*path).starts_with(point))
    };
    let mut mapped = state.spaces.iter().flat_map(|space| &space.vmas);
    mapped.any(|vma| matches!(&vma.backing, Backing::File { path, .. } if beneath(path)))
}

/// Whether a description is of something that only the puppets make: memory that they share, what `/proc` shows of them, and terminals,
/// which sessions have by birth and which get their numbers in order.
fn asks_tasks(state: &State) -> bool {
    let of_tasks = |path: &[u8]| path.starts_with(b"/proc/");
    let asks = |kind: &Kind| match kind {
        Kind::File { path, .. } | Kind::Directory { path } => of_tasks(path),
        Kind::Inotify { .. } => true,
        _ => false,
    };
    let made_by_tasks = !state.objects.is_empty() || !state.files.terminals.is_empty();
    made_by_tasks || state.files.descriptions.iter().any(|each| asks(&each.kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_process::records::file::Description;
    use ferry_process::records::memory::{MemoryObject, Space, Vma};

    fn with(kind: Kind) -> State {
        let mut state = State::default();
        state.files.descriptions.push(Description { kind, ..Description::default() });
        state
    }

    #[test]
    fn what_only_the_tasks_make_waits_for_them() {
        let file = |path: &[u8]| with(Kind::File { path: path.to_vec(), size: None });
        assert!(!asks_tasks(&State::default()) && !asks_tasks(&file(b"/process/data")));
        assert!(asks_tasks(&file(b"/proc/7/maps")));
        let with_memory = State { objects: vec![MemoryObject::default()], ..State::default() };
        assert!(asks_tasks(&with_memory));
    }

    #[test]
    fn a_mapped_file_in_memory_waits_for_its_content() {
        let mapped = |path: &[u8]| {
            let backing = Backing::File { path: path.to_vec(), offset: 0, inode: 1 };
            let vmas = vec![Vma { backing, ..Vma::default() }];
            State { spaces: vec![Space { vmas, ..Space::default() }], ..State::default() }
        };
        let points = ["/dev/shm".to_owned(), "/tmp".to_owned()];
        assert!(maps_from(&mapped(b"/dev/shm/a"), &points));
        assert!(!maps_from(&mapped(b"/tmpfile"), &points) && !maps_from(&State::default(), &points));
    }
}
