//! Two hosts, a decider and a bad network, small enough to be tried in every order.
//!
//! The machines are the production ones. What a machine's effects do to copies, journals and the network is modelled here,
//! with ghost values that no machine sees: `latest` counts how often the workload was thawed, so that an old copy is
//! recognised; `gone` says that the only whole copies were in the memory of hosts that restarted, the one excuse there is.

use ferry_model::handover::decider::apply;
use ferry_model::handover::entry::{last_key, last_record};
use ferry_model::handover::{
    Answer, Body, By, Cas, Effect, Entry, Input, Key, Machine, Message, Parties, Purpose, Receipt, Record,
    Source, Standing, Step, Target, Terms, answer_from_journal,
};
use ferry_model::ids::{BootId, Epoch, Hash, HostName, MoveId, WorkloadId};
use std::collections::BTreeSet;

use super::mutation::Mutation;

pub const ID: WorkloadId = WorkloadId([1; 16]);
const CLONE: WorkloadId = WorkloadId([2; 16]);

/// What is checked, and how much may go wrong.
#[derive(Clone, Debug)]
pub struct Config {
    /// The record is in the owner's journal; else it is a service of its own that may lose answers.
    pub embedded: bool,
    pub post_copy: bool,
    /// Post-copy: pages are left behind. A move that may do so need not.
    pub follow: bool,
    /// A new workload begins at the target; the original, at the source, goes on.
    pub clone: bool,
    pub faults: Faults,
    pub mutation: Mutation,
}

/// How often each may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    pub moves: u8,
    pub crashes: u8,
    pub reboots: u8,
    pub kills: u8,
    pub unknowns: u8,
    pub cancels: u8,
    pub cannot_starts: u8,
    pub fences: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Copy {
    None,
    /// Restored, not yet on disk as PREPARED.
    Built(u8),
    Frozen(u8),
    Runs(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Source(Source),
    Target(Target),
}

impl Role {
    pub fn machine(&mut self) -> &mut dyn Machine {
        match self {
            Self::Source(source) => source,
            Self::Target(target) => target,
        }
    }

    pub fn seen(&self) -> &dyn Machine {
        match self {
            Self::Source(source) => source,
            Self::Target(target) => target,
        }
    }
}

/// What a machine waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Waiting {
    For(Input),
    Check,
    Look,
    Cas(Cas),
    Read,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    pub up: bool,
    pub boot: u8,
    pub journal: Vec<Entry>,
    pub role: Option<Role>,
    pub copy: Copy,
    /// Post-copy: pages of the copy are still at the other host.
    pub missing: bool,
    pub waiting: Vec<Waiting>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub hosts: [Host; 2],
    pub registry: Record,
    /// Swaps on their way to the decider that may land at any time, or never.
    pub late: BTreeSet<Cas>,
    /// Every message that was ever sent: any may come at any time, any number of times, or never.
    pub net: BTreeSet<(u8, Message)>,
    pub left: Faults,
    pub moves: u8,
    pub latest: u8,
    pub gone: bool,
    pub broken: Option<&'static str>,
}

pub fn name(host: usize) -> HostName {
    HostName::new(["s", "t"][host]).unwrap()
}

fn index(name: &HostName) -> usize {
    usize::from(name.as_str() == "t")
}

impl Host {
    pub fn boot_id(&self) -> BootId {
        BootId([self.boot; 16])
    }

    pub fn runs(&self) -> bool {
        matches!(self.copy, Copy::Runs(_))
    }

    fn has_copy(&self) -> bool {
        self.copy != Copy::None
    }

    pub fn is_idle(&self) -> bool {
        self.role.as_ref().is_none_or(|role| role.seen().outcome().is_some())
    }

    /// Asks for something; asking twice is asking once.
    fn wait(&mut self, waiting: Waiting) {
        if !self.waiting.contains(&waiting) {
            self.waiting.push(waiting);
        }
    }

    /// Capture and restore take their time, and other things happen meanwhile; all else answers before anything else comes.
    pub fn listens(&self) -> bool {
        self.waiting.iter().all(|waiting| {
            matches!(
                waiting,
                Waiting::For(Input::Captured | Input::Sent(_) | Input::Restored(_) | Input::CopyGone)
            )
        })
    }

    /// The journal says that the workload may run here: it shares this host's fate, like any program.
    fn may_run(&self) -> bool {
        let last = self.journal.iter().rev().find_map(|entry| match entry {
            Entry::Step { step, .. } => Some(step),
            Entry::Record(_) => None,
        });
        matches!(
            last,
            Some(
                Step::Offered { .. }
                    | Step::Aborted { .. }
                    | Step::Starting
                    | Step::Running
                    | Step::Complete { .. }
            )
        )
    }
}

impl World {
    pub fn new(config: &Config) -> Self {
        let (owner, boot_id, standing) = (name(0), BootId([0; 16]), Standing::Running);
        let record = Record { id: ID, epoch: Epoch(1), owner, boot_id, standing, mv: None, hash: None };
        let host = |copy, journal| Host {
            up: true,
            boot: 0,
            journal,
            role: None,
            copy,
            missing: false,
            waiting: Vec::new(),
        };
        Self {
            hosts: [host(Copy::Runs(0), vec![Entry::Record(record.clone())]), host(Copy::None, Vec::new())],
            registry: record,
            late: BTreeSet::new(),
            net: BTreeSet::new(),
            left: config.faults,
            moves: 0,
            latest: 0,
            gone: false,
            broken: None,
        }
    }

    /// Begins a move from `h` to the other host.
    pub fn begin(&mut self, config: &Config, h: usize, cut: Option<u8>) -> bool {
        self.moves += 1;
        let host = &self.hosts[h];
        let Some(record) = last_record(&host.journal) else { return false };
        let (id, epoch) = if config.clone { (CLONE, Epoch(0)) } else { (ID, record.epoch) };
        let key = Key { id, epoch, mv: MoveId([self.moves; 16]) };
        let parties = Parties { me: name(h), peer: name(1 - h), boot_id: host.boot_id() };
        let terms = Terms {
            purpose: if config.clone { Purpose::Clone } else { Purpose::Migrate },
            post_copy: config.post_copy,
            plan: Hash([0; 32]),
            source_boot_id: host.boot_id(),
        };
        let (source, effects) = Source::offer(key, parties, terms);
        self.hosts[h].role = Some(Role::Source(source));
        self.carry_out(config, h, effects, cut)
    }

    /// Feeds the machine of `h`. False: it did nothing, or had fewer effects than `cut`.
    pub fn feed(&mut self, config: &Config, h: usize, input: Input, cut: Option<u8>) -> bool {
        let Some(role) = &mut self.hosts[h].role else { return false };
        let before = role.clone();
        let effects = role.machine().on(input.clone());
        let effects = config.mutation.bend(&before, &input, effects);
        if effects.is_empty() && cut.is_none() && Some(&before) == self.hosts[h].role.as_ref() {
            return false;
        }
        self.carry_out(config, h, effects, cut)
    }

    /// Carries out the first `cut` effects and then crashes, or all of them.
    pub fn carry_out(&mut self, config: &Config, h: usize, effects: Vec<Effect>, cut: Option<u8>) -> bool {
        let wanted = cut.map_or(effects.len(), usize::from);
        if cut.is_some() && wanted >= effects.len() {
            return false;
        }
        for effect in effects.into_iter().take(wanted) {
            self.effect(config, h, effect);
        }
        if cut.is_some() {
            self.crash(h);
        }
        true
    }

    fn effect(&mut self, config: &Config, h: usize, effect: Effect) {
        match effect {
            Effect::Journal(entry) => self.journal(config, h, entry),
            Effect::Send(message) => {
                self.net.insert((1 - h as u8, message));
            }
            Effect::Freeze => {
                let host = &mut self.hosts[h];
                let Copy::Runs(version) = host.copy else {
                    return host.wait(Waiting::For(Input::CopyGone));
                };
                host.copy = Copy::Frozen(version);
                let missing_pages = u64::from(config.follow);
                let receipt = Receipt { hash: Hash([version; 32]), missing_pages, missing: None };
                host.wait(Waiting::For(Input::Captured));
                host.wait(Waiting::For(Input::Sent(receipt)));
            }
            Effect::Restore => {
                let from_source = self.net.iter().find_map(|(to, message)| match message.body {
                    Body::State { receipt } if usize::from(*to) == h && Some(message.key) == self.key(h) => {
                        Some(receipt)
                    }
                    _ => None,
                });
                let Some(receipt) = from_source else { return };
                let host = &mut self.hosts[h];
                host.copy = Copy::Built(receipt.hash.0[0]);
                host.missing = config.follow;
                host.wait(Waiting::For(Input::Restored(receipt)));
            }
            Effect::Thaw => self.thaw(config, h),
            Effect::Destroy => {
                if self.hosts[h].runs() {
                    self.broken = Some("a running copy was destroyed");
                }
                let key = self.key(h);
                let starts = |entry: &Entry| matches!(entry, Entry::Step { key: of, step: Step::Starting, .. } if Some(*of) == key);
                let is_source = matches!(self.hosts[h].role, Some(Role::Source(_)));
                if is_source && !self.hosts[1 - h].journal.iter().any(starts) {
                    self.broken = Some("the source's copy was destroyed before the target started");
                }
                if self.hosts[1 - h].missing && self.hosts[1 - h].runs() {
                    self.broken = Some("pages that are still missing were destroyed");
                }
                self.hosts[h].copy = Copy::None;
                self.hosts[h].wait(Waiting::For(Input::Destroyed));
            }
            Effect::Check => self.hosts[h].wait(Waiting::Check),
            Effect::Look => self.hosts[h].wait(Waiting::Look),
            Effect::Cas(cas) => self.hosts[h].wait(Waiting::Cas(cas)),
            Effect::Read => self.hosts[h].wait(Waiting::Read),
            Effect::Serve => {}
            Effect::Hold => {
                if let Copy::Runs(version) = self.hosts[h].copy {
                    self.hosts[h].copy = Copy::Frozen(version);
                }
            }
        }
    }

    fn journal(&mut self, config: &Config, h: usize, entry: Entry) {
        if config.mutation.forgets(&entry) {
            return;
        }
        let host = &mut self.hosts[h];
        if let (Entry::Step { step: Step::Prepared { .. }, .. }, Copy::Built(version)) = (&entry, &host.copy)
        {
            host.copy = Copy::Frozen(*version);
        }
        host.journal.push(entry);
    }

    fn thaw(&mut self, config: &Config, h: usize) {
        match self.hosts[h].copy {
            Copy::None => self.hosts[h].wait(Waiting::For(Input::CopyGone)),
            Copy::Built(_) => self.broken = Some("a copy ran that was never PREPARED"),
            Copy::Runs(_) => self.hosts[h].wait(Waiting::For(Input::Thawed)),
            Copy::Frozen(version) => {
                if version != self.latest && !config.clone {
                    self.broken = Some("an old copy was resumed");
                }
                self.latest += 1;
                self.hosts[h].copy = Copy::Runs(self.latest);
                self.hosts[h].wait(Waiting::For(Input::Thawed));
                if !config.clone {
                    self.gone = self.hosts[h].missing && !self.hosts[1 - h].has_copy();
                }
            }
        }
    }

    fn key(&self, h: usize) -> Option<Key> {
        self.hosts[h].role.as_ref().map(|role| role.seen().key())
    }

    /// A message arrives.
    pub fn deliver(&mut self, config: &Config, h: usize, message: &Message, cut: Option<u8>) -> bool {
        if self.key(h) == Some(message.key) {
            return self.feed(config, h, Input::Message(message.clone()), cut);
        }
        let host = &self.hosts[h];
        let known =
            host.journal.iter().any(|entry| matches!(entry, Entry::Step { key, .. } if *key == message.key));
        match message.body {
            Body::Offer { terms } if !known => {
                if !host.is_idle() || host.has_copy() {
                    let reason = "busy".to_owned();
                    let answer = Message { key: message.key, body: Body::Refused { reason } };
                    return self.net.insert((1 - h as u8, answer));
                }
                let parties = Parties { me: name(h), peer: name(1 - h), boot_id: host.boot_id() };
                let (target, effects) = Target::reserve(message.key, parties, terms);
                self.hosts[h].role = Some(Role::Target(target));
                self.carry_out(config, h, effects, cut)
            }
            _ => {
                let answer = answer_from_journal(&host.journal, &name(h), host.boot_id(), message);
                answer.is_some_and(|answer| self.net.insert((1 - h as u8, answer)))
            }
        }
    }

    /// The node of `h` dies; its copy, in the hands of cgroup and shim, does not.
    pub fn crash(&mut self, h: usize) {
        let host = &mut self.hosts[h];
        host.up = false;
        host.role = None;
        host.waiting.clear();
    }

    /// The whole host restarts.
    pub fn reboot(&mut self, config: &Config, h: usize) {
        self.crash(h);
        self.hosts[h].boot += 1;
        self.lose_copy(config, h);
    }

    /// The copy of `h` is killed (out of memory, a person, its own end).
    pub fn kill_copy(&mut self, config: &Config, h: usize) {
        self.lose_copy(config, h);
        if self.hosts[h].up && self.hosts[h].role.is_some() {
            self.hosts[h].wait(Waiting::For(Input::CopyGone));
        }
    }

    fn lose_copy(&mut self, config: &Config, h: usize) {
        if config.clone {
            // Each is a program of its own. Only the original is promised.
            self.gone |= h == 0;
            self.hosts[h].copy = Copy::None;
            return;
        }
        // Taken back by a fence or a hand-back and not yet journalled: the decider says that it may run here.
        let host = &self.hosts[h];
        let last = last_key(&host.journal);
        let offers = |entry: &Entry| matches!(entry, Entry::Step { key, step: Step::Offered { .. }, .. } if Some(*key) == last);
        let is_source = host.journal.iter().any(offers);
        let decided = last.is_some_and(|key| self.truth().epoch > key.epoch);
        let taken_back = is_source && decided && self.truth().owner == name(h);
        // A person's fence is on its way to the decider: it speaks for this copy, and shares its fate if it lands.
        let fences = |cas: &Cas| is_source && cas.owner == name(h) && cas.new.owner == name(h);
        let asked = host.waiting.iter().any(|waiting| matches!(waiting, Waiting::Cas(cas) if fences(cas)));
        let fate = host.may_run() || taken_back || asked || self.late.iter().any(fences);
        let had = std::mem::replace(&mut self.hosts[h].copy, Copy::None);
        if had != Copy::None && (fate || matches!(had, Copy::Runs(_))) {
            self.gone = true;
        }
        self.note_gone();
    }

    /// Without a whole copy of the last state anywhere there is nothing left to save.
    pub fn note_gone(&mut self) {
        let whole = |host: &Host, other: &Host| match host.copy {
            Copy::Frozen(version) | Copy::Runs(version) => {
                let pages_there = !host.missing || other.has_copy();
                (version == self.latest) && pages_there
            }
            _ => false,
        };
        let [s, t] = &self.hosts;
        if !whole(s, t) && !whole(t, s) {
            self.gone = true;
        }
    }

    /// The node of `h` comes back and reads its journal.
    pub fn restart(&mut self, config: &Config, h: usize, cut: Option<u8>) -> bool {
        let host = &mut self.hosts[h];
        host.up = true;
        let Some(key) = last_key(&host.journal) else { return cut.is_none() };
        let (copy, boot_id) = (host.has_copy(), host.boot_id());
        let source = Source::recover(&host.journal, key, &name(h), boot_id, copy);
        let target = Target::recover(&host.journal, key, &name(h), boot_id, copy);
        let (role, effects) = match (source, target) {
            (Some((source, effects)), _) => (Role::Source(source), effects),
            (None, Some((target, effects))) => (Role::Target(target), effects),
            (None, None) => return cut.is_none(),
        };
        self.hosts[h].role = Some(role);
        self.carry_out(config, h, effects, cut)
    }

    /// The decider's record. With the embedded registry nobody ever writes the other one.
    fn truth(&self) -> &Record {
        let journals = self.hosts.iter().filter_map(|host| last_record(&host.journal));
        journals.chain([&self.registry]).max_by_key(|record| record.epoch).unwrap_or(&self.registry)
    }

    /// The decider's record, as far as `h` could read it now. Embedded: the owners' journals, if their hosts are up.
    pub fn record(&self, h: usize) -> Option<&Record> {
        let mine = last_record(&self.hosts[h].journal);
        let other = last_record(&self.hosts[1 - h].journal).filter(|_| self.hosts[1 - h].up);
        mine.into_iter().chain(other).max_by_key(|record| record.epoch)
    }

    pub fn read(&self, config: &Config, h: usize) -> Answer {
        if !config.embedded {
            return Answer::Is(self.registry.clone());
        }
        self.record(h).map_or(Answer::Unknown, |record| Answer::Is(record.clone()))
    }

    pub fn swap(&mut self, config: &Config, h: usize, cas: &Cas) -> Answer {
        let by = By::Host(name(h));
        if !config.embedded {
            return match apply(&self.registry, cas, &by) {
                Ok(record) => {
                    self.registry = record.clone();
                    Answer::Won(record)
                }
                Err(answer) => answer,
            };
        }
        let owner = index(&cas.owner);
        let current = last_record(&self.hosts[owner].journal).cloned();
        let Some(current) = current.filter(|_| self.hosts[owner].up) else { return Answer::Unknown };
        if current.owner != name(owner) {
            return Answer::Is(current);
        }
        match apply(&current, cas, &by) {
            Ok(record) => {
                self.hosts[owner].journal.push(Entry::Record(record.clone()));
                Answer::Won(record)
            }
            Err(answer) => answer,
        }
    }
}
