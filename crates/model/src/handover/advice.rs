//! What `ferry recover` and `ferry doctor` say: the journals of both sides and the decider's answer, in words for a person, with
//! the actions that cannot make a second copy run.
//!
//! Nothing here decides anything. Every action offered goes through a machine and the decider, which may still refuse it.

use super::entry::{Entry, Step, last_key, steps_of};
use super::{Answer, Key, Record, Standing};
use crate::ids::{HostName, WorkloadId};
use serde::{Deserialize, Serialize};

/// What is known of one host.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Which.
    pub host: &'a HostName,
    /// Its journal of the workload; `None`: the host does not answer.
    pub journal: Option<&'a [Entry]>,
    /// Whether a copy, running or frozen, is there; `None`: not known.
    pub copy: Option<bool>,
}

/// Words and offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// True: nothing is under way, in doubt or left over.
    pub settled: bool,
    /// Sentences, the most important first.
    pub words: Vec<String>,
    /// What can be done, each safe. Empty with `settled` false: it ends by itself, or only what failed can end it.
    pub actions: Vec<Action>,
}

/// Something that a person may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// Start the node on this host again, or connect it: the move goes on or ends by itself.
    BringBack {
        /// Which.
        host: HostName,
    },
    /// Ask the decider to leave the workload at the source (`Input::Fence`). Refused if the target has won already.
    TakeBack {
        /// The source.
        host: HostName,
    },
    /// The source's copy is gone, and this host's journal says that it holds a whole one: have the source ask the decider for it now
    /// (`Input::Tick`).
    CommitTo {
        /// The target.
        host: HostName,
    },
    /// Post-copy: say that the source's host will never come back (`Input::SourceLost`). The workload stays frozen for good.
    GiveUpPages {
        /// The target.
        host: HostName,
    },
    /// Remove what is left of a move that is over (`ferry doctor --clean`).
    Clean {
        /// Where.
        host: HostName,
    },
    /// Restore the image that the workload is.
    Restore,
}

/// Where a side stands in its last move.
struct At<'a> {
    side: Side<'a>,
    key: Key,
    step: &'a Step,
}

fn at<'a>(side: &Side<'a>) -> Option<At<'a>> {
    let journal = side.journal?;
    let key = last_key(journal)?;
    let (_, step) = steps_of(journal, key).last()?;
    Some(At { side: *side, key, step })
}

/// Says how the workload stands and what can safely be done.
#[must_use]
pub fn advise(id: WorkloadId, sides: &[Side<'_>], decider: &Answer) -> Advice {
    let mut advice = Advice { settled: true, words: Vec::new(), actions: Vec::new() };
    let record = match decider {
        Answer::Won(record) | Answer::Is(record) if record.id == id => Some(record),
        _ => None,
    };
    advice.words.push(owner(record));
    for side in sides {
        match (side.journal, at(side)) {
            (None, _) => {
                advice.settled = false;
                advice
                    .words
                    .push(format!("{} does not answer; what its journal says is not known.", side.host));
                advice.actions.push(Action::BringBack { host: side.host.clone() });
            }
            (Some(_), None) => {}
            (Some(_), Some(at)) => describe(&mut advice, &at, sides, record),
        }
    }
    if record.is_none() {
        advice.settled = false;
    }
    if let Some(Record { standing: Standing::Suspended(_), .. }) = record {
        advice.actions.push(Action::Restore);
    }
    advice.actions.dedup();
    advice
}

fn owner(record: Option<&Record>) -> String {
    let Some(record) = record else {
        return "The decider does not answer, or knows nothing of this workload.".into();
    };
    let Record { owner, epoch, .. } = record;
    match record.standing {
        Standing::Running => format!("It belongs to {owner} (epoch {}); only there may it run.", epoch.0),
        Standing::Suspended(image) => {
            format!(
                "It is suspended (epoch {}): the image with hash {image} is the workload, and nothing runs.",
                epoch.0
            )
        }
        Standing::Ended => format!("It has ended on {owner}."),
    }
}

/// One side's last step, what follows from it, and what may be done.
fn describe(advice: &mut Advice, at: &At<'_>, sides: &[Side<'_>], record: Option<&Record>) {
    let At { side, key, step } = at;
    let host = side.host;
    let decided = record.is_some_and(|record| record.epoch > key.epoch);
    let (over, meaning): (bool, String) = match step {
        Step::Done => return leftovers(advice, side, record),
        Step::Offered { to, .. } => {
            (false, format!("a move to {to} began; nothing is decided, it runs here, and ends as not moved if the node restarts"))
        }
        Step::Frozen if side.copy == Some(false) => {
            let whole = |other: &Side<'_>| other.copy != Some(false) && is_prepared(other, *key);
            if let Some(other) = sides.iter().find(|other| other.host != host && whole(other)) {
                advice.actions.push(Action::CommitTo { host: other.host.clone() });
            }
            (false, "it was frozen for a move and the frozen copy is gone; only the target can still have a whole one".into())
        }
        Step::Frozen => (false, "it is frozen for a move that is not decided; any failure thaws it here".into()),
        Step::Deciding { .. } if decided => (false, "the decider was asked and has decided; this host will obey".into()),
        Step::Deciding { .. } => {
            if side.copy != Some(false) {
                advice.actions.push(Action::TakeBack { host: host.clone() });
            }
            (false, "IN DOUBT: the decider was asked and its answer is missing. Both copies stay frozen until it answers".into())
        }
        Step::Committed { record } => {
            (false, format!("{} has won; the copy here stays frozen until it is known to run there", record.owner))
        }
        Step::Aborted { reason } => (false, format!("the move was given up ({reason}); it runs here")),
        Step::Reserved { from, .. } => (false, format!("a place is kept for it, coming from {from}; nothing runs here")),
        Step::Prepared { .. } if decided => {
            (false, "a whole frozen copy is here and the decider has decided; this host will obey".into())
        }
        Step::Prepared { .. } => {
            (false, "a whole frozen copy is here; it starts or goes only on the source's or the decider's word, never on a time-out".into())
        }
        Step::Starting => (false, "it is being started here and will never be handed back".into()),
        Step::Running if is_post_copy(at) => {
            if sides.iter().any(|other| other.host != host && other.journal.is_none()) {
                advice.actions.push(Action::GiveUpPages { host: host.clone() });
            }
            (false, "it runs here while pages are still at the source; tasks that touch one wait for it".into())
        }
        Step::Running => (false, "it runs here; the source has not yet confirmed that its copy is destroyed".into()),
        Step::Complete { .. } => (false, "every page is in; the source has not yet confirmed".into()),
        Step::Discarded { reason } => (false, format!("what was prepared is being thrown away ({reason})")),
        Step::HandingBack { reason } => (false, format!("it could not be started ({reason}) and is being handed back")),
        Step::HandedBack => (false, "it could not be started and was handed back".into()),
        Step::Died => (true, "it was started here and has ended, like any program, with its host or by itself".into()),
        Step::Checkpointing { .. } => (false, "a checkpoint is being written; it runs here, or will as soon as that fails".into()),
        Step::Suspending { .. } if decided => (false, "its image is on disk and the decider has decided".into()),
        Step::Suspending { .. } => {
            (false, "IN DOUBT: its image is on disk; whether it is suspended hangs on the decider's answer. It stays frozen".into())
        }
        Step::Taking { .. } => (false, "a restore waits for the decider; the copy stays frozen".into()),
        Step::PuttingBack { .. } => (false, "a restore could not start it; it is being put back to suspended".into()),
        Step::Lost => (true, "LOST: no whole copy is left; the only ones were in the memory of hosts that restarted or are gone".into()),
    };
    advice.settled &= over;
    advice.words.push(format!("{host}: {} (move {}): {meaning}.", step.name(), key.mv));
}

/// Whether the last that a side has written of this move is that it holds a whole copy, with no page left at the source.
fn is_prepared(side: &Side<'_>, key: Key) -> bool {
    let last = side.journal.and_then(|journal| steps_of(journal, key).last());
    matches!(last, Some((_, Step::Prepared { receipt })) if receipt.missing_pages == 0)
}

/// Whether pages were left at the source.
fn is_post_copy(at: &At<'_>) -> bool {
    let steps = at.side.journal.map(|journal| steps_of(journal, at.key));
    let mut steps = steps.into_iter().flatten();
    steps.any(|(_, step)| matches!(step, Step::Prepared { receipt } if receipt.missing_pages > 0))
}

/// A side on which every move is over: what is there should be what the decider says.
fn leftovers(advice: &mut Advice, side: &Side<'_>, record: Option<&Record>) {
    let Some(record) = record else { return };
    let host = side.host;
    let runs_here = record.owner == *host && record.standing == Standing::Running;
    match (runs_here, side.copy) {
        (true, Some(true)) => advice.words.push(format!("{host}: it is there; no move is unfinished.")),
        (true, Some(false)) => {
            advice.words.push(format!("{host}: it has ended there; no move is unfinished."))
        }
        (false, Some(true)) => {
            advice.settled = false;
            advice.words.push(format!("{host}: a copy is left over that may never run; it can be removed."));
            advice.actions.push(Action::Clean { host: host.clone() });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Purpose, Receipt, Terms};
    use super::*;
    use crate::ids::{BootId, Epoch, Hash, MoveId};

    const ID: WorkloadId = WorkloadId([1; 16]);
    const KEY: Key = Key { id: ID, epoch: Epoch(4), mv: MoveId([2; 16]) };

    fn name(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    fn step(step: Step) -> Entry {
        Entry::Step { key: KEY, boot_id: BootId([3; 16]), step }
    }

    fn terms(post_copy: bool) -> Terms {
        Terms { purpose: Purpose::Migrate, post_copy, plan: Hash([0; 32]), source_boot_id: BootId([3; 16]) }
    }

    fn receipt() -> Receipt {
        Receipt { hash: Hash([5; 32]), missing_pages: 0, missing: None }
    }

    fn record(epoch: u64, owner: &str, standing: Standing) -> Answer {
        let (owner, boot_id) = (name(owner), BootId([3; 16]));
        Answer::Is(Record { id: ID, epoch: Epoch(epoch), owner, boot_id, standing, mv: None, hash: None })
    }

    fn two<'a>(
        s: &'a HostName,
        t: &'a HostName,
        source: Option<&'a [Entry]>,
        target: Option<&'a [Entry]>,
    ) -> [Side<'a>; 2] {
        [
            Side { host: s, journal: source, copy: Some(true) },
            Side { host: t, journal: target, copy: Some(true) },
        ]
    }

    #[test]
    fn in_doubt_offers_only_the_way_through_the_decider() {
        let (s, t) = (name("s"), name("t"));
        let source = [
            step(Step::Offered { to: t.clone(), terms: terms(false) }),
            step(Step::Frozen),
            step(Step::Deciding { receipt: receipt(), target_boot_id: BootId([3; 16]) }),
        ];
        let target = [
            step(Step::Reserved { from: s.clone(), terms: terms(false) }),
            step(Step::Prepared { receipt: receipt() }),
        ];
        let advice = advise(ID, &two(&s, &t, Some(&source), Some(&target)), &Answer::Unknown);
        assert!(!advice.settled);
        assert_eq!(advice.actions, [Action::TakeBack { host: s.clone() }]);
        assert!(advice.words.iter().any(|line| line.contains("IN DOUBT")));
        assert!(advice.words.iter().any(|line| line.contains("never on a time-out")));
        // Once the target has won there is nothing to take back.
        let won = advise(ID, &two(&s, &t, Some(&source), Some(&target)), &record(5, "t", Standing::Running));
        assert_eq!(won.actions, []);
    }

    #[test]
    fn a_prepared_target_without_its_source_can_only_wait_for_it() {
        let (s, t) = (name("s"), name("t"));
        let target = [
            step(Step::Reserved { from: s.clone(), terms: terms(false) }),
            step(Step::Prepared { receipt: receipt() }),
        ];
        let advice = advise(ID, &two(&s, &t, None, Some(&target)), &Answer::Unknown);
        assert_eq!(advice.actions, [Action::BringBack { host: s }]);
    }

    #[test]
    fn a_source_that_lost_its_copy_commits_only_to_a_whole_one() {
        let (s, t) = (name("s"), name("t"));
        let source = [step(Step::Offered { to: t.clone(), terms: terms(false) }), step(Step::Frozen)];
        let mut target = vec![step(Step::Reserved { from: s.clone(), terms: terms(false) })];
        let advised = |target: &[Entry]| {
            let mut sides = two(&s, &t, Some(&source), Some(target));
            sides[0].copy = Some(false);
            advise(ID, &sides, &record(4, "s", Standing::Running)).actions
        };
        assert_eq!(advised(&target), []);
        target.push(step(Step::Prepared { receipt: receipt() }));
        assert_eq!(advised(&target), [Action::CommitTo { host: t.clone() }]);
    }

    #[test]
    fn pages_are_given_up_only_when_their_host_is_silent() {
        let (s, t) = (name("s"), name("t"));
        let target = [
            step(Step::Reserved { from: s.clone(), terms: terms(true) }),
            step(Step::Prepared { receipt: Receipt { missing_pages: 1, ..receipt() } }),
            step(Step::Starting),
            step(Step::Running),
        ];
        let source = [step(Step::Offered { to: t.clone(), terms: terms(true) }), step(Step::Frozen)];
        let owned = record(5, "t", Standing::Running);
        let silent = advise(ID, &two(&s, &t, None, Some(&target)), &owned);
        assert!(silent.actions.contains(&Action::GiveUpPages { host: t.clone() }));
        let there = advise(ID, &two(&s, &t, Some(&source), Some(&target)), &owned);
        assert!(!there.actions.contains(&Action::GiveUpPages { host: t }));
    }

    #[test]
    fn what_is_over_is_settled_and_leftovers_are_named() {
        let (s, t) = (name("s"), name("t"));
        let done = [step(Step::Done)];
        let sides = two(&s, &t, Some(&done), Some(&done));
        let advice = advise(ID, &sides, &record(5, "t", Standing::Running));
        assert_eq!(advice.actions, [Action::Clean { host: s.clone() }]);
        let clean = [Side { copy: Some(false), ..sides[0] }, sides[1]];
        let advice = advise(ID, &clean, &record(5, "t", Standing::Running));
        assert!(advice.settled);
        assert_eq!(advice.actions, []);
    }

    #[test]
    fn a_suspended_one_is_restored() {
        let s = name("s");
        let done = [step(Step::Done)];
        let sides = [Side { host: &s, journal: Some(&done), copy: Some(false) }];
        let advice = advise(ID, &sides, &record(5, "s", Standing::Suspended(Hash([7; 32]))));
        assert_eq!(advice.actions, [Action::Restore]);
    }
}
