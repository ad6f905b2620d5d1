//! What source and target say to each other. Each may be lost, doubled or come late: receivers cope with all three.
//!
//! There is no separate question "what of this move?": a target that waits repeats its receipt, and a source that has
//! ended the move answers any word about it with the ending.

use super::{Key, Receipt, Record, Terms};
use crate::ids::{BootId, Hash};
use minicbor::{Decode, Encode};

/// Longest reason that is accepted from the other side, in bytes.
pub const REASON_LENGTH_MAX: usize = 1024;

/// Cuts a reason to [`REASON_LENGTH_MAX`], so that no journal entry grows with what the other side says.
pub(super) fn bounded(mut reason: String) -> String {
    if reason.len() > REASON_LENGTH_MAX {
        let end = (0..=REASON_LENGTH_MAX).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        reason.truncate(end);
    }
    reason
}

/// A message with the key that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Message {
    /// Which workload, epoch and move.
    #[n(0)]
    pub key: Key,
    /// What.
    #[n(1)]
    pub body: Body,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Body {
    /// Source: here is a plan, will you take it?
    #[n(0)]
    Offer {
        /// What the move is.
        #[n(0)]
        terms: Terms,
    },
    /// Source: all was sent; this is what you must hold.
    #[n(1)]
    State {
        /// What was captured.
        #[n(0)]
        receipt: Receipt,
    },
    /// Source: the decider gave it to you.
    #[n(2)]
    Commit {
        /// The decider's record.
        #[n(0)]
        record: Record,
    },
    /// Source: this move will never be committed. Discard.
    #[n(3)]
    Abort {
        /// Why.
        #[n(0)]
        reason: String,
    },
    /// Source: my copy is destroyed, you need not tell me again.
    #[n(4)]
    Acknowledge,
    /// Source, restarted, without its copy: do you hold a whole one?
    #[n(5)]
    Ask,
    /// Source, post-copy: the pages that you miss are gone.
    #[n(6)]
    PagesGone,
    /// Target: reserved.
    #[n(16)]
    Reserved,
    /// Target: nothing is here and nothing will ever be, of this move. Said only once that is in its journal.
    #[n(17)]
    Discarded {
        /// Why.
        #[n(0)]
        reason: String,
    },
    /// Target: whole and frozen, on disk as PREPARED.
    #[n(18)]
    Prepared {
        /// What was restored.
        #[n(0)]
        receipt: Receipt,
        /// The target's boot.
        #[n(1)]
        boot_id: BootId,
    },
    /// Target: I was prepared, but can no longer start.
    #[n(19)]
    Unable {
        /// Why.
        #[n(0)]
        reason: String,
    },
    /// Target: won, could not start, and gave it back through the decider.
    #[n(20)]
    HandBack {
        /// The decider's record.
        #[n(0)]
        record: Record,
    },
    /// Target: it runs here.
    #[n(21)]
    Running,
    /// Target, post-copy: every page is in.
    #[n(22)]
    Complete {
        /// Hash of all of them.
        #[n(0)]
        hash: Hash,
    },
    /// Target: it was started here and has ended since.
    #[n(23)]
    Died,
    /// Target, post-copy: understood that the pages are gone; it is frozen for good.
    #[n(24)]
    Lost,
    /// Target: will not take this offer now (policy, space, busy). Nothing is journalled, a repeated offer may fare better: so this
    /// counts only while the offer is open. Taken for [`Self::Discarded`] later, it could end the last copy.
    #[n(25)]
    Refused {
        /// Why.
        #[n(0)]
        reason: String,
    },
}

impl Message {
    /// The answer to a message about a move of which this host's journal of the workload knows nothing. Only a host that has
    /// that journal may answer: one that lost its disk must not make the other side discard the last copy.
    #[must_use]
    pub fn answer_to_stranger(&self) -> Option<Self> {
        let reason = || "This move is not known here".to_owned();
        let body = match self.body {
            Body::Reserved | Body::Prepared { .. } | Body::Unable { .. } => Body::Abort { reason: reason() },
            Body::Running | Body::Complete { .. } | Body::Died | Body::Lost => Body::Acknowledge,
            Body::State { .. } | Body::Ask => Body::Discarded { reason: reason() },
            // The offer came while nobody listened for one: the node restarted in between.
            Body::Offer { .. } => {
                Body::Refused { reason: "The target's node restarted before it had reserved".into() }
            }
            _ => return None,
        };
        Some(Self { key: self.key, body })
    }
}
