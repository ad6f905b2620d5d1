//! The decider: one record per workload, changed only by compare-and-swap.
//!
//! With the embedded registry the record is in the current owner's own journal; in a fleet it is in etcd. The rule is
//! [`apply`], the same for both: a change names the owner and the epoch that it expects, and every change makes the
//! epoch grow, so a request that comes late or twice finds another epoch and does nothing.

use crate::ids::{BootId, Epoch, Hash, HostName, MoveId, WorkloadId};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Who owns a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
pub struct Record {
    /// The workload.
    #[n(0)]
    pub id: WorkloadId,
    /// Grows with every change.
    #[n(1)]
    pub epoch: Epoch,
    /// The only host that may run it.
    #[n(2)]
    pub owner: HostName,
    /// The owner's boot when it became the owner.
    #[n(3)]
    pub boot_id: BootId,
    /// Whether it runs or is an image.
    #[n(4)]
    #[serde(rename = "state")]
    pub standing: Standing,
    /// The move that made this record, if one did.
    #[n(5)]
    #[serde(rename = "move")]
    pub mv: Option<MoveId>,
    /// Hash of the state that the owner had proved to hold.
    #[n(6)]
    pub hash: Option<Hash>,
}

/// What a workload is, to the registry.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Its owner runs it, or may.
    #[n(0)]
    Running,
    /// It is an image with this hash; nobody runs it until a restore takes it back.
    #[n(1)]
    Suspended(#[n(0)] Hash),
    /// It ended.
    #[n(2)]
    Ended,
}

/// A change: only if owner and epoch are still these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Cas {
    /// The owner expected.
    #[n(0)]
    pub owner: HostName,
    /// The epoch expected.
    #[n(1)]
    pub epoch: Epoch,
    /// The record to write.
    #[n(2)]
    pub new: Record,
}

/// What the decider said.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub enum Answer {
    /// Swapped; this is the record now.
    #[n(0)]
    Won(#[n(0)] Record),
    /// Read, or not swapped because the record is this.
    #[n(1)]
    Is(#[n(0)] Record),
    /// Not swapped, against the registry's rules. The record is unchanged.
    #[n(2)]
    Refused(#[n(0)] Refusal),
    /// No answer, or nobody knows the workload. The change may have happened, may happen later, or never.
    #[n(3)]
    Unknown,
}

/// Why a change is against the rules.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Encode,
    Decode,
    Serialize,
    Deserialize,
    thiserror::Error,
)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Only the owner gives a running workload away.
    #[error("Only the owner may give a workload away")]
    #[n(0)]
    NotOwner,
    /// A new owner needs a PREPARED receipt.
    #[error("The new owner holds no receipt of a prepared copy")]
    #[n(1)]
    NoReceipt,
    /// The next epoch is the one after the expected one.
    #[error("The new epoch does not follow the old one")]
    #[n(2)]
    WrongEpoch,
    /// Another workload.
    #[error("The change is of another workload")]
    #[n(3)]
    WrongWorkload,
    /// A suspended workload is taken back only with its image.
    #[error("The workload is suspended to another image")]
    #[n(4)]
    WrongImage,
}

/// Who asks for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// A host, known by its certificate.
    Host(HostName),
    /// An operator, known by their certificate. May do what a lost owner can no longer do.
    Operator,
}

/// The rule of every registry. `Ok`: write this record. `Err`: leave it, and answer so.
///
/// # Errors
/// [`Answer::Is`] when owner or epoch are not the expected ones, [`Answer::Refused`] when the change is against the rules.
#[expect(clippy::result_large_err, reason = "both are the answer, and neither is on a hot path")]
pub fn apply(current: &Record, cas: &Cas, by: &By) -> Result<Record, Answer> {
    let new = &cas.new;
    if new.id != current.id {
        return Err(Answer::Refused(Refusal::WrongWorkload));
    }
    if (&current.owner, current.epoch) != (&cas.owner, cas.epoch) {
        return Err(Answer::Is(current.clone()));
    }
    if new.epoch != current.epoch.next() {
        return Err(Answer::Refused(Refusal::WrongEpoch));
    }
    let by_owner = *by == By::Operator || *by == By::Host(current.owner.clone());
    match current.standing {
        // Whoever has the image may take it, once, for itself: the image is what proves it.
        Standing::Suspended(image) => {
            let for_itself = *by == By::Host(new.owner.clone());
            if !by_owner && !for_itself {
                return Err(Answer::Refused(Refusal::NotOwner));
            }
            if new.standing == Standing::Running && new.hash != Some(image) {
                return Err(Answer::Refused(Refusal::WrongImage));
            }
        }
        Standing::Running | Standing::Ended if !by_owner => return Err(Answer::Refused(Refusal::NotOwner)),
        Standing::Running | Standing::Ended => {}
    }
    let changes_hands = new.owner != current.owner;
    if changes_hands && (new.hash.is_none() || new.mv.is_none()) {
        return Err(Answer::Refused(Refusal::NoReceipt));
    }
    Ok(new.clone())
}

/// A registry, embedded or not. Calls may block; an answer that does not come in time is [`Answer::Unknown`].
pub trait Registry {
    /// The record of `id`.
    fn read(&self, id: WorkloadId) -> Answer;
    /// The record as `owner` knows it (the owner under some epoch), or whoever it gave the workload to. What a target asks, which has
    /// no record of its own and must believe only the source. A registry that is one service answers as [`Self::read`].
    fn read_from(&self, owner: &HostName, id: WorkloadId) -> Answer;
    /// Compares and swaps.
    fn cas(&self, cas: &Cas) -> Answer;
}
