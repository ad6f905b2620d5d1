//! What the journal holds. Together with the decider's answers it is all that a restarted node knows.

use super::{Key, Receipt, Record, Terms};
use crate::ids::{BootId, Hash, HostName};
use minicbor::{Decode, Encode};

/// One entry of a workload's journal on one host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Entry {
    /// The record as this host knows it. With the embedded registry the owner's last one *is* the decider's.
    #[n(0)]
    Record(#[n(0)] Record),
    /// A step of a move, a checkpoint or a restore.
    #[n(1)]
    Step {
        /// Of which one.
        #[n(0)]
        key: Key,
        /// This host's boot at that time.
        #[n(1)]
        boot_id: BootId,
        /// What.
        #[n(2)]
        step: Step,
    },
}

/// A step. Names are those of `docs/handover.md`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Step {
    /// Source: offered to a host. It runs.
    #[n(0)]
    Offered {
        /// The target.
        #[n(0)]
        to: HostName,
        /// What was offered.
        #[n(1)]
        terms: Terms,
    },
    /// Source: frozen and captured.
    #[n(1)]
    Frozen,
    /// Source: from here no cancel and no thaw of its own.
    #[n(2)]
    Deciding {
        /// What the target proved to hold.
        #[n(0)]
        receipt: Receipt,
        /// The target's boot.
        #[n(1)]
        target_boot_id: BootId,
    },
    /// Source: the decider gave it to the target.
    #[n(3)]
    Committed {
        /// The record.
        #[n(0)]
        record: Record,
    },
    /// Source: never to be committed. It may run here.
    #[n(4)]
    Aborted {
        /// Why.
        #[n(0)]
        reason: String,
    },
    /// Target: reserved for a host.
    #[n(16)]
    Reserved {
        /// The source.
        #[n(0)]
        from: HostName,
        /// What was offered.
        #[n(1)]
        terms: Terms,
    },
    /// Target: whole and frozen. Discarded from here only on the source's or the decider's word.
    #[n(17)]
    Prepared {
        /// What was restored.
        #[n(0)]
        receipt: Receipt,
    },
    /// Target: it may run here from now on; never handed back.
    #[n(18)]
    Starting,
    /// Target: it runs.
    #[n(19)]
    Running,
    /// Target, post-copy: every page is in.
    #[n(20)]
    Complete {
        /// Hash of all of them.
        #[n(0)]
        hash: Hash,
    },
    /// Target: being thrown away.
    #[n(21)]
    Discarded {
        /// Why.
        #[n(0)]
        reason: String,
    },
    /// Target: won, cannot start, and will never start: it is being given back.
    #[n(22)]
    HandingBack {
        /// Why.
        #[n(0)]
        reason: String,
    },
    /// Target: given back.
    #[n(23)]
    HandedBack,
    /// Target: was started, has ended.
    #[n(24)]
    Died,
    /// Checkpoint that ends its workload: the image is on disk; the decider is being asked.
    #[n(32)]
    Suspending {
        /// Hash of the image's manifest.
        #[n(0)]
        image: Hash,
    },
    /// Checkpoint that ends its workload: it began. It runs.
    #[n(33)]
    Checkpointing {
        /// Directory of the image on this host.
        #[n(0)]
        place: Option<String>,
        /// The host that the image is for, when a warm move makes it; then it is taken back here if it does not get there.
        #[n(1)]
        to: Option<HostName>,
    },
    /// Restore: verified, whole and frozen; the decider is being asked for it.
    #[n(34)]
    Taking {
        /// Hash of the image's manifest.
        #[n(0)]
        image: Hash,
        /// The host that owns the suspended workload, and is asked.
        #[n(1)]
        from: Option<HostName>,
    },
    /// Restore: won, cannot start, being put back to suspended.
    #[n(35)]
    PuttingBack {
        /// Hash of the image's manifest.
        #[n(0)]
        image: Hash,
    },
    /// Either side: no whole copy is left anywhere that this host can reach.
    #[n(48)]
    Lost,
    /// Either side: nothing is left to do for this move here.
    #[n(49)]
    Done,
}

impl Step {
    /// The step's name, as `docs/handover.md`, `ferry recover` and `ferry doctor` print it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Offered { .. } => "OFFERED",
            Self::Frozen => "FROZEN",
            Self::Deciding { .. } => "DECIDING",
            Self::Committed { .. } => "COMMITTED",
            Self::Aborted { .. } => "ABORTED",
            Self::Reserved { .. } => "RESERVED",
            Self::Prepared { .. } => "PREPARED",
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Complete { .. } => "COMPLETE",
            Self::Discarded { .. } => "DISCARDED",
            Self::HandingBack { .. } => "HANDING-BACK",
            Self::HandedBack => "HANDED-BACK",
            Self::Died => "DIED",
            Self::Checkpointing { .. } => "CHECKPOINTING",
            Self::Suspending { .. } => "SUSPENDING",
            Self::Taking { .. } => "TAKING",
            Self::PuttingBack { .. } => "PUTTING-BACK",
            Self::Lost => "LOST",
            Self::Done => "DONE",
        }
    }
}

/// The key of the move, checkpoint or restore that the journal spoke of last.
#[must_use]
pub fn last_key(entries: &[Entry]) -> Option<Key> {
    entries.iter().rev().find_map(|entry| match entry {
        Entry::Step { key, .. } => Some(*key),
        Entry::Record(_) => None,
    })
}

/// The record with the highest epoch: what this host knows of who owns the workload.
#[must_use]
pub fn last_record(entries: &[Entry]) -> Option<&Record> {
    let records = entries.iter().filter_map(|entry| match entry {
        Entry::Record(record) => Some(record),
        Entry::Step { .. } => None,
    });
    records.max_by_key(|record| record.epoch)
}

/// Where the checkpoint of `key` writes its image, and the host that it is for, if a warm move makes it.
#[must_use]
pub fn checkpoint_of(entries: &[Entry], key: Key) -> Option<(&str, Option<&HostName>)> {
    steps_of(entries, key).find_map(|(_, step)| match step {
        Step::Checkpointing { place, to } => Some((place.as_deref().unwrap_or_default(), to.as_ref())),
        _ => None,
    })
}

/// The steps of one key, oldest first, each with the boot in which it was taken.
pub(super) fn steps_of(entries: &[Entry], wanted: Key) -> impl Iterator<Item = (BootId, &Step)> {
    entries.iter().filter_map(move |entry| match entry {
        Entry::Step { key, boot_id, step } if *key == wanted => Some((*boot_id, step)),
        _ => None,
    })
}
