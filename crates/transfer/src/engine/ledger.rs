//! The books of one space: which pages must still go, and what the target may hold.

use super::range_set::RangeSet;
use super::space::Found;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{PAGE_SIZE, Range};

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
}
