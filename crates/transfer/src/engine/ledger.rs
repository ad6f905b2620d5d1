//! The books of one space: which pages must still go, and which the target may hold.

use super::range_set::RangeSet;
use super::space::Found;

/// What is known of one space between scans. Every set errs to the safe side: *pending* and *held* may be too large, never too small.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Tracked pages with content that the target does not have as they are now.
    pending: RangeSet,
    /// Pages of which something was ever handed to the carrier: the target may hold content there.
    held: RangeSet,
    /// Of these, pages that have no content at the source any more.
    gone: RangeSet,
    /// Untracked pages with content: sent in the last round only.
    held_back: RangeSet,
}

impl Ledger {
    /// Enters a scan.
    pub fn enter(&mut self, found: &Found) {
        let untracked: RangeSet = found.untracked.iter().map(|each| each.range).collect();
        let content = found.content.union(&found.dirty);
        // What was pending and has lost its content is not sent: it is gone, if the target may hold it at all.
        self.pending = self.pending.union(&found.dirty).intersection(&content).difference(&untracked);
        self.held_back = found.content.intersection(&untracked).union(&found.dirty.intersection(&untracked));
        self.gone = self.held.difference(&content);
    }

    /// Pages to be sent: with those that cannot be tracked only in the last round.
    #[must_use]
    pub fn due(&self, last: bool) -> RangeSet {
        if last { self.pending.union(&self.held_back) } else { self.pending.clone() }
    }

    /// Pages that the target is to forget.
    #[must_use]
    pub fn gone(&self) -> &RangeSet {
        &self.gone
    }

    /// Bytes that wait for the pause.
    #[must_use]
    pub fn held_back_bytes(&self) -> u64 {
        self.held_back.bytes()
    }

    /// Notes that `pages` are about to be handed over. Called before, so that what arrives by a carrier that fails is known of.
    pub fn hand_over(&mut self, pages: &RangeSet) {
        self.held = self.held.union(pages);
    }

    /// Notes that `pages` are in their places, and what was gone is forgotten.
    pub fn settled(&mut self, pages: &RangeSet) {
        self.pending = self.pending.difference(pages);
        self.held = self.held.difference(&self.gone);
        self.gone = RangeSet::default();
    }
}
