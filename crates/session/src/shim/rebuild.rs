//! Becoming the workload at a target: capsule, puppets, and what makes them whole.

use super::beside::Beside;
use super::envelope::Envelope;
use super::furniture::Place;
use super::network;
use super::protocol::{ClocksAt, Phase};
use super::spec::Spec;
use super::workload::{FREEZE_TIME_MAX, Workload, capsule_spec, no_capsule, unable};
use ferry_model::error::{Error, Kind, Result};
use ferry_process::capsule::{self, Capsule, Clocks};
use ferry_process::records::State;
use ferry_process::records::capsule::Capsule as CapsuleRecord;
use ferry_process::restore::files::Recreated;
use ferry_process::restore::{self, Home, Puppets};
use ferry_sys::say::say;
use ferry_transfer::access::{Missing, SpaceAccess};

/// A workload that is not whole, or not yet let go.
pub(super) enum Building {
    /// Puppets of a draft: the source still runs.
    Draft {
        /// They die with this.
        puppets: Box<Puppets>,
        /// What the capsule's inside was made from.
        inside: Box<capsule::Spec>,
    },
    /// Puppets whose memory is being filled.
    Puppets {
        /// They die with this.
        puppets: Puppets,
        /// What they become.
        state: Box<State>,
        /// Their descriptions, where these are open already.
        recreated: Option<Recreated>,
        /// What is typed on their terminal once it has what it had.
        typed: Vec<u8>,
    },
    /// Whole and frozen; its connections are still in repair mode.
    Whole(Recreated),
}

impl Workload {
    /// Makes the capsule and the puppets; nothing of them can run. An empty `state`: a cold move, whose program the first resume starts.
    pub(super) fn prepare(&mut self, spec: &Spec, state: &[u8], as_clone: bool) -> Result<Vec<SpaceAccess>> {
        if !self.has_ground(spec) && !self.has_draft(spec) {
            self.require(&[Phase::Empty], "be restored")?;
        }
        let prepared = if state.is_empty() {
            self.start_anew(spec).map(|()| Vec::new())
        } else {
            Envelope::from_bytes(state).and_then(|envelope| self.make_puppets(spec, envelope, as_clone))
        };
        if prepared.is_err() {
            self.discard();
        }
        prepared
    }

    /// A cold move: an empty capsule, as for a workload that begins.
    fn start_anew(&mut self, spec: &Spec) -> Result<()> {
        if self.has_ground(spec) {
            self.destroy()?;
        }
        self.new_record(spec.clone(), Phase::Building)?;
        self.make_capsule(spec)
    }

    fn make_puppets(&mut self, spec: &Spec, envelope: Envelope, as_clone: bool) -> Result<Vec<SpaceAccess>> {
        let Envelope { mut state, first, exit, network, typed, last_pid: _ } = envelope;
        let record = self.capsule_record(spec, &state)?;
        let drafted = self.inside_of(spec, &record, as_clone)?;
        let mut given = Vec::new();
        let mut identity = None;
        if let Some(net) = &spec.network {
            let wanted = match &network {
                Some(identity) if !as_clone => identity.clone(),
                _ => network::identity(net)?,
            };
            if as_clone {
                given = wanted.addresses.iter().map(|address| address.ip).collect();
            }
            identity = Some(wanted);
        }
        if as_clone {
            let own = network.iter().flat_map(|identity| &identity.addresses).map(|address| address.ip);
            super::clone::part(&mut state, &own.collect::<Vec<_>>(), &given);
        }
        self.open_terminal(&state)?;
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        let place = Place { dir: &self.dir, capsule, terminal: self.terminal.as_ref() };
        let beside = Beside { place, spec, record: &record, network: identity.as_ref(), state: &state };
        let (puppets, recreated) = match drafted {
            Some(puppets) if beside.is_apart() => complete_beside(*puppets, &beside)?,
            drafted => {
                beside.fill()?;
                let puppets = match drafted {
                    Some(mut puppets) => puppets.complete(&state).map(|()| *puppets),
                    None => Puppets::build(&state, &Self::home(capsule)),
                };
                (puppets.map_err(failed)?, None)
            }
        };
        let spaces = puppets.access();
        if let Some(record) = &mut self.record {
            (record.first, record.exit) = (first, exit);
        }
        self.save()?;
        self.building = Some(Building::Puppets {
            puppets,
            state: Box::new(state),
            recreated,
            typed: typed.map(Into::into).unwrap_or_default(),
        });
        Ok(spaces)
    }

    /// Makes the puppets of a draft, or makes those that are there the puppets of this one. Nothing is left if that fails.
    pub(super) fn draft(&mut self, spec: &Spec, draft: &[u8], as_clone: bool) -> Result<Vec<SpaceAccess>> {
        if !self.has_ground(spec) && !self.has_draft(spec) {
            self.require(&[Phase::Empty], "be restored")?;
        }
        let drafted =
            Envelope::from_bytes(draft).and_then(|envelope| self.follow(spec, &envelope.state, as_clone));
        if drafted.is_err() {
            self.discard();
        }
        drafted
    }

    fn follow(&mut self, spec: &Spec, state: &State, as_clone: bool) -> Result<Vec<SpaceAccess>> {
        let record = self.capsule_record(spec, state)?;
        let before = self.inside_of(spec, &record, as_clone)?;
        self.open_terminal(state)?;
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        let puppets = match before {
            Some(mut puppets) => puppets.reconcile(state).map(|()| puppets),
            None => Puppets::draft(state, &Self::home(capsule)).map(Box::new),
        };
        let puppets = puppets.map_err(failed)?;
        let spaces = puppets.access();
        let inside = Box::new(self.inside(spec, &record, as_clone));
        self.building = Some(Building::Draft { puppets, inside });
        Ok(spaces)
    }

    /// Pages may follow after this draft has become whole.
    pub(super) fn expect_missing(&mut self) {
        if let Some(Building::Draft { puppets, .. }) = &mut self.building {
            puppets.expect_missing();
        }
    }

    /// Puppets of a draft give back memory that will be missing when they are complete. Nothing is left if that fails.
    pub(super) fn give_back(&mut self, missing: &[Missing]) -> Result<()> {
        let Some(Building::Draft { puppets, .. }) = &mut self.building else {
            return Err(Error::new(Kind::Refused, "Only puppets of a draft can give memory back"));
        };
        let given = puppets.give_back(missing).map_err(failed);
        if given.is_err() {
            self.discard();
        }
        given
    }

    /// Whether puppets of a draft of the same workload are there.
    fn has_draft(&self, spec: &Spec) -> bool {
        let same = self.record.as_ref().is_some_and(|record| record.spec == *spec);
        same && matches!(self.building, Some(Building::Draft { .. }))
    }

    fn home(capsule: &Capsule) -> Home {
        let cgroup = Some(capsule.cgroup().path().to_owned());
        Home { init: capsule.init_pid(), cgroup, staged: Some(capsule.upper()) }
    }

    /// The record of the capsule that is to be.
    fn capsule_record(&self, spec: &Spec, state: &State) -> Result<CapsuleRecord> {
        let Some(mut record) = state.capsule.clone() else {
            return Err(Error::new(Kind::Refused, "The state is of a tree that lived in no capsule"));
        };
        // What came along as a copy is the workload's own now, and no path of the host's any more.
        record.with.retain(|with| spec.with.iter().any(|kept| kept.path == with.path));
        Ok(record)
    }

    /// What the capsule's inside is made from.
    fn inside(&self, spec: &Spec, record: &CapsuleRecord, as_clone: bool) -> capsule::Spec {
        let wanted = capsule_spec(spec, &self.dir);
        let hostname = if as_clone { wanted.hostname.clone() } else { record.hostname.clone() };
        let restored = capsule::Spec::restored(record, wanted.name, self.dir.clone());
        capsule::Spec { hidden: wanted.hidden, hostname, ..restored }
    }

    /// Makes the capsule's inside; or answers with the puppets of the draft that live in it already, if it is still the right one.
    fn inside_of(
        &mut self,
        spec: &Spec,
        record: &CapsuleRecord,
        as_clone: bool,
    ) -> Result<Option<Box<Puppets>>> {
        let inside = self.inside(spec, record, as_clone);
        if let Some(Building::Draft { puppets, inside: made }) = self.building.take() {
            if !alike(&inside, &made) {
                let what = "The workload's mounts or its host name changed while it was being moved";
                return Err(Error::new(Kind::Refused, what).hint("move it again"));
            }
            let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
            // Files may have been staged beneath the mounted root.
            capsule.look_again()?;
            return Ok(Some(puppets));
        }
        if !self.has_ground(spec) {
            let at_ns = u64::try_from(ferry_sys::timens::Clocks::now().monotonic_ns).unwrap_or(0);
            let Clocks { monotonic_ns, boottime_ns } = record.clocks;
            self.ground(spec, Some(ClocksAt { monotonic_ns, boottime_ns, at_ns }))?;
        }
        self.capsule.as_mut().ok_or_else(no_capsule)?.furnish(&inside)?;
        Ok(None)
    }

    /// Memory is in, but for what is `missing`: makes the workload whole, frozen, with no tracer.
    pub(super) fn finish(&mut self, missing: &[Missing]) -> Result<()> {
        self.require(&[Phase::Building], "be finished")?;
        let finished = match self.building.take() {
            Some(Building::Puppets { puppets, state, recreated, typed }) => {
                self.finish_puppets((puppets, recreated), &state, missing).map(|()| {
                    if let Some(terminal) = &mut self.terminal {
                        terminal.write(&typed);
                    }
                })
            }
            Some(whole @ Building::Whole(_)) => {
                self.building = Some(whole);
                Ok(())
            }
            Some(Building::Draft { .. }) => {
                Err(Error::new(Kind::Refused, "A workload of which only a draft is there cannot be finished"))
            }
            // Cold: there is nothing to finish.
            None => Ok(()),
        };
        match finished {
            Ok(()) => self.set_phase(Phase::Prepared),
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    fn finish_puppets(
        &mut self,
        (puppets, recreated): (Puppets, Option<Recreated>),
        state: &State,
        missing: &[Missing],
    ) -> Result<()> {
        let recreated = match recreated {
            Some(recreated) => recreated,
            None => self.restore_files(state, &puppets)?,
        };
        let restored = puppets.finish_missing(&recreated, missing).map_err(failed)?;
        self.hold_back(restored.held)?;
        recreated.seal().map_err(|e| Error::from_source(Kind::Unable, &e))?;
        self.write_connections(&recreated)?;
        for warning in &restored.warnings {
            say(warning);
        }
        self.waits = restored.waits;
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        let frozen = capsule.cgroup().wait_frozen(FREEZE_TIME_MAX);
        frozen.map_err(|e| unable("What was restored does not freeze", &e))?;
        if let Some(record) = &state.capsule {
            self.wait_for_clocks(&record.clocks)?;
        }
        let waiting = self.process_count().map_err(|e| unable("What was restored cannot be counted", &e))?;
        if let Some(record) = &mut self.record {
            record.waiting = Some(waiting);
        }
        self.building = Some(Building::Whole(recreated));
        Ok(())
    }

    /// Network up, thawed, announced. Repeatable.
    pub(super) fn resume(&mut self) -> Result<()> {
        if matches!(self.phase(), Phase::Running | Phase::Exited) {
            return Ok(());
        }
        self.require(&[Phase::Prepared], "be resumed")?;
        self.set_network(true)?;
        let record = self.record.as_ref().ok_or_else(no_capsule)?;
        if record.first == 0 {
            let spec = record.spec.clone();
            self.announce();
            return self.start_first(&spec);
        }
        match &mut self.building {
            Some(Building::Whole(recreated)) => {
                recreated.release_network().map_err(|e| Error::from_source(Kind::Unable, &e))?;
            }
            _ => self.release_left()?,
        }
        // Before anything runs: from here on the program writes into its connections itself.
        self.forget_connections()?;
        let capsule = self.capsule.as_ref().ok_or_else(no_capsule)?;
        capsule.cgroup().thaw().map_err(|e| unable("The workload does not thaw", &e))?;
        // Nobody waits for it any more: what the workload itself sends tells where it is, too.
        self.announce();
        self.building = None;
        self.set_phase(Phase::Running)
    }
}

/// Makes puppets the workload, and the capsule its own, at the same time.
fn complete_beside(mut puppets: Puppets, beside: &Beside<'_>) -> Result<(Puppets, Option<Recreated>)> {
    // Begun before the puppets and their tracer share a processor, which would hold for it, too.
    let (completed, filled) = std::thread::scope(|scope| {
        let filling =
            std::thread::Builder::new().name("ferry-fill".into()).spawn_scoped(scope, || beside.run());
        let completed = puppets.complete(beside.state);
        let filled = match filling {
            Ok(filling) => {
                filling.join().unwrap_or_else(|_| Err(Error::new(Kind::Bug, "The filling ended by a panic")))
            }
            Err(_) => beside.run(),
        };
        (completed, filled)
    });
    completed.map_err(failed)?;
    Ok((puppets, filled?))
}

/// Whether two descriptions make the same inside.
fn alike(one: &capsule::Spec, other: &capsule::Spec) -> bool {
    (&one.hostname, &one.domainname, &one.with, &one.mounts)
        == (&other.hostname, &other.domainname, &other.with, &other.mounts)
}

fn failed(error: restore::Error) -> Error {
    Error::from_source(Kind::Unable, &error)
}
