//! From one layout of a tree's memory to a later one: what has to be done, and what stays of what was there.
//!
//! Puppets that are made before their source is frozen follow its drafts. Both sides must agree, without asking, on which memory
//! outlives such a change: the target by doing it, the source by no longer counting the rest as delivered. So both ask the same
//! pure functions: [`kept`] for the whole tree, [`changes`] for one address space.

mod missing;
mod space;

pub use missing::may_be_missing;
pub use space::{Change, changes, filled_prot, kept_of_space, protected_later};

use crate::records::{MemoryObject, Space, State};
use crate::restore::births::{Succession, succession};
use ferry_transfer::engine::RangeSet;
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId};
use std::collections::BTreeMap;

/// What stays of the memory of puppets that were made for `old` when they are changed to be those of `new`, by space. A space that
/// is missing kept nothing. Nothing at all: the tree is built anew.
#[must_use]
pub fn kept(old: &State, new: &State) -> BTreeMap<SpaceId, RangeSet> {
    let mut kept = BTreeMap::new();
    let Some(followed) = followed(old, new) else { return kept };
    for (before, after) in paired_spaces(old, new, &followed) {
        kept.insert(SpaceId(after.id), kept_of_space(before, after));
    }
    for after in &new.objects {
        if let Some(before) = old.objects.iter().find(|before| same_object(before, after)) {
            let len = before.size.min(after.size).next_multiple_of(PAGE_SIZE);
            kept.insert(SpaceId(after.id), RangeSet::new(vec![Range { start: 0, len }]));
        }
    }
    kept.retain(|_, ranges| !ranges.is_empty());
    kept
}

/// Whether no memory comes or goes when the puppets of `old` become those of `new`: pages of it may be on their way meanwhile.
#[must_use]
pub fn stays(old: &State, new: &State) -> bool {
    let Some(followed) = followed(old, new) else { return false };
    let pairs = paired_spaces(old, new, &followed);
    let all = pairs.len() == new.spaces.len() && pairs.len() == old.spaces.len();
    let same = |one: &MemoryObject, other: &MemoryObject| same_object(one, other) && one.size == other.size;
    followed.is_empty()
        && all
        && pairs.iter().all(|(before, after)| {
            let stays = |change: &Change| matches!(change, Change::Protect { .. } | Change::Advise { .. });
            changes(before, after).iter().all(stays)
        })
        && old.objects.len() == new.objects.len()
        && new.objects.iter().all(|object| old.objects.iter().any(|before| same(before, object)))
}

/// Whether two records are of the same memory object.
#[must_use]
pub fn same_object(one: &MemoryObject, other: &MemoryObject) -> bool {
    (one.id, one.device, one.inode, one.kind) == (other.id, other.device, other.inode, other.kind)
}

/// How the puppets of `old` become those of `new`. None: they are killed, and built anew.
#[must_use]
pub fn followed(old: &State, new: &State) -> Option<Succession> {
    // A controlling terminal is had by birth only.
    if terminals(old) != terminals(new) {
        return None;
    }
    succession(&old.tasks, &new.tasks)
}

/// Controlling terminals; and if one of them is the workload's own, all of its own: they get their numbers in order.
fn terminals(state: &State) -> Vec<(u32, i32, bool)> {
    let all = &state.files.terminals;
    let own = all.iter().any(|terminal| terminal.session != 0 && terminal.furniture.is_none());
    let counts = all.iter().filter(|terminal| terminal.session != 0 || (own && terminal.furniture.is_none()));
    let mut list: Vec<_> =
        counts.map(|terminal| (terminal.index, terminal.session, terminal.furniture.is_some())).collect();
    list.sort_unstable();
    list
}

/// Spaces that are the same process' same one in both, before and after.
fn paired_spaces<'a>(old: &'a State, new: &'a State, followed: &Succession) -> Vec<(&'a Space, &'a Space)> {
    let holders = |state: &State| -> BTreeMap<u32, i32> {
        let stays = state.tasks.iter().filter(|task| followed.stay.contains(&task.pid));
        stays.filter_map(|task| Some((task.space?, task.pid))).collect()
    };
    let (before, after) = (holders(old), holders(new));
    let old_spaces: BTreeMap<u32, &Space> = old.spaces.iter().map(|space| (space.id, space)).collect();
    let pair = |space: &'a Space| {
        let same = before.get(&space.id).is_some_and(|pid| after.get(&space.id) == Some(pid));
        old_spaces.get(&space.id).filter(|_| same).map(|old| (*old, space))
    };
    new.spaces.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Task;
    use crate::records::Vma;
    use crate::records::memory::{ObjectKind, vma};

    /// One process with a mapping of so many pages.
    fn state(pages: u64) -> State {
        let vmas =
            vec![Vma { start: 16 * PAGE_SIZE, end: (16 + pages) * PAGE_SIZE, prot: 3, ..Vma::default() }];
        let space = Space { id: 3, vmas, ..Space::default() };
        let task = Task { pid: 7, space: Some(3), ..Task::default() };
        let object = MemoryObject { id: 4, size: 8 * PAGE_SIZE, ..MemoryObject::default() };
        State { spaces: vec![space], tasks: vec![task], objects: vec![object], ..State::default() }
    }

    #[test]
    fn pages_may_be_on_their_way_only_where_no_memory_comes_or_goes() {
        let before = state(10);
        assert!(stays(&before, &before));
        let mut other = state(10);
        other.spaces[0].vmas[0].prot = 1;
        other.spaces[0].vmas[0].flags |= vma::SEQUENTIAL;
        assert!(stays(&before, &other), "another protection, another advice");
        assert!(!stays(&before, &state(11)) && !stays(&before, &state(9)), "more or less of it");
        let mut other = state(10);
        other.spaces[0].vmas[0].flags |= vma::SHARED;
        assert!(!stays(&before, &other));
        let mut other = state(10);
        other.objects[0].size += 1;
        assert!(!stays(&before, &other));
        let mut other = state(10);
        other.objects[0].kind = ObjectKind::Memfd;
        assert!(!stays(&before, &other));
        let mut other = state(10);
        other.objects.clear();
        assert!(!stays(&before, &other) && !stays(&other, &before));
        let mut other = state(10);
        let child = Task { pid: 8, parent: 7, space: Some(5), ..Task::default() };
        other.tasks.push(child);
        other.spaces.push(Space { id: 5, ..Space::default() });
        assert!(!stays(&before, &other) && !stays(&other, &before), "a process was born or has ended");
        let mut other = state(10);
        (other.spaces[0].id, other.tasks[0].space) = (6, Some(6));
        assert!(!stays(&before, &other), "it executes another program");
    }
}
