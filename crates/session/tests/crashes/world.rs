//! Two hosts in memory: journals, copies, a decider in the owners' journals, and a channel between them that follows a seed.

use ferry_model::handover::decider::apply;
use ferry_model::handover::entry::{last_key, last_record};
use ferry_model::handover::{
    Answer, Body, By, Cas, Entry, Input, Key, Machine, Message, Parties, Purpose, Receipt, Record, Source,
    Standing, Step, Target, Terms, answer_from_journal,
};
use ferry_model::ids::{BootId, Epoch, Hash, HostName, MoveId, WorkloadId};
use ferry_session::handover::{Act, Driver, Stopped, World};

const ID: WorkloadId = WorkloadId([1; 16]);
/// Rounds with chaos in them, and most rounds after which everything has to have ended.
const ROUNDS: [u32; 2] = [120, 400];

/// How likely each is, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Chaos {
    lost: u64,
    doubled: u64,
    unknown: u64,
    act_fails: u64,
    cancel: u64,
}

impl Chaos {
    pub const NONE: Self = Self { lost: 0, doubled: 0, unknown: 0, act_fails: 0, cancel: 0 };
    pub const NETWORK: Self = Self { lost: 25, doubled: 25, ..Self::NONE };
    pub const ALL: Self = Self { unknown: 30, act_fails: 25, cancel: 1, ..Self::NETWORK };
}

/// What happens to a host in the middle of its effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its node dies; the copy, in the hands of cgroup and shim, does not.
    NodeDies,
    /// Everything in its memory is gone.
    HostRestarts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    None,
    /// Restored, not yet on disk as PREPARED.
    Built(u64),
    Frozen(u64),
    Runs(u64),
}

struct Host {
    boot: u8,
    journal: Vec<Entry>,
    copy: Copy,
    up: bool,
}

enum Role {
    Source(Driver<Source>),
    Target(Driver<Target>),
}

/// All that a run knows but the drivers.
struct State {
    hosts: [Host; 2],
    /// Messages on their way, with where to.
    net: Vec<(usize, Message)>,
    random: u64,
    chaos: Chaos,
    /// False once nothing fails any more.
    chaotic: bool,
    effects: u64,
    crashes: Vec<(u64, Fate)>,
    /// The version of the one copy that may run: how often it was thawed.
    latest: u64,
    /// A host restarted with a copy in its memory: then there may be none left.
    may_be_gone: bool,
    forgets: Option<&'static str>,
    broken: Option<String>,
    /// The connection to a host that went down broke, and the other side has not noticed yet.
    cut: [bool; 2],
}

/// One run.
pub struct Run {
    state: State,
    roles: [Option<Role>; 2],
}

fn name(host: usize) -> HostName {
    HostName::new(["s", "t"][host]).unwrap()
}

impl State {
    /// The next number of the seed (splitmix64).
    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }

    fn happens(&mut self, percent: u64) -> bool {
        self.chaotic && percent > 0 && self.draw(100) < percent
    }

    fn break_rule(&mut self, what: &str) {
        self.broken.get_or_insert_with(|| what.to_owned());
    }

    fn thaw(&mut self, h: usize) -> Option<Input> {
        match self.hosts[h].copy {
            Copy::None => return Some(Input::CopyGone),
            Copy::Built(_) => self.break_rule("a copy ran that was never PREPARED"),
            Copy::Runs(_) => {}
            Copy::Frozen(version) => {
                if version != self.latest {
                    self.break_rule("an old copy was resumed");
                }
                if matches!(self.hosts[1 - h].copy, Copy::Runs(_)) {
                    self.break_rule("two copies run");
                }
                self.latest += 1;
                self.hosts[h].copy = Copy::Runs(self.latest);
            }
        }
        Some(Input::Thawed)
    }

    fn destroy(&mut self, h: usize) -> Option<Input> {
        if let Copy::Runs(_) = self.hosts[h].copy {
            self.break_rule("a running copy was destroyed");
        }
        let last = Copy::Frozen(self.latest);
        let started = |entry: &Entry| matches!(entry, Entry::Step { step: Step::Starting, .. });
        // What was started at the target and has ended with its host has ended.
        let over = self.hosts[1 - h].journal.iter().any(started);
        let other = matches!(self.hosts[1 - h].copy, Copy::Frozen(_) | Copy::Runs(_));
        if self.hosts[h].copy == last && !other && !over {
            self.break_rule("the last copy was destroyed");
        }
        self.hosts[h].copy = Copy::None;
        Some(Input::Destroyed)
    }
}

/// One host's side of the state.
struct Side<'a> {
    state: &'a mut State,
    h: usize,
}

impl Side<'_> {
    /// Counts an effect. False: the host has crashed, and nothing more happens on it.
    fn goes_on(&mut self) -> bool {
        let state = &mut *self.state;
        if !state.hosts[self.h].up {
            return false;
        }
        let number = state.effects;
        state.effects += 1;
        let Some(at) = state.crashes.iter().position(|(at, _)| *at == number) else { return true };
        let (_, fate) = state.crashes.remove(at);
        let host = &mut state.hosts[self.h];
        host.up = false;
        state.cut[1 - self.h] = true;
        let host = &mut state.hosts[self.h];
        if fate == Fate::HostRestarts {
            host.boot += 1;
            host.copy = Copy::None;
            state.may_be_gone = true;
        }
        false
    }
}

impl World for Side<'_> {
    fn journal(&mut self, entry: &Entry) -> Result<(), Stopped> {
        if !self.goes_on() {
            return Err(Stopped("crashed".into()));
        }
        let host = &mut self.state.hosts[self.h];
        if let Entry::Step { step, .. } = entry {
            if self.state.forgets == Some(step.name()) {
                return Ok(());
            }
            if let (Step::Prepared { .. }, Copy::Built(version)) = (step, host.copy) {
                host.copy = Copy::Frozen(version);
            }
        }
        host.journal.push(entry.clone());
        Ok(())
    }

    fn send(&mut self, message: Message) {
        if self.goes_on() {
            self.state.net.push((1 - self.h, message));
        }
    }

    fn act(&mut self, act: Act) -> Option<Input> {
        if !self.goes_on() {
            return None;
        }
        let (state, h) = (&mut *self.state, self.h);
        let repeatable = matches!(act, Act::Thaw | Act::Destroy);
        if repeatable && state.happens(state.chaos.act_fails) {
            return None;
        }
        let done = match act {
            Act::Freeze => match state.hosts[h].copy {
                Copy::Runs(version) => {
                    state.hosts[h].copy = Copy::Frozen(version);
                    Some(Input::Captured)
                }
                _ => Some(Input::CopyGone),
            },
            Act::Thaw => state.thaw(h),
            Act::Destroy => state.destroy(h),
            Act::Restore => {
                let version = state.latest;
                state.hosts[h].copy = Copy::Built(version);
                Some(Input::Restored(receipt(version)))
            }
            Act::Check => Some(match state.hosts[h].copy {
                Copy::Frozen(_) => Input::Ready,
                _ => Input::NotReady("it is gone".into()),
            }),
            Act::Serve | Act::Hold => None,
        };
        // It was done, and nobody hears of it: it is asked again.
        if repeatable && state.happens(state.chaos.act_fails) { None } else { done }
    }

    fn cas(&mut self, cas: &Cas) -> Answer {
        if !self.goes_on() || self.state.happens(self.state.chaos.unknown) {
            return Answer::Unknown;
        }
        let owner = usize::from(cas.owner == name(1));
        let host = &mut self.state.hosts[owner];
        let Some(current) = last_record(&host.journal).filter(|_| host.up).cloned() else {
            return Answer::Unknown;
        };
        if current.owner != name(owner) {
            return Answer::Is(current);
        }
        let answer = match apply(&current, cas, &By::Host(name(self.h))) {
            Ok(record) => {
                host.journal.push(Entry::Record(record.clone()));
                Answer::Won(record)
            }
            Err(answer) => answer,
        };
        if self.state.happens(self.state.chaos.unknown) { Answer::Unknown } else { answer }
    }

    fn read(&mut self, _: WorkloadId) -> Answer {
        if !self.goes_on() || self.state.happens(self.state.chaos.unknown) {
            return Answer::Unknown;
        }
        let [s, t] = &self.state.hosts;
        let records = [s, t].into_iter().filter(|host| host.up).filter_map(|host| last_record(&host.journal));
        records.max_by_key(|record| record.epoch).map_or(Answer::Unknown, |record| Answer::Is(record.clone()))
    }

    fn copy_exists(&mut self) -> bool {
        self.goes_on() && self.state.hosts[self.h].copy != Copy::None
    }
}

fn receipt(version: u64) -> Receipt {
    Receipt { hash: Hash([u8::try_from(version).unwrap_or(u8::MAX); 32]), missing_pages: 0, missing: None }
}

impl Run {
    /// A workload that runs on the first host.
    pub fn new(seed: u64, chaos: Chaos) -> Self {
        let (owner, boot_id, standing) = (name(0), BootId([0; 16]), Standing::Running);
        let first = Record { id: ID, epoch: Epoch(1), owner, boot_id, standing, mv: None, hash: None };
        let host = |copy, journal| Host { boot: 0, journal, copy, up: true };
        let state = State {
            hosts: [host(Copy::Runs(0), vec![Entry::Record(first)]), host(Copy::None, Vec::new())],
            net: Vec::new(),
            random: seed,
            chaos,
            chaotic: true,
            effects: 0,
            crashes: Vec::new(),
            latest: 0,
            may_be_gone: false,
            forgets: None,
            broken: None,
            cut: [false; 2],
        };
        Self { state, roles: [None, None] }
    }

    /// As [`Self::new`], with journals in which one step never is.
    pub fn forgetting(seed: u64, chaos: Chaos, step: &'static str) -> Self {
        let mut run = Self::new(seed, chaos);
        run.state.forgets = Some(step);
        run
    }

    /// Moves it, with these crashes (by the number of the effect before which they come). Returns how many effects there were.
    pub fn play(mut self, crashes: &[(u64, Fate)]) -> Result<u64, String> {
        self.state.crashes = crashes.to_vec();
        let key = Key { id: ID, epoch: Epoch(1), mv: MoveId([7; 16]) };
        let (purpose, plan, source_boot_id) = (Purpose::Migrate, Hash([0; 32]), BootId([0; 16]));
        let terms = Terms { purpose, post_copy: false, plan, source_boot_id };
        let offer = Source::offer(key, self.parties(0), terms);
        let mut side = Side { state: &mut self.state, h: 0 };
        self.roles[0] = Driver::start(offer, &mut side).ok().map(Role::Source);
        self.drop_dead();
        for round in 0..ROUNDS[1] {
            self.state.chaotic = round < ROUNDS[0];
            self.round();
            if let Some(broken) = &self.state.broken {
                return Err(format!("{broken} (round {round}): {}", self.story()));
            }
            if self.is_over() {
                break;
            }
        }
        let whole = |copy: Copy| matches!(copy, Copy::Runs(_));
        let running = self.state.hosts.iter().filter(|host| whole(host.copy)).count();
        let frozen =
            self.state.hosts.iter().any(|host| matches!(host.copy, Copy::Frozen(_) | Copy::Built(_)));
        let right = running == 1 || (running == 0 && self.state.may_be_gone);
        if !self.is_over() || !right || frozen {
            return Err(format!("{running} copies run in the end: {}", self.story()));
        }
        Ok(self.state.effects)
    }

    fn parties(&self, h: usize) -> Parties {
        let boot_id = BootId([self.state.hosts[h].boot; 16]);
        Parties { me: name(h), peer: name(1 - h), boot_id }
    }

    fn machine(&self, h: usize) -> Option<&dyn Machine> {
        match self.roles[h].as_ref()? {
            Role::Source(driver) => Some(driver.machine()),
            Role::Target(driver) => Some(driver.machine()),
        }
    }

    fn is_over(&self) -> bool {
        let idle = |h: usize| self.machine(h).is_none_or(|machine| machine.outcome().is_some());
        self.state.hosts.iter().all(|host| host.up) && idle(0) && idle(1) && self.state.net.is_empty()
    }

    /// One thing on each host, and what is on its way.
    fn round(&mut self) {
        for h in [0, 1] {
            match self.state.draw(4) {
                _ if !self.state.hosts[h].up => self.restart(h),
                // As the session does: before the decision a broken connection is reason enough.
                _ if self.state.cut[h] => {
                    self.state.cut[h] = false;
                    if self.machine(h).is_some_and(Machine::can_cancel) {
                        self.feed(h, Input::Cancel("the connection broke".into()));
                    }
                }
                0 => self.feed(h, Input::Tick),
                1 if self.state.happens(self.state.chaos.cancel)
                    && self.machine(h).is_some_and(Machine::can_cancel) =>
                {
                    self.feed(h, Input::Cancel("a person".into()));
                }
                _ => self.progress(h),
            }
        }
        if self.state.net.is_empty() {
            return;
        }
        let at = usize::try_from(self.state.draw(self.state.net.len() as u64)).unwrap_or(0);
        let (to, message) = self.state.net.swap_remove(at);
        if self.state.happens(self.state.chaos.doubled) {
            self.state.net.push((to, message.clone()));
        }
        if !self.state.happens(self.state.chaos.lost) && self.state.hosts[to].up {
            self.deliver(to, &message);
        }
    }

    /// What the session does by itself: the source freezes when there is a place, and says when all is sent.
    fn progress(&mut self, h: usize) {
        let Some(Role::Source(driver)) = &self.roles[h] else { return };
        let machine = driver.machine();
        let (reserved, frozen) = (machine.is_reserved(), machine.stage() == "frozen");
        if reserved {
            self.feed(h, Input::FreezeNow);
        } else if frozen {
            self.feed(h, Input::Sent(receipt(self.state.latest)));
        }
    }

    fn feed(&mut self, h: usize, input: Input) {
        let mut side = Side { state: &mut self.state, h };
        let stopped = match &mut self.roles[h] {
            Some(Role::Source(driver)) => driver.feed(input, &mut side).is_err(),
            Some(Role::Target(driver)) => driver.feed(input, &mut side).is_err(),
            None => false,
        };
        assert!(!stopped || !self.state.hosts[h].up, "a journal failed on a host that is up");
        self.drop_dead();
    }

    fn drop_dead(&mut self) {
        for h in [0, 1] {
            if !self.state.hosts[h].up {
                self.roles[h] = None;
            }
        }
    }

    /// The node of `h` comes back and reads its journal.
    fn restart(&mut self, h: usize) {
        let host = &mut self.state.hosts[h];
        host.up = true;
        let (boot_id, copy) = (BootId([host.boot; 16]), host.copy != Copy::None);
        let entries = host.journal.clone();
        let Some(key) = last_key(&entries) else { return };
        let source = Source::recover(&entries, key, &name(h), boot_id, copy);
        let target = Target::recover(&entries, key, &name(h), boot_id, copy);
        let mut side = Side { state: &mut self.state, h };
        self.roles[h] = match (source, target) {
            (Some(source), _) => Driver::start(source, &mut side).ok().map(Role::Source),
            (None, Some(target)) => Driver::start(target, &mut side).ok().map(Role::Target),
            (None, None) => None,
        };
        self.drop_dead();
    }

    fn deliver(&mut self, h: usize, message: &Message) {
        if self.machine(h).is_some_and(|machine| machine.key() == message.key) {
            return self.feed(h, Input::Message(message.clone()));
        }
        let host = &self.state.hosts[h];
        let is_of_it = |entry: &Entry| matches!(entry, Entry::Step { key, .. } if *key == message.key);
        let known = host.journal.iter().any(is_of_it);
        match message.body {
            Body::Offer { terms } if !known => {
                let reserved = Target::reserve(message.key, self.parties(h), terms);
                let mut side = Side { state: &mut self.state, h };
                self.roles[h] = Driver::start(reserved, &mut side).ok().map(Role::Target);
                self.drop_dead();
            }
            _ => {
                let boot_id = BootId([host.boot; 16]);
                let answer = answer_from_journal(&host.journal, &name(h), boot_id, message);
                self.state.net.extend(answer.map(|answer| (1 - h, answer)));
            }
        }
    }

    fn story(&self) -> String {
        let mut story = String::new();
        for (h, host) in self.state.hosts.iter().enumerate() {
            let name = |entry: &Entry| match entry {
                Entry::Record(record) => format!("{}@{}", record.owner, record.epoch.0),
                Entry::Step { step, .. } => step.name().to_owned(),
            };
            let journal: Vec<String> = host.journal.iter().map(name).collect();
            let stage = self.machine(h).map(Machine::stage);
            story +=
                &format!("\n  {}: up {}, {:?}, {stage:?}, {journal:?}", ["s", "t"][h], host.up, host.copy);
        }
        story + &format!("\n  on their way: {}", self.state.net.len())
    }
}
