//! The books of one space: which pages must still go, and what the target may hold.

use super::range_set::RangeSet;
use super::space::Found;
use crate::space::{BLOCK_BYTES, Range};
use std::collections::BTreeMap;

/// What is known of one space between scans. *Pending* and *held* err to the safe side: they may be too large, never too small.
/// *Zeroed* may be too small, never too large.
///
/// Held pages stay held when the source has given them back: what the target has there need not be what it would have had if it had
/// never been filled. It may have mapped a file where the source has anonymous memory by now, and the other way round.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Tracked pages with content that the target does not have as they are now.
    pending: RangeSet,
    /// Pages of which something was ever handed to the carrier: the target may hold content there.
    held: RangeSet,
    /// Of these, pages that are known to be zero at the target.
    zeroed: RangeSet,
    /// Held pages that have no content at the source any more and read as zero.
    gone: RangeSet,
    /// Held pages that have no content at the source any more and read as something else: the file's page. It can change until the
    /// pause, so it is sent in the last round only.
    restored: RangeSet,
    /// Untracked pages with content: sent in the last round only.
    held_back: RangeSet,
    /// Where the target has a place for content; everywhere if nothing was said.
    allowed: Option<RangeSet>,
}

impl Ledger {
    /// Enters a scan.
    pub fn enter(&mut self, found: &Found) {
        let untracked: RangeSet = found.untracked.iter().map(|each| each.range).collect();
        let content = found.content.union(&found.dirty);
        // What was pending and has lost its content is not sent: it is gone, if the target may hold it at all.
        self.pending = self.pending.union(&found.dirty).intersection(&content).difference(&untracked);
        self.held_back = content.intersection(&untracked);
        let gone = self.held.difference(&content);
        self.restored = gone.intersection(&found.backed);
        self.gone = gone.difference(&found.backed).difference(&self.zeroed);
    }

    /// Pages with content to be sent now: with those that cannot be tracked only in the last round.
    #[must_use]
    pub fn due(&self, last: bool) -> RangeSet {
        self.inside(if last { self.pending.union(&self.held_back) } else { self.pending.clone() })
    }

    /// Pages that are to become zero at the target.
    #[must_use]
    pub fn gone(&self) -> RangeSet {
        self.inside(self.gone.clone())
    }

    /// Pages of files to be sent in the last round although they have no content of their own any more.
    #[must_use]
    pub fn restored(&self) -> RangeSet {
        self.inside(self.restored.clone())
    }

    /// Pages with content that have no place at the target yet.
    #[must_use]
    pub fn outside(&self) -> RangeSet {
        let content = self.pending.union(&self.held_back);
        self.allowed.as_ref().map_or_else(RangeSet::default, |allowed| content.difference(allowed))
    }

    /// Pages that wait for the pause.
    #[must_use]
    pub fn held_back(&self) -> RangeSet {
        self.held_back.union(&self.restored)
    }

    /// Pages that the target does not have as they are, as far as is known without another scan.
    #[must_use]
    pub fn pending(&self) -> &RangeSet {
        &self.pending
    }

    /// Pages of which the target may hold something.
    #[must_use]
    pub fn held(&self) -> &RangeSet {
        &self.held
    }

    /// From now on the target has a place for content in `ranges`, and nowhere else.
    pub fn allow(&mut self, ranges: RangeSet) {
        self.allowed = Some(ranges);
    }

    /// What the target held outside of `kept` is as if it had never been sent.
    pub fn lost(&mut self, kept: &RangeSet) {
        // Whether it still has content is for the next scan to say.
        self.pending = self.pending.union(&self.held.difference(kept));
        for set in [&mut self.held, &mut self.zeroed, &mut self.gone, &mut self.restored] {
            *set = set.intersection(kept);
        }
    }

    /// What the target holds of `may` and is due again is as if it had never been sent: what is to be given back there. Where most of a
    /// block is due, the rest of it goes along: one piece instead of many, of which each costs a call there, and a question later.
    pub fn set_aside(&mut self, may: &RangeSet) -> RangeSet {
        let aside = self.pending.union(&mostly(&self.pending)).intersection(may).intersection(&self.held);
        self.lost(&self.held.difference(&aside));
        aside
    }

    /// What the target holds may be something else at the source by now, unseen: all of it is due again.
    pub fn doubt(&mut self) {
        self.pending = self.pending.union(&self.held);
    }

    /// Outside of `mapped` there is no memory: whatever a scan has seen there was not the workload's.
    pub fn confine(&mut self, mapped: &RangeSet) {
        for set in [&mut self.pending, &mut self.held_back, &mut self.gone, &mut self.restored] {
            *set = set.intersection(mapped);
        }
    }

    /// Whether anything is to be sent in the last round.
    #[must_use]
    pub fn is_done(&self) -> bool {
        [&self.pending, &self.held_back, &self.gone, &self.restored].iter().all(|set| set.is_empty())
    }

    /// Notes that `pages` are about to be handed over. Called before, so that what arrives by a carrier that fails is known of.
    pub fn hand_over(&mut self, pages: &RangeSet) {
        self.held = self.held.union(pages);
        self.zeroed = self.zeroed.difference(pages);
    }

    /// Notes that `pages` are in their places, and of these `zero` as zeros.
    pub fn settled(&mut self, pages: &RangeSet, zero: &RangeSet) {
        self.pending = self.pending.difference(pages);
        self.zeroed = self.zeroed.union(zero);
        self.gone = self.gone.difference(zero);
    }

    fn inside(&self, pages: RangeSet) -> RangeSet {
        self.allowed.as_ref().map_or_else(|| pages.clone(), |allowed| pages.intersection(allowed))
    }
}

/// The blocks of which more than half is in `pages`.
fn mostly(pages: &RangeSet) -> RangeSet {
    let mut blocks: BTreeMap<u64, u64> = BTreeMap::new();
    for range in pages.ranges() {
        let (first, last) = (range.start / BLOCK_BYTES, (range.end() - 1) / BLOCK_BYTES);
        for block in first..=last {
            let start = range.start.max(block * BLOCK_BYTES);
            let end = range.end().min((block + 1).saturating_mul(BLOCK_BYTES));
            *blocks.entry(block).or_default() += end - start;
        }
    }
    let most = blocks.into_iter().filter(|(_, bytes)| *bytes > BLOCK_BYTES / 2);
    most.map(|(block, _)| Range { start: block * BLOCK_BYTES, len: BLOCK_BYTES }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::PAGE_SIZE;

    fn pages(range: std::ops::Range<u64>) -> RangeSet {
        let len = (range.end - range.start) * PAGE_SIZE;
        RangeSet::new(vec![Range { start: range.start * PAGE_SIZE, len }])
    }

    #[test]
    fn what_is_in_doubt_is_due_again_and_what_has_gone_meanwhile_is_told() {
        let mut ledger = Ledger::default();
        ledger.enter(&Found { dirty: pages(0..4), content: pages(0..4), ..Found::default() });
        ledger.hand_over(&pages(0..4));
        ledger.settled(&pages(0..4), &RangeSet::default());
        ledger.enter(&Found { content: pages(0..4), ..Found::default() });
        assert!(ledger.due(true).is_empty());
        ledger.doubt();
        ledger.enter(&Found { content: pages(0..2), ..Found::default() });
        assert_eq!((ledger.due(true), ledger.gone()), (pages(0..2), pages(2..4)));
    }

    #[test]
    fn what_is_set_aside_is_due_and_not_held_and_takes_the_rest_of_its_block_along() {
        let mut ledger = Ledger::default();
        ledger.enter(&Found { dirty: pages(0..2048), content: pages(0..2048), ..Found::default() });
        ledger.hand_over(&pages(0..2048));
        ledger.settled(&pages(0..2048), &RangeSet::default());
        let dirty = pages(10..12).union(&pages(512..769)).union(&pages(1600..1700));
        ledger.enter(&Found { dirty: dirty.clone(), content: pages(0..2048), ..Found::default() });
        let aside = ledger.set_aside(&pages(0..1650));
        assert_eq!(aside, pages(10..12).union(&pages(512..1024)).union(&pages(1600..1650)));
        assert_eq!(ledger.held(), &pages(0..2048).difference(&aside));
        assert_eq!(ledger.due(true), dirty.union(&aside));
        assert!(ledger.set_aside(&pages(0..1650)).is_empty());
        // What loses its content then is nobody's business: the target has nothing there.
        ledger.enter(&Found { content: pages(0..512), ..Found::default() });
        assert_eq!(ledger.gone(), pages(1024..1600).union(&pages(1650..2048)));
    }
}
