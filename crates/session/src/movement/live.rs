//! Pre-copy, the source's books: what was written is sent while the workload runs, and the rest while it stands still.
//!
//! Before each round the shim says what the workload looks like, and the target makes its puppets so; a round then fills them. Both
//! sides know by one pure function what a change of the mappings has cost ([`layout::kept`]), so that nothing is said about it on the
//! wire.

use super::captured::Guards;
use super::estimate::Watched;
use super::watch::{Beside, Watch};
use super::{missing, planning};
use crate::shim::client::Tracked;
use crate::shim::envelope::Envelope;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::RoundDone;
use ferry_model::ids::Hash;
use ferry_model::strategy::before::BANDWIDTH_ASSUMED;
use ferry_model::strategy::convergence;
use ferry_model::strategy::hybrid;
use ferry_model::strategy::measured::{Measured, Round};
use ferry_model::strategy::options::{Compress, LiveOptions};
use ferry_process::layout;
use ferry_process::live::direct;
use ferry_process::records::memory::{Backing, ObjectKind, vma};
use ferry_process::records::{self, State};
use ferry_transfer::access::{Missing, SpaceAccess};
use ferry_transfer::engine::{Engine, Found, RangeSet, RoundError, TrackedSpace};
use ferry_transfer::linux::{FollowedTask, Later, ObjectSpace, SharedObjects, StillSpace, TaskTracker};
use ferry_transfer::space::{Range, SpaceId};
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::rounds::{Compression, Offer, Settings, StreamCarrier};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

/// A round that carried less says nothing about the link.
const TELLING_BYTES: u64 = 4 << 20;

/// A space on its way.
enum Space {
    /// Its writes are known.
    Tracked(TaskTracker),
    /// Most of it is to follow after the resume.
    Followed(FollowedTask),
    /// Memory that several of these have mapped.
    Object(ObjectSpace),
    /// It waits for the pause.
    Still(StillSpace),
}

/// What tracks the workload's memory, when all of it has been sent, and what has sent it. Dropping it ends the tracking, for which the
/// kernel goes over all memory, and the streams: neither is to be done in the pause.
#[expect(dead_code, reason = "kept to be dropped")]
pub(super) struct Tracking(Engine<Space>, StreamCarrier);

/// Pre-copy of one workload.
pub(super) struct Live {
    engine: Engine<Space>,
    carrier: StreamCarrier,
    streams: u32,
    /// Bytes on the link before the last round.
    wire_bytes: u64,
    /// Bytes that the target had already.
    reused_bytes: u64,
    planned_bytes: u64,
    /// Most of it follows after the resume: where, as soon as that is known.
    follows: Option<Later>,
    /// What is not sent in the last round.
    later: BTreeMap<SpaceId, RangeSet>,
    /// What the target's puppets look like.
    agreed: Option<Arc<State>>,
    /// Where its memory is, once it stands still.
    places: Vec<SpaceAccess>,
    /// Processes of which something may be written unseen: they are sent whole in the pause.
    unsure: BTreeSet<i32>,
    /// What is known of shared memory.
    objects: SharedObjects,
    /// Which process id had been given last at the last look.
    last_pid: Option<i32>,
    rounds: Vec<Round>,
    /// The most that the link has carried, bytes per second.
    bandwidth: u64,
}

/// What of a workload was not sent, and where it is.
pub(super) struct Left {
    pub missing: Vec<Missing>,
    pub places: Vec<SpaceAccess>,
}

impl Live {
    /// Nothing is tracked yet; the plan says how many bytes there are.
    pub fn new(streams: Vec<Box<dyn Stream>>, options: &LiveOptions, planned_bytes: u64) -> Result<Self> {
        Self::begin(streams, options, planned_bytes, None)
    }

    /// As [`Self::new`], of a workload of which only what cannot follow later travels before it runs at the target.
    pub fn following(streams: Vec<Box<dyn Stream>>, options: &LiveOptions) -> Result<Self> {
        Self::begin(streams, options, 0, Some(Later::default()))
    }

    fn begin(
        streams: Vec<Box<dyn Stream>>,
        options: &LiveOptions,
        planned_bytes: u64,
        follows: Option<Later>,
    ) -> Result<Self> {
        let compression = match options.compress {
            Compress::Auto => Compression::Measured,
            Compress::On => Compression::Always,
            Compress::Off => Compression::Never,
        };
        let settings = Settings { bandwidth_bytes_per_s: options.bandwidth_bytes_per_s_max, compression };
        let count = u32::try_from(streams.len()).unwrap_or(u32::MAX);
        let carrier = StreamCarrier::begin(streams, &settings)
            .map_err(|e| Error::from_source(Kind::Unable, &e).context("The page streams cannot be served"))?;
        Ok(Self {
            engine: Engine::default(),
            carrier,
            streams: count,
            wire_bytes: 0,
            reused_bytes: 0,
            planned_bytes,
            follows,
            later: BTreeMap::new(),
            agreed: None,
            places: Vec::new(),
            unsure: BTreeSet::new(),
            objects: SharedObjects::default(),
            last_pid: None,
            rounds: Vec::new(),
            bandwidth: 0,
        })
    }

    /// Takes over what looked at the workload before. The first round sends everything, whatever was seen.
    pub fn adopt(&mut self, watched: Vec<Watched>) {
        for each in watched {
            // One that has ended since is not in the next draft either; what cannot be tracked travels in the pause.
            let _ = self.add_task(each.tracker);
        }
    }

    /// Takes in what the workload looks like now. Some: the target has to make its puppets so before the next round. Files that `late` says
    /// are there in the pause only: their mappings are no part of that, and what is private to these travels in the pause, too.
    pub fn follow(&mut self, mut tracked: Tracked, late: &dyn Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let mut envelope = Envelope::from_bytes(&tracked.draft)?;
        if leave_out(&mut envelope.state, late) {
            tracked.draft = envelope.to_bytes();
        }
        let Envelope { state, last_pid, .. } = envelope;
        self.unsure.extend(tracked.untracked.iter().map(|each| each.pid));
        self.doubt_shared(last_pid);
        for (id, pid, userfaultfd) in tracked.spaces {
            let Some(userfaultfd) = userfaultfd else { continue };
            // One that has ended since, or executes another program, is not in the next draft either; what cannot be tracked travels in
            // the pause.
            let _ = TaskTracker::new(id, pid, userfaultfd).map(|tracker| self.add_task(tracker));
        }
        self.follow_objects(&state, &tracked.objects)?;
        if self.agreed.as_ref().is_some_and(|agreed| is_same(agreed, &state)) {
            return Ok(None);
        }
        self.agree(state);
        Ok(Some(tracked.draft))
    }

    /// The target has these pages of an earlier visit: in the first round they are told, not sent.
    pub fn offer(&self, offer: Offer) {
        self.carrier.offer(offer);
    }

    /// One round while it runs.
    pub fn round(&mut self, watch: Watch<'_>) -> Result<RoundDone> {
        match self.engine.round(&mut self.carrier, &|| watch.stopped()) {
            Ok(round) => Ok(self.note(round)),
            Err(error) => Err(failed(error, watch)),
        }
    }

    /// Whether another round of a hybrid is worth it: what would be sent in it is looked for, and is not looked for again if there is one.
    pub fn is_worth_another(&mut self) -> Result<bool, RoundError> {
        let sent = self.rounds.last().map_or(0, |round| round.sent_bytes.saturating_add(round.zero_bytes));
        Ok(hybrid::is_worth_another(self.engine.scan_ahead()?, sent))
    }

    /// What was written again of what the target has, and may follow after the resume: the target is to give it back.
    pub fn set_aside(&mut self) -> Result<Vec<Missing>, RoundError> {
        let may = self.may_follow();
        Ok(missing::of(self.engine.set_aside(&may)?))
    }

    /// The look with which [`Self::still_round`] begins: the guard pages of what is tracked.
    pub fn still_scan(&mut self) -> Result<Guards, RoundError> {
        self.engine.still_scan()?;
        let spaces = self.engine.spaces().filter_map(|id| match self.engine.space(id)? {
            Space::Tracked(tracker) => Some((id, tracker.guards()?.clone())),
            _ => None,
        });
        Ok(spaces.collect())
    }

    /// One round of what was written since the last one, when the workload stands still. It may be captured meanwhile, and the target's
    /// puppets may become what was captured, if [`Self::agreed`] allows for it.
    pub fn still_round(&mut self, watched: &Beside) -> Result<RoundDone, RoundError> {
        let round = self.engine.still_round(&mut self.carrier, &|| watched.stopped())?;
        Ok(self.note(round))
    }

    /// What the target's puppets look like.
    pub fn agreed(&self) -> Option<Arc<State>> {
        self.agreed.clone()
    }

    /// Whether the last round has nothing to send, so that it need not wait for the target to be ready for it.
    pub fn is_done(&self) -> bool {
        self.engine.is_done()
    }

    /// The workload stands still and is as it was captured: what of it was not tracked travels whole.
    pub fn stand_still(&mut self, captured: Envelope, spaces: Vec<SpaceAccess>) -> Result<()> {
        let Envelope { state, last_pid, .. } = captured;
        self.unsure.extend(direct::users(&state.files));
        let place = |access: &SpaceAccess| SpaceAccess { ranges: Vec::new(), ..access.clone() };
        self.places = spaces.iter().map(place).collect();
        self.doubt_shared(last_pid);
        let unsure = state.tasks.iter().filter(|task| self.unsure.contains(&task.pid));
        let unsure: Vec<SpaceId> = unsure.filter_map(|task| task.space.map(SpaceId)).collect();
        let mapped: Vec<_> = state.spaces.iter().map(|space| (SpaceId(space.id), private(space))).collect();
        self.agree(state);
        for (id, mapped) in mapped {
            // The capture itself has had some memory in there.
            self.engine.confine(id, &mapped);
        }
        for id in unsure {
            self.engine.doubt(id);
        }
        let known: BTreeSet<SpaceId> = self.engine.spaces().collect();
        for access in spaces.into_iter().filter(|access| !known.contains(&access.space)) {
            let (id, ranges) = (access.space, access.ranges.iter().copied().collect());
            let unable =
                |e| Error::from_source(Kind::Unable, &e).context("The workload's memory cannot be read");
            self.add(Space::Still(StillSpace::open(access).map_err(unable)?))?;
            self.engine.allow(id, ranges);
        }
        Ok(())
    }

    /// Spaces whose content is known without another look.
    pub fn tracked(&self) -> Vec<SpaceId> {
        self.engine.spaces().collect()
    }

    /// After [`Self::stand_still`]: what may be left for later is, and is looked for. The target's puppets become what was captured meanwhile.
    pub fn leave(&mut self) -> Result<(), RoundError> {
        self.later = self.may_follow();
        if let Some(follows) = &self.follows {
            follows.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&self.later);
        }
        self.engine.still_scan()
    }

    /// The last round, after [`Self::stand_still`], when the target's puppets are as captured, too. With the hash over all rounds, and
    /// what is left for later, after [`Self::leave`].
    pub fn finish(mut self, watch: Watch<'_>) -> Result<(RoundDone, Hash, Left, Tracking)> {
        let done = self.engine.last_round_without(&mut self.carrier, &|| watch.stopped(), &self.later);
        let (round, missing) = match done {
            Ok((round, missing)) => (self.note(round), missing::of(missing)),
            Err(error) => return Err(failed(error, watch)),
        };
        let left = Left { missing, places: std::mem::take(&mut self.places) };
        let hash = self.carrier.hash();
        // Everything is in its place, and the receipt says so. Threads that end and give their memory back are not for the pause.
        Ok((round, hash, left, Tracking(self.engine, self.carrier)))
    }

    /// What is known of the workload and the link, for the decision what comes next.
    pub fn measured(&self) -> Measured {
        let last = self.rounds.last();
        let bytes = match last {
            Some(_) => self.engine.held_bytes().saturating_add(self.engine.pending_bytes()),
            None => self.planned_bytes,
        };
        Measured {
            bytes,
            bytes_in_pause: last.map_or(0, |round| round.held_back_bytes),
            // Until two scans have been compared, all of it may be written to all the time.
            dirty_bytes_per_s: last.and_then(Round::dirty_bytes_per_s).unwrap_or(u64::MAX),
            working_set_bytes: bytes,
            bandwidth_bytes_per_s: if self.bandwidth == 0 { BANDWIDTH_ASSUMED } else { self.bandwidth },
            // What every pause costs is not for rounds to shorten.
            fixed_us: 0,
            fault_us: 0,
        }
    }

    /// Bytes that the next round is expected to find.
    pub fn expected_bytes(&self) -> u64 {
        convergence::expected_dirty(&self.measured(), &self.rounds)
    }

    /// Mount points of the memory file systems in the capsule that the target has made by now.
    pub fn memory_points(&self) -> Vec<String> {
        let capsule = self.agreed.as_ref().and_then(|state| state.capsule.as_ref());
        let Some(capsule) = capsule else { return Vec::new() };
        let given = |point: &str| capsule.with.iter().any(|with| Path::new(point).starts_with(&with.path));
        capsule.tmpfs.iter().filter(|point| !given(point)).cloned().collect()
    }

    /// The rounds so far.
    pub fn rounds(&self) -> &[Round] {
        &self.rounds
    }

    /// Takes in shared memory that is new. What cannot be opened has gone since, and if not, it travels in the pause.
    fn follow_objects(&mut self, state: &State, access: &[SpaceAccess]) -> Result<()> {
        let known: BTreeSet<SpaceId> = self.engine.spaces().collect();
        for access in access.iter().filter(|access| !known.contains(&access.space)) {
            let record = state.objects.iter().find(|object| object.id == access.space.0);
            let opened = record.map(|object| {
                // Memory that was born shared has no name, and nobody a descriptor of it.
                let open = object.kind != ObjectKind::Anonymous;
                ObjectSpace::open(access, (object.device, object.inode), open, &self.objects)
            });
            if let Some(Ok(space)) = opened {
                self.add(Space::Object(space))?;
            }
        }
        Ok(())
    }

    /// Somebody who is not tracked may have written to shared memory: one who never was, or one who was born since the last look and
    /// may have ended since. Its content is compared then.
    fn doubt_shared(&mut self, last_pid: Option<i32>) {
        if last_pid.is_none() || last_pid != self.last_pid || !self.unsure.is_empty() {
            self.objects.doubt();
            self.engine.distrust();
        }
        self.last_pid = last_pid;
    }

    fn add_task(&mut self, tracker: TaskTracker) -> Result<()> {
        let tracker = tracker.noting(&self.objects);
        self.add(match &self.follows {
            Some(later) => Space::Followed(FollowedTask::new(tracker, later)),
            None => Space::Tracked(tracker),
        })
    }

    fn add(&mut self, space: Space) -> Result<()> {
        self.engine.add(space).map_err(|(id, error)| {
            Error::from_source(Kind::Unable, &error).context(format!("Space {} cannot be tracked", id.0))
        })
    }

    fn note(&mut self, round: Round) -> RoundDone {
        let figures = self.carrier.figures();
        let reused_bytes = figures.held_bytes - self.reused_bytes;
        self.reused_bytes = figures.held_bytes;
        let round = Round { sent_bytes: round.sent_bytes.saturating_sub(reused_bytes), ..round };
        // To look for what the target has takes its time, too.
        if round.sent_bytes >= TELLING_BYTES && reused_bytes == 0 {
            self.bandwidth = self.bandwidth.max(round.bytes_per_s().unwrap_or(0));
        }
        self.rounds.push(round);
        let wire_bytes = figures.wire_bytes - self.wire_bytes;
        self.wire_bytes = figures.wire_bytes;
        RoundDone {
            round,
            wire_bytes,
            streams: self.streams,
            compressed: figures.compression.on,
            predicted_downtime_us: None,
            reused_bytes,
        }
    }

    /// Where pages may follow after the resume, as the target's puppets are.
    fn may_follow(&self) -> BTreeMap<SpaceId, RangeSet> {
        self.agreed.as_deref().map(layout::may_be_missing).unwrap_or_default()
    }

    /// The target's puppets look like this from here on.
    fn agree(&mut self, state: State) {
        // What a change to itself keeps is all that there is.
        let places = layout::kept(&state, &state);
        let kept = self.agreed.as_ref().map(|agreed| layout::kept(agreed, &state)).unwrap_or_default();
        let spaces = state.spaces.iter().map(|space| space.id);
        let present: BTreeSet<u32> = spaces.chain(state.objects.iter().map(|object| object.id)).collect();
        let nothing = RangeSet::default();
        for id in self.engine.spaces().collect::<Vec<_>>() {
            if present.contains(&id.0) {
                self.engine.lost(id, kept.get(&id).unwrap_or(&nothing));
                self.engine.allow(id, places.get(&id).unwrap_or(&nothing).clone());
            } else {
                self.engine.remove(id);
            }
        }
        self.agreed = Some(Arc::new(state));
    }
}

/// Takes the mappings of files that are `late` out of a draft; whether there were any.
fn leave_out(draft: &mut State, late: &dyn Fn(&[u8]) -> bool) -> bool {
    let mut some = false;
    for space in &mut draft.spaces {
        space.vmas.retain(|vma| {
            let is = matches!(&vma.backing, Backing::File { path, .. } if late(path));
            some |= is;
            !is
        });
    }
    some
}

/// Where a space has memory of its own.
fn private(space: &records::Space) -> RangeSet {
    let private = space.vmas.iter().filter(|vma| vma.flags & vma::SHARED == 0);
    private.map(|vma| Range { start: vma.start, len: vma.end - vma.start }).collect()
}

/// Whether a draft would make nothing else of the puppets.
fn is_same(one: &State, other: &State) -> bool {
    one.tasks == other.tasks && one.spaces == other.spaces && one.objects == other.objects
}

/// Why a round ended: what the other side or the user said counts more than what came of it here.
pub(super) fn failed(error: RoundError, watch: Watch<'_>) -> Error {
    match error {
        RoundError::Carry(error) => {
            watch.reason(planning::link_error(&error).context("Memory did not get across"))
        }
        RoundError::Cancelled => watch.reason(Error::new(Kind::RolledBack, "The move was given up")),
        error => Error::from_source(Kind::Unable, &error).context("The workload's memory could not be sent"),
    }
}

impl TrackedSpace for Space {
    fn id(&self) -> SpaceId {
        match self {
            Self::Tracked(space) => space.id(),
            Self::Followed(space) => space.id(),
            Self::Object(space) => space.id(),
            Self::Still(space) => space.id(),
        }
    }

    fn arm(&mut self) -> io::Result<()> {
        match self {
            Self::Tracked(space) => space.arm(),
            Self::Followed(space) => space.arm(),
            Self::Object(space) => space.arm(),
            Self::Still(space) => space.arm(),
        }
    }

    fn scan(&mut self) -> io::Result<Found> {
        match self {
            Self::Tracked(space) => space.scan(),
            Self::Followed(space) => space.scan(),
            Self::Object(space) => space.scan(),
            Self::Still(space) => space.scan(),
        }
    }

    fn scan_still(&mut self) -> io::Result<Found> {
        match self {
            Self::Tracked(space) => space.scan_still(),
            Self::Followed(space) => space.scan_still(),
            Self::Still(space) => space.scan_still(),
            Self::Object(space) => space.scan_still(),
        }
    }

    fn read(&self, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Tracked(space) => space.read(ranges, buffer),
            Self::Followed(space) => space.read(ranges, buffer),
            Self::Object(space) => space.read(ranges, buffer),
            Self::Still(space) => space.read(ranges, buffer),
        }
    }

    fn is_told_by_others(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    fn disarm(&mut self) -> io::Result<()> {
        match self {
            Self::Tracked(space) => space.disarm(),
            Self::Followed(space) => space.disarm(),
            Self::Object(space) => space.disarm(),
            Self::Still(space) => space.disarm(),
        }
    }
}
