//! Which files the tasks of a capsule have mapped shared: such a file may change without its time stamps.
//!
//! Those mapped for reading only count too. `mprotect` makes a page writable again that was written before, and tells no time
//! stamp; whether the file was opened for reading alone, so that this cannot be, the kernel does not say.

use super::error::{Doing, Result};
use super::group::Groups;
use super::note::Note;
use super::tree::Mapped;
use ferry_sys::proc::maps;
use std::fs;
use std::path::Path;

/// What the workload in `directory` has mapped shared at this moment. A task that ends meanwhile has nothing mapped.
///
/// # Errors
/// When there is no capsule in `directory`, or its tasks cannot be listed.
pub fn mapped(directory: &Path) -> Result<Mapped> {
    let note = Note::read(directory)?;
    let groups = Groups::open(Path::new(&note.cgroup))?;
    let tasks = groups.work.procs().doing(|| "list the workload's processes".into())?;
    let mut found = Mapped::default();
    for task in tasks {
        let Ok(text) = fs::read(format!("/proc/{task}/maps")) else { continue };
        let mappings = text.split(|byte| *byte == b'\n').filter_map(maps::parse_line);
        for mapping in mappings.filter(|one| one.shared && one.inode != 0) {
            found.inodes.insert(mapping.inode);
            found.paths.insert(mapping.name.strip_prefix(b"/").unwrap_or(&mapping.name).to_vec());
        }
    }
    Ok(found)
}
