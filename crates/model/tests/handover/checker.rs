//! The world as a transition system, and what must hold in each of its states.

use super::world::{Config, Copy, Role, Waiting, World, name};
use ferry_model::handover::{Answer, Cas, Input, Message};
use stateright::{Model, Property};

/// Something that can happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    pub event: Event,
    /// The node dies after this many effects of it.
    pub cut: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Begin(usize),
    FreezeNow(usize),
    Deliver(usize, Message),
    /// What the machine waited for comes: as asked; refused; applied but unknown; unknown and perhaps later.
    Answer(usize, Fate),
    Tick(usize),
    Cancel(usize),
    Fence(usize),
    PagesIn(usize),
    Crash(usize),
    Reboot(usize),
    KillCopy(usize),
    Restart(usize),
    /// A swap that was asked long ago reaches the decider.
    Land(Cas),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Good,
    Bad,
    Lost,
    Late,
}

/// Most effects that one input has, less one.
const CUTS: u8 = 4;
/// Rounds within which everything ends once nothing fails any more.
const ROUNDS_MAX: usize = 24;

/// Rounds after which a target that has only reserved gives up.
const PATIENCE_ROUNDS: usize = 6;

pub struct Checker(pub Config);

impl Checker {
    fn apply(&self, world: &mut World, action: Action) -> bool {
        let config = &self.0;
        let cut = action.cut;
        if cut.is_some() {
            if world.left.crashes == 0 {
                return false;
            }
            world.left.crashes -= 1;
        }
        match action.event {
            Event::Begin(h) => world.begin(config, h, cut),
            Event::FreezeNow(h) => world.feed(config, h, Input::FreezeNow, cut),
            Event::Deliver(h, message) => world.deliver(config, h, &message, cut),
            Event::Answer(h, fate) => self.answer(world, h, fate, cut),
            Event::Tick(h) => world.feed(config, h, Input::Tick, cut),
            Event::Cancel(h) => {
                world.left.cancels -= 1;
                world.feed(config, h, Input::Cancel("cancelled".into()), cut)
            }
            Event::Fence(h) => {
                world.left.fences -= 1;
                world.feed(config, h, Input::Fence, cut)
            }
            Event::PagesIn(h) => {
                world.hosts[h].missing = false;
                world.feed(config, h, Input::PagesIn(ferry_model::ids::Hash([9; 32])), cut)
            }
            Event::Crash(h) => {
                world.left.crashes -= 1;
                world.crash(h);
                true
            }
            Event::Reboot(h) => {
                world.left.reboots -= 1;
                world.reboot(config, h);
                true
            }
            Event::KillCopy(h) => {
                world.left.kills -= 1;
                world.kill_copy(config, h);
                true
            }
            Event::Restart(h) => world.restart(config, h, cut),
            Event::Land(cas) => {
                world.late.remove(&cas);
                let asker = usize::from(cas.owner == name(1));
                world.swap(config, asker, &cas);
                true
            }
        }
    }

    fn answer(&self, world: &mut World, h: usize, fate: Fate, cut: Option<u8>) -> bool {
        let config = &self.0;
        let waiting = world.hosts[h].waiting.remove(0);
        let input = match (waiting, fate) {
            (Waiting::For(input), Fate::Good) => input,
            (Waiting::Check | Waiting::Look, Fate::Good) => {
                if world.hosts[h].copy == Copy::None {
                    Input::CopyGone
                } else {
                    Input::Ready
                }
            }
            (Waiting::Check, Fate::Bad) => {
                world.left.cannot_starts -= 1;
                // What cannot be started is no copy.
                world.hosts[h].copy = Copy::None;
                if !config.clone {
                    world.note_gone();
                }
                Input::NotReady("cannot start".into())
            }
            (Waiting::Read, Fate::Good) => Input::Decider(world.read(config, h)),
            (Waiting::Cas(cas), Fate::Good) => Input::Decider(world.swap(config, h, &cas)),
            (Waiting::Cas(cas), Fate::Lost | Fate::Late) => {
                world.left.unknowns -= 1;
                if fate == Fate::Lost {
                    world.swap(config, h, &cas);
                } else {
                    world.late.insert(cas);
                }
                Input::Decider(Answer::Unknown)
            }
            (Waiting::Read, Fate::Lost) => {
                world.left.unknowns -= 1;
                Input::Decider(Answer::Unknown)
            }
            _ => return false,
        };
        world.feed(config, h, input, cut) || cut.is_none()
    }

    /// Nothing fails any more, nothing that was in flight arrives: does every move end, with one copy that runs?
    fn settles(&self, world: &World) -> bool {
        let mut world = world.clone();
        world.net.clear();
        world.late.clear();
        let config = &self.0;
        for round in 0..ROUNDS_MAX {
            for h in 0..2 {
                if !world.hosts[h].up {
                    world.restart(config, h, None);
                }
                let mut steps = 0;
                while !world.hosts[h].waiting.is_empty() && steps < 20 {
                    self.answer(&mut world, h, Fate::Good, None);
                    steps += 1;
                }
                world.feed(config, h, Input::FreezeNow, None);
                // A target to which nothing has come for long gives up, which it may before PREPARED.
                let idle =
                    matches!(&world.hosts[h].role, Some(role @ Role::Target(_)) if role.seen().can_cancel());
                if idle && round > PATIENCE_ROUNDS {
                    world.feed(config, h, Input::Cancel("time-out".into()), None);
                }
                if self.pages_flow(&world, h) {
                    self.apply(&mut world, Action { event: Event::PagesIn(h), cut: None });
                }
                world.feed(config, h, Input::Tick, None);
                for sent in world.net.clone() {
                    world.deliver(config, sent.0.into(), &sent.1, None);
                    world.net.remove(&sent);
                }
            }
            if world.broken.is_some() || self.two_run(&world) {
                return false;
            }
            if world.hosts.iter().all(|host| host.up && host.is_idle() && host.waiting.is_empty()) {
                if config.clone {
                    let left_over = matches!(world.hosts[1].copy, Copy::Built(_) | Copy::Frozen(_));
                    return !left_over && (world.hosts[0].runs() || world.gone);
                }
                let runs = world.hosts.iter().filter(|host| host.runs()).count();
                // Nothing is left over on the host that does not run it.
                let tidy =
                    world.hosts.iter().all(|host| host.runs() || host.copy == Copy::None || world.gone);
                return tidy && (runs == 1 || world.gone);
            }
        }
        false
    }

    /// A clone and its original are two.
    fn two_run(&self, world: &World) -> bool {
        !self.0.clone && world.hosts.iter().all(|host| host.runs())
    }

    /// Post-copy: the page server has the pages and the target wants them.
    fn pages_flow(&self, world: &World, h: usize) -> bool {
        let (host, other) = (&world.hosts[h], &world.hosts[1 - h]);
        let wants = matches!(&host.role, Some(role @ Role::Target(_)) if role.seen().stage() == "draining" || role.seen().stage() == "paused");
        let serves =
            matches!(&other.role, Some(role @ Role::Source(_)) if role.seen().stage() == "serving pages");
        wants && serves && host.missing && host.runs() && matches!(other.copy, Copy::Frozen(_))
    }
}

impl Model for Checker {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.0)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let mut events = Vec::new();
        for h in 0..2 {
            let host = &world.hosts[h];
            if world.left.reboots > 0 && (host.role.is_some() || host.copy != Copy::None) {
                events.push(Event::Reboot(h));
            }
            if world.left.kills > 0 && host.copy != Copy::None {
                events.push(Event::KillCopy(h));
            }
            if !host.up {
                events.push(Event::Restart(h));
                continue;
            }
            if world.left.crashes > 0 && host.role.is_some() {
                events.push(Event::Crash(h));
            }
            if world.moves < world.left.moves && host.runs() && !host.missing && host.is_idle() {
                events.push(Event::Begin(h));
            }
            let Some(role) = &host.role else { continue };
            if role.seen().stage() == "offered" {
                events.push(Event::FreezeNow(h));
            }
            if world.left.cancels > 0 && role.seen().can_cancel() && host.listens() {
                events.push(Event::Cancel(h));
            }
            if world.left.fences > 0
                && host.listens()
                && matches!(role.seen().stage(), "deciding" | "in doubt")
            {
                events.push(Event::Fence(h));
            }
            if self.pages_flow(world, h) {
                events.push(Event::PagesIn(h));
            }
            match host.waiting.first() {
                None => events.push(Event::Tick(h)),
                Some(Waiting::For(_) | Waiting::Look) => events.push(Event::Answer(h, Fate::Good)),
                Some(Waiting::Check) => {
                    events.push(Event::Answer(h, Fate::Good));
                    if world.left.cannot_starts > 0 && matches!(role, Role::Target(_)) {
                        events.push(Event::Answer(h, Fate::Bad));
                    }
                }
                Some(waiting @ (Waiting::Cas(_) | Waiting::Read)) => {
                    events.push(Event::Answer(h, Fate::Good));
                    if world.left.unknowns > 0 {
                        events.push(Event::Answer(h, Fate::Lost));
                        if matches!(waiting, Waiting::Cas(_)) && !self.0.embedded {
                            events.push(Event::Answer(h, Fate::Late));
                        }
                    }
                }
            }
        }
        for (to, message) in &world.net {
            let host = &world.hosts[usize::from(*to)];
            if host.up && host.listens() {
                events.push(Event::Deliver((*to).into(), message.clone()));
            }
        }
        events.extend(world.late.iter().cloned().map(Event::Land));
        for event in events {
            let whole =
                matches!(event, Event::Crash(_) | Event::Reboot(_) | Event::KillCopy(_) | Event::Land(_));
            if world.left.crashes > 0 && !whole {
                // 0: what the event did outside (a swap, a message read) is done, nothing of what follows is.
                let first = u8::from(!matches!(event, Event::Answer(..)));
                actions.extend((first..CUTS).map(|cut| Action { event: event.clone(), cut: Some(cut) }));
            }
            actions.push(Action { event, cut: None });
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.apply(&mut next, action).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        if self.0.clone {
            return vec![
                Property::always("no rule broken on the way", |_, world: &World| world.broken.is_none()),
                Property::always("every cloning ends, and the original runs", Self::settles),
                Property::sometimes("both run", |_, world: &World| {
                    world.hosts.iter().all(|host| host.runs() && host.is_idle())
                }),
                Property::sometimes("a clone was given up", |_, world: &World| {
                    let [original, clone] = &world.hosts;
                    original.runs() && world.moves > 0 && original.is_idle() && clone.copy == Copy::None
                }),
            ];
        }
        vec![
            Property::always("never two runnable copies", |checker: &Self, world: &World| {
                !checker.two_run(world)
            }),
            Property::always("no rule broken on the way", |_, world: &World| world.broken.is_none()),
            Property::always("every move ends, with one copy that runs", |checker: &Self, world: &World| {
                checker.settles(world)
            }),
            Property::sometimes(
                "it runs at the target and nothing is left at the source",
                |_, world: &World| {
                    world.hosts[1].runs()
                        && world.hosts[0].copy == Copy::None
                        && world.hosts.iter().all(|host| host.is_idle())
                },
            ),
            Property::sometimes("it runs at the source after a move that ended", |_, world: &World| {
                world.moves > 0 && world.hosts[0].runs() && world.hosts[0].is_idle() && world.latest > 0
            }),
            Property::sometimes("a move is in doubt", |_, world: &World| {
                world.hosts[0].role.as_ref().is_some_and(|role| role.seen().in_doubt())
            }),
        ]
    }
}
