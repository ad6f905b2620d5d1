//! Workloads that are suspended to an image and taken back, by either of two hosts, in every order of crashes, restarts and answers of
//! the decider that are lost, late or doubled.
//!
//! The machines are the production ones, [`Suspend`] and [`Restore`]. Nothing is sent between them: what crosses the network is
//! the question to the decider, and copies of the image. A version of the workload is counted at each thaw, so an image
//! that is older than the last thaw shows if it ever runs.

use ferry_model::handover::decider::apply;
use ferry_model::handover::entry::{last_key, last_record};
use ferry_model::handover::{
    Answer, By, Cas, Effect, Entry, Input, Key, Machine, Parties, Receipt, Record, Restore, Standing, Step,
    Suspend,
};
use ferry_model::ids::{BootId, Hash, MoveId};
use std::collections::BTreeSet;

use super::world::{ID, name};

mod model;

/// A rule broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// The copy runs on although the decider did not answer.
    SuspendThawsInDoubt,
    /// The copy is destroyed before the decider has suspended it.
    SuspendDestroysEarly,
    /// SUSPENDING is not on disk before the decider is asked.
    SuspendingNotJournalled,
    /// What was restored runs without the decider's word.
    RestoreStartsUnasked,
    /// STARTING is not on disk before the thaw.
    StartingNotJournalled,
    /// A restore that cannot start forgets to put it back.
    NotPutBack,
}

/// What is checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The record is in the owner's journal; else it is a service of its own.
    pub embedded: bool,
    pub left: Left,
    pub broken: Broken,
}

/// How often each may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    pub suspends: u8,
    pub restores: u8,
    pub crashes: u8,
    pub reboots: u8,
    pub kills: u8,
    pub unknowns: u8,
    pub cancels: u8,
    pub cannot_starts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copy {
    None,
    Frozen(u8),
    Runs,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Role {
    Suspend(Suspend),
    Restore(Restore),
}

impl Role {
    fn machine(&mut self) -> &mut dyn Machine {
        match self {
            Self::Suspend(machine) => machine,
            Self::Restore(machine) => machine,
        }
    }

    fn seen(&self) -> &dyn Machine {
        match self {
            Self::Suspend(machine) => machine,
            Self::Restore(machine) => machine,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Waiting {
    For(Input),
    Check,
    Cas(Cas),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    up: bool,
    boot: u8,
    journal: Vec<Entry>,
    role: Option<Role>,
    copy: Copy,
    /// Versions of which an image is on this host's disk.
    images: BTreeSet<u8>,
    waiting: Vec<Waiting>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    hosts: [Host; 2],
    registry: Record,
    /// Questions to the decider that may land at any time, any number of times, or never.
    late: BTreeSet<Cas>,
    left: Left,
    begun: u8,
    /// Counts thaws.
    latest: u8,
    /// It ended, as any program does with its host or by itself.
    gone: bool,
    broken: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Suspend(usize),
    Restore(usize, u8),
    CopyImage(usize, u8),
    Answer(usize, Fate),
    Tick(usize),
    Cancel(usize),
    Crash(usize),
    Reboot(usize),
    Kill(usize),
    Restart(usize),
    Land(Cas),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Good,
    Bad,
    Lost,
    Late,
}

/// Most effects of one input.
const CUTS: u8 = 4;
/// Rounds within which everything ends once nothing fails any more.
const ROUNDS_MAX: usize = 12;

pub struct Images(pub Config);

impl Host {
    fn boot_id(&self) -> BootId {
        BootId([self.boot; 16])
    }

    fn is_idle(&self) -> bool {
        self.role.as_ref().is_none_or(|role| role.seen().outcome().is_some())
    }

    fn parties(&self, h: usize, peer: usize) -> Parties {
        Parties { me: name(h), peer: name(peer), boot_id: self.boot_id() }
    }

    fn last_step(&self) -> Option<&Step> {
        self.journal.iter().rev().find_map(|entry| match entry {
            Entry::Step { step, .. } => Some(step),
            Entry::Record(_) => None,
        })
    }
}

fn owner_of(record: &Record) -> usize {
    usize::from(record.owner == name(1))
}

impl Images {
    fn record(&self, world: &World, h: usize) -> Option<Record> {
        if !self.0.embedded {
            return Some(world.registry.clone());
        }
        let seen = |other: &usize| *other == h || world.hosts[*other].up;
        let records = [0, 1].into_iter().filter(seen).filter_map(|h| last_record(&world.hosts[h].journal));
        records.max_by_key(|record| record.epoch).cloned()
    }

    fn swap(&self, world: &mut World, h: usize, cas: &Cas) -> Answer {
        let by = By::Host(name(h));
        if !self.0.embedded {
            return match apply(&world.registry, cas, &by) {
                Ok(record) => {
                    world.registry = record.clone();
                    Answer::Won(record)
                }
                Err(answer) => answer,
            };
        }
        let owner = usize::from(cas.owner == name(1));
        let current = last_record(&world.hosts[owner].journal).cloned();
        let Some(current) = current.filter(|_| world.hosts[owner].up) else { return Answer::Unknown };
        if current.owner != name(owner) {
            return Answer::Is(current);
        }
        match apply(&current, cas, &by) {
            Ok(record) => {
                world.hosts[owner].journal.push(Entry::Record(record.clone()));
                Answer::Won(record)
            }
            Err(answer) => answer,
        }
    }

    fn begin_suspend(&self, world: &mut World, h: usize, cut: Option<u8>) -> bool {
        let Some(record) = self.record(world, h) else { return false };
        world.left.suspends -= 1;
        world.begun += 1;
        let key = Key { id: ID, epoch: record.epoch, mv: MoveId([world.begun; 16]) };
        let (machine, effects) = Suspend::begin(key, world.hosts[h].parties(h, h), "/image", None);
        world.hosts[h].role = Some(Role::Suspend(machine));
        self.carry_out(world, h, effects, cut)
    }

    /// Verified, and the owner asked: only then it is built. A node that dies while it builds has promised nothing.
    fn begin_restore(&self, world: &mut World, h: usize, version: u8, cut: Option<u8>) -> bool {
        let Some(record) = self.record(world, h) else { return false };
        if record.standing != Standing::Suspended(Hash([version; 32])) {
            return false;
        }
        world.left.restores -= 1;
        world.begun += 1;
        let key = Key { id: ID, epoch: record.epoch, mv: MoveId([world.begun; 16]) };
        world.hosts[h].copy = Copy::Frozen(version);
        let parties = world.hosts[h].parties(h, owner_of(&record));
        let (machine, effects) = Restore::take(key, parties, Hash([version; 32]));
        world.hosts[h].role = Some(Role::Restore(machine));
        self.carry_out(world, h, effects, cut)
    }

    fn feed(&self, world: &mut World, h: usize, input: Input, cut: Option<u8>) -> bool {
        let Some(role) = &mut world.hosts[h].role else { return false };
        let before = role.clone();
        let effects = role.machine().on(input.clone());
        let effects = self.bend(&before, &input, effects);
        if effects.is_empty() && cut.is_none() && Some(&before) == world.hosts[h].role.as_ref() {
            return false;
        }
        self.carry_out(world, h, effects, cut)
    }

    fn bend(&self, before: &Role, input: &Input, mut effects: Vec<Effect>) -> Vec<Effect> {
        let stage = before.seen().stage();
        let unknown = *input == Input::Decider(Answer::Unknown);
        match (self.0.broken, before) {
            (Broken::SuspendThawsInDoubt, Role::Suspend(_)) if stage == "suspending" && unknown => {
                vec![Effect::Thaw]
            }
            (Broken::SuspendDestroysEarly, Role::Suspend(_)) if matches!(input, Input::Sent(_)) => {
                effects.insert(0, Effect::Destroy);
                effects
            }
            (Broken::RestoreStartsUnasked, Role::Restore(_)) if stage == "taking" && unknown => {
                vec![Effect::Thaw]
            }
            (Broken::NotPutBack, Role::Restore(_)) => {
                let puts_back = |effect: &Effect| matches!(effect, Effect::Cas(cas) if matches!(cas.new.standing, Standing::Suspended(_)));
                effects.retain(|effect| !puts_back(effect));
                effects
            }
            _ => effects,
        }
    }

    fn carry_out(&self, world: &mut World, h: usize, effects: Vec<Effect>, cut: Option<u8>) -> bool {
        let wanted = cut.map_or(effects.len(), usize::from);
        if cut.is_some() && wanted >= effects.len() {
            return false;
        }
        for effect in effects.into_iter().take(wanted) {
            self.effect(world, h, effect);
        }
        if cut.is_some() {
            crash(world, h);
        }
        true
    }

    fn effect(&self, world: &mut World, h: usize, effect: Effect) {
        let forgets = |entry: &Entry| {
            let Entry::Step { step, .. } = entry else { return false };
            match self.0.broken {
                Broken::SuspendingNotJournalled => matches!(step, Step::Suspending { .. }),
                Broken::StartingNotJournalled => matches!(step, Step::Starting),
                _ => false,
            }
        };
        let wait = |world: &mut World, waiting: Waiting| {
            if !world.hosts[h].waiting.contains(&waiting) {
                world.hosts[h].waiting.push(waiting);
            }
        };
        match effect {
            Effect::Journal(entry) if forgets(&entry) => {}
            Effect::Journal(entry) => world.hosts[h].journal.push(entry),
            Effect::Freeze => match world.hosts[h].copy {
                Copy::Runs => {
                    let version = world.latest;
                    world.hosts[h].copy = Copy::Frozen(version);
                    // Named when it is whole: before the answer, and there for good.
                    world.hosts[h].images.insert(version);
                    let hash = Hash([version; 32]);
                    wait(world, Waiting::For(Input::Sent(Receipt { hash, missing_pages: 0, missing: None })));
                }
                _ => wait(world, Waiting::For(Input::CopyGone)),
            },
            Effect::Thaw => match world.hosts[h].copy {
                Copy::None => wait(world, Waiting::For(Input::CopyGone)),
                Copy::Runs => wait(world, Waiting::For(Input::Thawed)),
                Copy::Frozen(version) => {
                    if version != world.latest {
                        world.broken = Some("an old image was resumed");
                    }
                    world.latest += 1;
                    world.hosts[h].copy = Copy::Runs;
                    wait(world, Waiting::For(Input::Thawed));
                }
            },
            Effect::Destroy => {
                if world.hosts[h].copy == Copy::Runs {
                    world.broken = Some("a running copy was destroyed");
                }
                let last = self.truth(world);
                let suspend = matches!(world.hosts[h].role, Some(Role::Suspend(_)));
                if suspend && last.standing == Standing::Running && last.owner == name(h) {
                    world.broken = Some("a copy was destroyed before it was suspended");
                }
                world.hosts[h].copy = Copy::None;
                wait(world, Waiting::For(Input::Destroyed));
            }
            Effect::Check => wait(world, Waiting::Check),
            Effect::Cas(cas) => wait(world, Waiting::Cas(cas)),
            other => {
                world.broken = Some(Box::leak(format!("{other:?} is no effect of these").into_boxed_str()))
            }
        }
    }

    /// The decider's record, whoever is up.
    fn truth(&self, world: &World) -> Record {
        let journals = world.hosts.iter().filter_map(|host| last_record(&host.journal));
        journals.chain([&world.registry]).max_by_key(|record| record.epoch).cloned().expect("there is one")
    }

    fn restart(&self, world: &mut World, h: usize, cut: Option<u8>) -> bool {
        world.hosts[h].up = true;
        let host = &world.hosts[h];
        let key = last_key(&host.journal);
        let copy = host.copy != Copy::None;
        let recovered = key.and_then(|key| {
            let me = name(h);
            let suspend = Suspend::recover(&host.journal, key, &me, host.boot_id(), copy);
            let suspend = suspend.map(|(machine, effects)| (Role::Suspend(machine), effects));
            suspend.or_else(|| {
                let restore = Restore::recover(&host.journal, key, &host.parties(h, h), copy);
                restore.map(|(machine, effects)| (Role::Restore(machine), effects))
            })
        });
        // What was built for a restore that never asked is nobody's.
        let open = recovered.as_ref().is_some_and(|(role, _)| role.seen().outcome().is_none());
        if !open && matches!(host.copy, Copy::Frozen(_)) {
            world.hosts[h].copy = Copy::None;
        }
        let Some((role, effects)) = recovered else { return cut.is_none() };
        world.hosts[h].role = Some(role);
        self.carry_out(world, h, effects, cut)
    }

    fn answer(&self, world: &mut World, h: usize, fate: Fate, cut: Option<u8>) -> bool {
        let waiting = world.hosts[h].waiting.remove(0);
        let input = match (waiting, fate) {
            (Waiting::For(input), Fate::Good) => input,
            (Waiting::Check, Fate::Good) if world.hosts[h].copy == Copy::None => {
                Input::NotReady("gone".into())
            }
            (Waiting::Check, Fate::Good) => Input::Ready,
            (Waiting::Check, Fate::Bad) => {
                world.left.cannot_starts -= 1;
                Input::NotReady("cannot start".into())
            }
            (Waiting::Cas(cas), Fate::Good) => Input::Decider(self.swap(world, h, &cas)),
            (Waiting::Cas(cas), Fate::Lost | Fate::Late) => {
                world.left.unknowns -= 1;
                if fate == Fate::Lost {
                    self.swap(world, h, &cas);
                }
                world.late.insert(cas);
                Input::Decider(Answer::Unknown)
            }
            _ => return false,
        };
        self.feed(world, h, input, cut) || cut.is_none()
    }

    fn apply(&self, world: &mut World, event: &Event, cut: Option<u8>) -> bool {
        if cut.is_some() {
            world.left.crashes -= 1;
        }
        match event {
            Event::Suspend(h) => self.begin_suspend(world, *h, cut),
            Event::Restore(h, version) => self.begin_restore(world, *h, *version, cut),
            Event::CopyImage(h, version) => world.hosts[1 - *h].images.insert(*version),
            Event::Answer(h, fate) => self.answer(world, *h, *fate, cut),
            Event::Tick(h) => self.feed(world, *h, Input::Tick, cut),
            Event::Cancel(h) => {
                world.left.cancels -= 1;
                self.feed(world, *h, Input::Cancel("cancelled".into()), cut)
            }
            Event::Crash(h) => {
                world.left.crashes -= 1;
                crash(world, *h);
                true
            }
            Event::Reboot(h) => {
                world.left.reboots -= 1;
                crash(world, *h);
                world.hosts[*h].boot += 1;
                self.lose_copy(world, *h);
                true
            }
            Event::Kill(h) => {
                world.left.kills -= 1;
                self.lose_copy(world, *h);
                if world.hosts[*h].up && world.hosts[*h].role.is_some() {
                    world.hosts[*h].waiting.push(Waiting::For(Input::CopyGone));
                }
                true
            }
            Event::Restart(h) => self.restart(world, *h, cut),
            Event::Land(cas) => {
                let asker = usize::from(cas.new.owner == name(1));
                let before = world.clone();
                self.swap(world, asker, cas);
                *world != before
            }
        }
    }

    /// A copy that may run, or was to run on, ends like any program. A frozen one of which the image is the workload does not.
    fn lose_copy(&self, world: &mut World, h: usize) {
        let had = std::mem::replace(&mut world.hosts[h].copy, Copy::None);
        let may_run = matches!(
            world.hosts[h].last_step(),
            Some(Step::Checkpointing { .. } | Step::Aborted { .. } | Step::Starting)
        );
        if had == Copy::Runs || (had != Copy::None && may_run) {
            world.gone = true;
        }
    }
}

fn crash(world: &mut World, h: usize) {
    let host = &mut world.hosts[h];
    host.up = false;
    host.role = None;
    host.waiting.clear();
}
