//! Drives a handover's machine: carries its effects out and feeds it what comes of them.
//!
//! The machine decides, [`World`] does; this file is only the order. Everything here is synchronous; an async caller runs it on a
//! thread that may block. A step that takes long (capture, restore) may answer later, by [`Driver::feed`].

use ferry_model::handover::{Answer, Cas, Effect, Entry, Input, Machine, Message};
use ferry_model::ids::WorkloadId;
use std::collections::VecDeque;

/// What a machine asks of this host's copy of the workload. See [`Effect`] for what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// [`Effect::Freeze`].
    Freeze,
    /// [`Effect::Thaw`].
    Thaw,
    /// [`Effect::Destroy`].
    Destroy,
    /// [`Effect::Restore`].
    Restore,
    /// [`Effect::Check`].
    Check,
    /// [`Effect::Serve`].
    Serve,
    /// [`Effect::Hold`].
    Hold,
}

/// The journal could not be written: the machine must be rebuilt from it (`recover`), as after a crash.
#[derive(Debug, thiserror::Error)]
#[error("The journal could not be written, so the handover stopped where it was")]
pub struct Stopped(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Everything that a handover touches.
pub trait World {
    /// Appends to the workload's journal and syncs.
    ///
    /// # Errors
    /// When the entry may not be on disk.
    fn journal(&mut self, entry: &Entry) -> Result<(), Stopped>;
    /// Sends to the other side, or drops it if there is no link now.
    fn send(&mut self, message: Message);
    /// Acts on this host's copy. `Some`: what came of it. `None`: the answer comes later, or it failed and will be asked again.
    fn act(&mut self, act: Act) -> Option<Input>;
    /// Asks the decider to compare and swap.
    fn cas(&mut self, cas: &Cas) -> Answer;
    /// Asks the decider for the record.
    fn read(&mut self, id: WorkloadId) -> Answer;
    /// [`Effect::Look`]: are the frozen tasks of this host's copy still there? Asked before a copy is relied on again.
    fn copy_exists(&mut self) -> bool;
    /// Told after each input that the machine took, with where it stands now: for events and pictures. Does nothing by itself.
    fn stood(&mut self, _stage: &'static str) {}
}

/// A machine on its way.
#[derive(Debug)]
pub struct Driver<M> {
    machine: M,
}

impl<M: Machine> Driver<M> {
    /// Takes a machine with the effects that its constructor (`offer`, `reserve`, `recover` ..) returned, and carries them out.
    ///
    /// # Errors
    /// When the journal fails.
    pub fn start(
        (machine, effects): (M, Vec<Effect>),
        world: &mut (impl World + ?Sized),
    ) -> Result<Self, Stopped> {
        let mut driver = Self { machine };
        driver.run(effects, world)?;
        Ok(driver)
    }

    /// Tells the machine what happened and carries out all that follows.
    ///
    /// # Errors
    /// When the journal fails.
    pub fn feed(&mut self, input: Input, world: &mut (impl World + ?Sized)) -> Result<(), Stopped> {
        let effects = self.machine.on(input);
        self.run(effects, world)
    }

    /// The machine, to look at.
    #[must_use]
    pub fn machine(&self) -> &M {
        &self.machine
    }

    fn run(&mut self, effects: Vec<Effect>, world: &mut (impl World + ?Sized)) -> Result<(), Stopped> {
        world.stood(self.machine.stage());
        let mut inputs = VecDeque::new();
        let mut effects = effects;
        loop {
            // All effects of one input come before the next input: a machine counts on that order.
            for effect in effects.drain(..) {
                inputs.extend(self.carry_out(&effect, world)?);
            }
            let Some(input) = inputs.pop_front() else { return Ok(()) };
            effects = self.machine.on(input);
            world.stood(self.machine.stage());
        }
    }

    fn carry_out(
        &self,
        effect: &Effect,
        world: &mut (impl World + ?Sized),
    ) -> Result<Option<Input>, Stopped> {
        let act = match effect {
            Effect::Journal(entry) => return world.journal(entry).map(|()| None),
            Effect::Send(message) => {
                world.send(message.clone());
                return Ok(None);
            }
            Effect::Cas(cas) => return Ok(Some(Input::Decider(world.cas(cas)))),
            Effect::Read => return Ok(Some(Input::Decider(world.read(self.machine.key().id)))),
            Effect::Look => {
                return Ok(Some(if world.copy_exists() { Input::Ready } else { Input::CopyGone }));
            }
            Effect::Freeze => Act::Freeze,
            Effect::Thaw => Act::Thaw,
            Effect::Destroy => Act::Destroy,
            Effect::Restore => Act::Restore,
            Effect::Check => Act::Check,
            Effect::Serve => Act::Serve,
            Effect::Hold => Act::Hold,
        };
        Ok(world.act(act))
    }
}
