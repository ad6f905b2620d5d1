//! Pages that went over on demand, and their sum: either side has its own, and each page counts once, however often it went.

use super::sum::{PageHash, PageSum};
use crate::pager::Pages;
use crate::space::{PAGE_SIZE, Range, SpaceId};
use std::collections::BTreeMap;

/// Pages, and the sum over them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delivered {
    /// Which.
    pub pages: BTreeMap<SpaceId, Pages>,
    /// Their sum.
    pub sum: PageSum,
}

impl Delivered {
    /// Adds what of `range` is new; how many bytes that are.
    pub fn add(&mut self, space: SpaceId, range: &Range, bytes: &[u8]) -> u64 {
        let new = self.pages.entry(space).or_default().add(range);
        for new in &new {
            let at = (new.start - range.start) as usize;
            self.sum.add(space, new.start, &bytes[at..at + new.len as usize]);
        }
        new.iter().map(|new| new.len).sum()
    }

    /// Adds those of these pages that are new: for whoever has made their hashes before others had to wait.
    pub fn add_hashed(&mut self, space: SpaceId, pages: &[(u64, PageHash)]) {
        let all = self.pages.entry(space).or_default();
        for (start, hash) in pages {
            if !all.add(&Range { start: *start, len: PAGE_SIZE }).is_empty() {
                self.sum.add_hash(*hash);
            }
        }
    }
}
