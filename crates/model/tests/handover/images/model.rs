//! The world of images as a transition system: what can happen next, what must hold in each state, and how it ends once nothing
//! fails any more.

use super::{CUTS, ROUNDS_MAX};
use super::{Copy, Event, Fate, Host, Images, Role, Waiting, World};
use crate::world::{ID, name};
use ferry_model::handover::{Entry, Input, Record, Standing};
use ferry_model::ids::{BootId, Epoch};
use stateright::{Model, Property};
use std::collections::BTreeSet;

impl Images {
    /// Nothing fails any more: everything ends, and one copy runs, or can be restored.
    fn settles(&self, world: &World) -> bool {
        let mut world = world.clone();
        world.late.clear();
        for _ in 0..ROUNDS_MAX {
            for h in 0..2 {
                if !world.hosts[h].up {
                    self.restart(&mut world, h, None);
                }
                let mut steps = 0;
                while !world.hosts[h].waiting.is_empty() && steps < 20 {
                    self.answer(&mut world, h, Fate::Good, None);
                    steps += 1;
                }
                self.feed(&mut world, h, Input::Tick, None);
            }
            if world.broken.is_some() || two_run(&world) {
                return false;
            }
            if world.hosts.iter().all(|host| host.up && host.is_idle() && host.waiting.is_empty()) {
                return self.one_runs_or_can(world);
            }
        }
        false
    }

    fn one_runs_or_can(&self, mut world: World) -> bool {
        let left_over = |host: &Host| matches!(host.copy, Copy::Frozen(_));
        if world.hosts.iter().any(left_over) {
            return false;
        }
        if world.gone || world.hosts.iter().any(|host| host.copy == Copy::Runs) {
            return true;
        }
        let Standing::Suspended(hash) = self.truth(&world).standing else { return false };
        let version = hash.0[0];
        let Some(h) = (0..2).find(|h| world.hosts[*h].images.contains(&version)) else { return false };
        world.left.restores = 1;
        if !self.begin_restore(&mut world, h, version, None) {
            return false;
        }
        for _ in 0..10 {
            if !world.hosts[h].waiting.is_empty() {
                self.answer(&mut world, h, Fate::Good, None);
            }
        }
        world.hosts[h].copy == Copy::Runs && world.broken.is_none()
    }
}

fn two_run(world: &World) -> bool {
    world.hosts.iter().all(|host| host.copy == Copy::Runs)
}

impl Model for Images {
    type State = World;
    type Action = (Event, Option<u8>);

    fn init_states(&self) -> Vec<World> {
        let (owner, boot_id, standing) = (name(0), BootId([0; 16]), Standing::Running);
        let record = Record { id: ID, epoch: Epoch(1), owner, boot_id, standing, mv: None, hash: None };
        let host = |copy, journal| Host {
            up: true,
            boot: 0,
            journal,
            role: None,
            copy,
            images: BTreeSet::new(),
            waiting: Vec::new(),
        };
        vec![World {
            hosts: [host(Copy::Runs, vec![Entry::Record(record.clone())]), host(Copy::None, Vec::new())],
            registry: record,
            late: BTreeSet::new(),
            left: self.0.left,
            begun: 0,
            latest: 0,
            gone: false,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Self::Action>) {
        let (mut events, left) = (Vec::new(), world.left);
        for h in 0..2 {
            let host = &world.hosts[h];
            for version in &host.images {
                if world.hosts[1 - h].up && !world.hosts[1 - h].images.contains(version) {
                    events.push(Event::CopyImage(h, *version));
                }
            }
            if left.reboots > 0 && (host.role.is_some() || host.copy != Copy::None) {
                events.push(Event::Reboot(h));
            }
            if left.kills > 0 && host.copy != Copy::None {
                events.push(Event::Kill(h));
            }
            if !host.up {
                events.push(Event::Restart(h));
                continue;
            }
            if left.crashes > 0 && host.role.is_some() {
                events.push(Event::Crash(h));
            }
            if left.suspends > 0 && host.copy == Copy::Runs && host.is_idle() {
                events.push(Event::Suspend(h));
            }
            if left.restores > 0 && host.copy == Copy::None && host.is_idle() {
                events.extend(host.images.iter().map(|version| Event::Restore(h, *version)));
            }
            let Some(role) = &host.role else { continue };
            let writing = matches!(host.waiting.first(), None | Some(Waiting::For(Input::Sent(_))));
            if left.cancels > 0 && role.seen().can_cancel() && writing {
                events.push(Event::Cancel(h));
            }
            match host.waiting.first() {
                None => events.push(Event::Tick(h)),
                Some(waiting) => {
                    events.push(Event::Answer(h, Fate::Good));
                    if matches!(waiting, Waiting::Check) && left.cannot_starts > 0 {
                        events.push(Event::Answer(h, Fate::Bad));
                    }
                    if matches!(waiting, Waiting::Cas(_)) && left.unknowns > 0 {
                        events.extend([Event::Answer(h, Fate::Lost), Event::Answer(h, Fate::Late)]);
                    }
                }
            }
        }
        events.extend(world.late.iter().cloned().map(Event::Land));
        for event in events {
            let whole = matches!(
                event,
                Event::Crash(_) | Event::Reboot(_) | Event::Kill(_) | Event::Land(_) | Event::CopyImage(..)
            );
            if left.crashes > 0 && !whole {
                actions.extend((0..CUTS).map(|cut| (event.clone(), Some(cut))));
            }
            actions.push((event, None));
        }
    }

    fn next_state(&self, world: &World, (event, cut): Self::Action) -> Option<World> {
        let mut next = world.clone();
        self.apply(&mut next, &event, cut).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never two runnable copies", |_, world: &World| !two_run(world)),
            Property::always("no rule broken on the way", |_, world: &World| world.broken.is_none()),
            Property::always("everything ends, and one copy runs or can be restored", Self::settles),
            Property::sometimes("it is suspended", |images: &Self, world: &World| {
                matches!(images.truth(world).standing, Standing::Suspended(_))
            }),
            Property::sometimes("the other host has taken it", |_, world: &World| {
                world.hosts[1].copy == Copy::Runs && world.hosts[1].is_idle()
            }),
            Property::sometimes("two hosts try to take it", |_, world: &World| {
                world.hosts.iter().all(|host| matches!(host.role, Some(Role::Restore(_))) && !host.is_idle())
            }),
        ]
    }
}
