//! From one layout of a tree's memory to a later one: what has to be done, and what stays of what was there.
//!
//! Puppets that are made before their source is frozen follow its drafts. Both sides must agree, without asking, on which memory
//! outlives such a change: the target by doing it, the source by no longer counting the rest as delivered. So both ask the same
//! pure functions: [`kept`] for the whole tree, [`changes`] for one address space.

mod space;

pub use space::{Change, changes, kept_of_space};

use crate::records::{Space, State};
use ferry_transfer::engine::RangeSet;
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId};
use std::collections::BTreeMap;

/// What stays of the memory of puppets that were made for `old` when they are changed to be those of `new`, by space. A space that
/// is missing kept nothing.
#[must_use]
pub fn kept(old: &State, new: &State) -> BTreeMap<SpaceId, RangeSet> {
    let mut kept = BTreeMap::new();
    for (before, after) in paired_spaces(old, new) {
        kept.insert(SpaceId(after.id), kept_of_space(before, after));
    }
    for after in &new.objects {
        let same = |before: &&crate::records::MemoryObject| {
            (before.id, before.device, before.inode, before.kind)
                == (after.id, after.device, after.inode, after.kind)
        };
        if let Some(before) = old.objects.iter().find(same) {
            let len = before.size.min(after.size).next_multiple_of(PAGE_SIZE);
            kept.insert(SpaceId(after.id), RangeSet::new(vec![Range { start: 0, len }]));
        }
    }
    kept.retain(|_, ranges| !ranges.is_empty());
    kept
}

/// Spaces that are the same process' same one in both.
fn paired_spaces<'a>(old: &'a State, new: &'a State) -> Vec<(&'a Space, &'a Space)> {
    let holders = |state: &State| -> BTreeMap<u32, i32> {
        state.tasks.iter().filter_map(|task| Some((task.space?, task.pid))).collect()
    };
    let (before, after) = (holders(old), holders(new));
    let old_spaces: BTreeMap<u32, &Space> = old.spaces.iter().map(|space| (space.id, space)).collect();
    let pair = |space: &'a Space| {
        let same = before.get(&space.id).is_some_and(|pid| after.get(&space.id) == Some(pid));
        old_spaces.get(&space.id).filter(|_| same).map(|old| (*old, space))
    };
    new.spaces.iter().filter_map(pair).collect()
}
