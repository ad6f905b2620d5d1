//! The machines of a checkpoint and a restore, step by step: what they write before what they do, and where each failure leads.

use super::world::{ID, name};
use ferry_model::handover::{
    Answer, Cas, Effect, Entry, Input, Key, Machine, Outcome, Parties, Receipt, Record, Restore, Standing,
    Suspend,
};
use ferry_model::ids::{BootId, Epoch, Hash, MoveId};

const KEY: Key = Key { id: ID, epoch: Epoch(4), mv: MoveId([7; 16]) };
const IMAGE: Hash = Hash([9; 32]);
const BOOT: BootId = BootId([0; 16]);

fn parties(peer: usize) -> Parties {
    Parties { me: name(0), peer: name(peer), boot_id: BOOT }
}

fn steps(effects: &[Effect]) -> Vec<&'static str> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::Journal(Entry::Step { step, .. }) => step.name(),
            Effect::Journal(Entry::Record(_)) => "record",
            Effect::Cas(_) => "ask",
            Effect::Freeze => "freeze",
            Effect::Thaw => "thaw",
            Effect::Destroy => "destroy",
            Effect::Check => "check",
            _ => "other",
        })
        .collect()
}

fn journalled(effects: &[Effect]) -> Vec<Entry> {
    let entry = |effect: &Effect| match effect {
        Effect::Journal(entry) => Some(entry.clone()),
        _ => None,
    };
    effects.iter().filter_map(entry).collect()
}

fn asked(effects: &[Effect]) -> Cas {
    let cas = |effect: &Effect| match effect {
        Effect::Cas(cas) => Some(cas.clone()),
        _ => None,
    };
    effects.iter().find_map(cas).expect("the decider is asked")
}

fn sent() -> Input {
    Input::Sent(Receipt { hash: IMAGE, missing_pages: 0, missing: None })
}

fn won(cas: &Cas) -> Input {
    Input::Decider(Answer::Won(cas.new.clone()))
}

#[test]
fn a_checkpoint_destroys_its_copy_only_when_it_is_suspended() {
    let (mut suspend, begun) = Suspend::begin(KEY, parties(0), "/image", None);
    assert_eq!(steps(&begun), ["CHECKPOINTING", "freeze"]);
    assert!(suspend.can_cancel());
    let asks = suspend.on(sent());
    assert_eq!(steps(&asks), ["SUSPENDING", "ask"]);
    let cas = asked(&asks);
    assert_eq!(
        (cas.epoch, cas.new.epoch, cas.new.standing),
        (Epoch(4), Epoch(5), Standing::Suspended(IMAGE))
    );
    assert!(!suspend.can_cancel());
    assert_eq!(suspend.on(Input::Cancel("late".into())), []);
    assert_eq!(suspend.on(Input::Decider(Answer::Unknown)), []);
    assert!(suspend.in_doubt());
    assert_eq!(steps(&suspend.on(Input::Tick)), ["ask"]);
    assert_eq!(steps(&suspend.on(won(&cas))), ["record", "destroy"]);
    assert_eq!(steps(&suspend.on(Input::Destroyed)), ["DONE"]);
    assert_eq!(suspend.outcome(), Some(Outcome::Suspended));
}

#[test]
fn a_checkpoint_that_fails_lets_it_run_on_and_one_whose_host_restarted_does_not_wait_for_it() {
    let (mut suspend, begun) = Suspend::begin(KEY, parties(0), "/image", None);
    let back = suspend.on(Input::Cancel("disk full".into()));
    assert_eq!(steps(&back), ["ABORTED", "thaw"]);
    let journal = [journalled(&begun), journalled(&back)].concat();
    assert_eq!(steps(&suspend.on(Input::Thawed)), ["DONE"]);
    assert_eq!(suspend.outcome(), Some(Outcome::Aborted));

    let recover = |entries: &[Entry], copy| Suspend::recover(entries, KEY, &name(0), BOOT, copy).unwrap();
    // A node that died while it wrote, with the copy frozen; and one that died before the thaw.
    assert_eq!(steps(&recover(&journal[..1], true).1), ["ABORTED", "thaw"]);
    assert_eq!(steps(&recover(&journal, true).1), ["thaw"]);
    for entries in [&journal[..1], &journal[..]] {
        let (suspend, effects) = recover(entries, false);
        assert_eq!((steps(&effects), suspend.outcome()), (vec!["DIED"], Some(Outcome::Died)));
    }
}

#[test]
fn a_whole_image_is_suspended_although_the_frozen_copy_is_gone() {
    let (mut suspend, begun) = Suspend::begin(KEY, parties(0), "/image", None);
    let journal = [journalled(&begun), journalled(&suspend.on(sent()))].concat();
    let (mut suspend, effects) = Suspend::recover(&journal, KEY, &name(0), BootId([1; 16]), false).unwrap();
    assert_eq!(steps(&effects), ["ask"]);
    assert_eq!(steps(&suspend.on(won(&asked(&effects)))), ["record", "destroy"]);
}

#[test]
fn a_restore_starts_what_it_has_won_and_nothing_else() {
    let (mut restore, begun) = Restore::take(KEY, parties(1), IMAGE);
    assert_eq!(steps(&begun), ["TAKING", "ask"]);
    let cas = asked(&begun);
    assert_eq!((&cas.owner, cas.epoch, cas.new.hash), (&name(1), Epoch(4), Some(IMAGE)));
    assert_eq!(restore.on(Input::Decider(Answer::Unknown)), []);
    assert!(restore.in_doubt() && !restore.can_cancel());
    assert_eq!(steps(&restore.on(won(&cas))), ["record", "check"]);
    assert_eq!(steps(&restore.on(Input::Ready)), ["STARTING", "thaw"]);
    assert_eq!(steps(&restore.on(Input::Thawed)), ["RUNNING", "DONE"]);
    assert_eq!(restore.outcome(), Some(Outcome::Moved));

    let (mut second, _) = Restore::take(KEY, parties(1), IMAGE);
    let other = Record { mv: Some(MoveId([8; 16])), ..cas.new };
    assert_eq!(steps(&second.on(Input::Decider(Answer::Is(other)))), ["DISCARDED", "destroy"]);
    assert_eq!(steps(&second.on(Input::Destroyed)), ["DONE"]);
    assert_eq!(second.outcome(), Some(Outcome::Aborted));
}

#[test]
fn a_restore_that_cannot_start_puts_it_back_and_a_restarted_one_asks_whom_it_had_asked() {
    let (mut restore, begun) = Restore::take(KEY, parties(1), IMAGE);
    let (recovered, effects) = Restore::recover(&journalled(&begun), KEY, &parties(0), true).unwrap();
    assert_eq!((asked(&effects).owner, recovered.in_doubt()), (name(1), true));

    restore.on(won(&asked(&begun)));
    let back = restore.on(Input::NotReady("killed".into()));
    assert_eq!(steps(&back), ["PUTTING-BACK", "ask"]);
    let cas = asked(&back);
    assert_eq!((cas.new.epoch, cas.new.standing), (Epoch(6), Standing::Suspended(IMAGE)));
    assert_eq!(steps(&restore.on(won(&cas))), ["record", "DISCARDED", "destroy"]);
}

#[test]
fn a_clone_is_written_down_before_it_runs_and_asks_nobody() {
    let key = Key { epoch: Epoch(0), ..KEY };
    let (mut clone, begun) = Restore::clone_of(key, parties(0), IMAGE);
    assert_eq!(steps(&begun), ["check"]);
    let effects = clone.on(Input::Ready);
    assert_eq!(steps(&effects), ["record", "STARTING", "thaw"]);
    let journal = journalled(&effects);
    let Some(Entry::Record(record)) = journal.first() else { panic!("{journal:?}") };
    assert_eq!((record.epoch, record.standing), (Epoch(1), Standing::Running));
    let (_, again) = Restore::recover(&journal, key, &parties(0), true).unwrap();
    assert_eq!(steps(&again), ["thaw"]);

    let (mut clone, _) = Restore::clone_of(key, parties(0), IMAGE);
    assert_eq!(steps(&clone.on(Input::NotReady("killed".into()))), ["DISCARDED", "destroy"]);
}
