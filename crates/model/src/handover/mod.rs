//! The handover: how a workload changes hands without ever running twice and without ever being lost.
//!
//! Two machines, [`Source`] and [`Target`], and a decider ([`decider`]) that compares and swaps one record per
//! workload. None of them does I/O: each takes an [`Input`] and returns the [`Effect`]s to carry out, in order, each
//! finished before the next begins. What is in the journal is enough to rebuild a machine after a crash
//! (`recover`). Production, the fault tests and the model checker run this code and no other.
//!
//! Three rules carry the whole proof. (1) A journal entry is on disk before the effect after it happens. (2) The source
//! never thaws after DECIDING unless the decider says that it owns the workload again, under a higher epoch. (3) The
//! target never thaws before STARTING is on disk, and writes STARTING only as the owner.

pub mod advice;
pub mod decider;
pub mod entry;
pub mod message;
pub mod restore;
pub mod source;
pub mod suspend;
pub mod target;

pub use decider::{Answer, By, Cas, Record, Registry, Standing};
pub use entry::{Entry, Step};
pub use message::{Body, Message};
pub use restore::Restore;
pub use source::Source;
pub use suspend::Suspend;
pub use target::Target;

use crate::ids::{BootId, Epoch, Hash, HostName, MoveId, WorkloadId};
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// What every message and every journal entry carries. One that does not match is refused.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
pub struct Key {
    /// The workload. For a clone: the new one.
    #[n(0)]
    pub id: WorkloadId,
    /// Its epoch when the move began. The target will own it under the next one. For a clone: 0.
    #[n(1)]
    pub epoch: Epoch,
    /// The move.
    #[n(2)]
    #[serde(rename = "move")]
    pub mv: MoveId,
}

/// What a move is for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// The workload goes on at the target and ends at the source.
    #[n(0)]
    Migrate,
    /// A new workload begins at the target; the original goes on. Nothing changes hands, so nothing is decided.
    #[n(1)]
    Clone,
}

/// What both sides agreed on at the offer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
pub struct Terms {
    /// What the move is for.
    #[n(0)]
    pub purpose: Purpose,
    /// True: pages may follow after the resume, and the source serves them until all are in.
    #[n(1)]
    pub post_copy: bool,
    /// Hash of the plan.
    #[n(2)]
    pub plan: Hash,
    /// The source's boot at the offer: what a hand-back writes into the record.
    #[n(3)]
    pub source_boot_id: BootId,
}

/// What the target proves to hold: sent by the source as what was captured, returned by the target as what was restored.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
pub struct Receipt {
    /// Hash of the whole state, pages that came over included.
    #[n(0)]
    pub hash: Hash,
    /// Number of pages that will follow after the resume. 0 unless post-copy.
    #[n(1)]
    pub missing_pages: u64,
    /// Hash of the set of those pages, agreed by both sides.
    #[n(2)]
    pub missing: Option<Hash>,
}

/// Who runs a machine, and against whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parties {
    /// This host.
    pub me: HostName,
    /// The other side of the move.
    pub peer: HostName,
    /// This host's boot, now.
    pub boot_id: BootId,
}

/// What happened, told to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The other side says something.
    Message(Message),
    /// Some time passed: send again, ask again.
    Tick,
    /// Give up, if that is still allowed: a person, a time-out, a failed step, a broken link. Carries the reason.
    Cancel(String),
    /// Source: the rounds are over, freeze.
    FreezeNow,
    /// Source: the workload is frozen and captured (answers [`Effect::Freeze`]).
    Captured,
    /// Source: everything was sent, and this is what the target must be able to prove. Checkpoint: the image is on disk.
    Sent(Receipt),
    /// Target: whole, in a frozen cgroup, no ptrace left on it (answers [`Effect::Restore`]).
    Restored(Receipt),
    /// The copy is there (answers [`Effect::Look`]) and can start (answers [`Effect::Check`]).
    Ready,
    /// Target: it cannot start, for this reason (answers [`Effect::Check`]).
    NotReady(String),
    /// It runs (answers [`Effect::Thaw`]).
    Thawed,
    /// It is gone, with everything that was made for it (answers [`Effect::Destroy`]).
    Destroyed,
    /// This host's copy no longer exists: it ended, was killed, or the host restarted.
    CopyGone,
    /// The decider's answer (to [`Effect::Cas`] and [`Effect::Read`]).
    Decider(Answer),
    /// Post-copy: the link to the source of the pages is there, or is not.
    Link(bool),
    /// Post-copy, target: every page is in, with this hash of all of them.
    PagesIn(Hash),
    /// Post-copy, target: a person says that the source's host will never come back.
    SourceLost,
    /// Source in doubt: a person wants the workload back here. Goes through the decider, so it may be refused.
    Fence,
}

/// What the driver has to do, in order, each done before the next. A journal that cannot be written drops the rest: the
/// machine is then rebuilt from the journal, as after a crash. Any other effect that fails is asked again at a later
/// [`Input::Tick`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Append and sync to disk.
    Journal(Entry),
    /// Send to the other side. May be lost, doubled or late.
    Send(Message),
    /// Source: freeze the cgroup, lock the network, capture. Answered by [`Input::Captured`] or [`Input::Cancel`].
    Freeze,
    /// Network up (at a target: announced), cgroup thawed. May be asked again. Answered by [`Input::Thawed`].
    Thaw,
    /// Destroy this host's copy and everything made for it. May be asked again. Answered by [`Input::Destroyed`].
    Destroy,
    /// Target: finish restoring. Answered by [`Input::Restored`] or [`Input::Cancel`].
    Restore,
    /// Target: is the copy there and can it start? Changes nothing. Answered by [`Input::Ready`] or [`Input::NotReady`].
    Check,
    /// Source: does the frozen copy still exist? Changes nothing. Answered by [`Input::Ready`] or [`Input::CopyGone`].
    Look,
    /// Post-copy, source: serve pages of the frozen copy to this target for this move only. May be asked again.
    Serve,
    /// Post-copy, target: pages will never come. Freeze the workload and keep it so. May be asked again.
    Hold,
    /// Ask the decider to compare and swap. Answered by [`Input::Decider`].
    Cas(Cas),
    /// Ask the decider for the record. Answered by [`Input::Decider`].
    Read,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It runs at the target (or, for a clone, there too; for a restore, here).
    Moved,
    /// It runs at the source, as if nothing had been asked. For a restore or a target: nothing is left here.
    Aborted,
    /// The target won and could not start: it runs at the source again.
    HandedBack,
    /// It ended together with the host that ran it, or by itself, after the target had begun to start it.
    Died,
    /// Every complete copy was in the memory of hosts that restarted or are gone. Named by the plan before the move.
    Lost,
    /// It is an image now, and nothing runs.
    Suspended,
}

/// A machine that [`Input`]s drive. What [`Source`], [`Target`], [`Suspend`] and [`Restore`] have in common.
pub trait Machine {
    /// Takes what happened, returns what to do, in order.
    fn on(&mut self, input: Input) -> Vec<Effect>;
    /// What the messages and entries of this machine carry.
    fn key(&self) -> Key;
    /// How it ended, once it has. It still answers the other side's messages then.
    fn outcome(&self) -> Option<Outcome>;
    /// True while [`Input::Cancel`] is still obeyed.
    fn can_cancel(&self) -> bool;
    /// True while the outcome hangs on an answer of the decider that did not come (exit code 5).
    fn in_doubt(&self) -> bool;
    /// One word for the journal's reader: where the machine stands.
    fn stage(&self) -> &'static str;
}

/// The answer to a message about a move that has no running machine here: from the journal, if the move ended here; else as
/// [`Message::answer_to_stranger`], if the journal is one of this workload at all. `None`: nothing to say, or the journal says
/// that the move has *not* ended and a machine has to be recovered first.
#[must_use]
pub fn answer_from_journal(
    entries: &[Entry],
    me: &HostName,
    boot_id: BootId,
    message: &Message,
) -> Option<Message> {
    let input = Input::Message(message.clone());
    let said = |machine: &mut dyn Machine| {
        machine.outcome()?;
        machine.on(input.clone()).into_iter().find_map(|effect| match effect {
            Effect::Send(message) => Some(message),
            _ => None,
        })
    };
    if let Some((mut source, _)) = Source::recover(entries, message.key, me, boot_id, false) {
        return said(&mut source);
    }
    if let Some((mut target, _)) = Target::recover(entries, message.key, me, boot_id, false) {
        return said(&mut target);
    }
    if let Some(body) = restore::told(entries, message) {
        return body.map(|body| Message { key: message.key, body });
    }
    let known = entry::last_record(entries).is_some_and(|record| record.id == message.key.id);
    let is_offer = matches!(message.body, Body::Offer { .. });
    if known || is_offer { message.answer_to_stranger() } else { None }
}

/// The record after `key`'s move was won by `owner`.
fn won_by(key: Key, owner: &HostName, boot_id: BootId, hash: Hash) -> Record {
    Record {
        id: key.id,
        epoch: key.epoch.next(),
        owner: owner.clone(),
        boot_id,
        standing: Standing::Running,
        mv: Some(key.mv),
        hash: Some(hash),
    }
}

/// The epoch after the one that a move makes: the hand-back's.
fn after_next(epoch: Epoch) -> Epoch {
    epoch.next().next()
}
