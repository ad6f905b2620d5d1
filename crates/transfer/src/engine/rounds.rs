//! The rounds: scan, tell what is gone, send what is due, settle.

use super::carrier::Carrier;
use super::ledger::Ledger;
use super::range_set::RangeSet;
use super::send::{Sent, Unreadable, send};
use super::space::{TrackedSpace, Untracked};
use crate::space::SpaceId;
use ferry_model::strategy::measured::Round;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

/// Why a round ended early. Nothing is lost: what was not settled is still pending.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The space could not be scanned although the workload stands still.
    #[error("Space {} could not be scanned for what was written", .0.0)]
    Scan(SpaceId, #[source] io::Error),
    /// A page could not be read although the workload stands still.
    #[error("{len} bytes at {start:#x} of space {} could not be read in the pause", space.0)]
    Read {
        /// Which space.
        space: SpaceId,
        /// Where.
        start: u64,
        /// How much.
        len: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// In the last round there is content where the target has no place for it.
    #[error("{bytes} bytes of space {}, the first at {start:#x}, have no place at the target", space.0)]
    Outside {
        /// Which space.
        space: SpaceId,
        /// The first.
        start: u64,
        /// How many.
        bytes: u64,
    },
    /// The carrier is broken: take another one.
    #[error("Pages could not be carried to the target")]
    Carry(#[source] io::Error),
    /// It was cancelled; the carrier must not be used again.
    #[error("The round was cancelled")]
    Cancelled,
}

/// Pre-copy of a workload's spaces to one target. Spaces come and go between rounds.
#[derive(Debug)]
pub struct Engine<S> {
    spaces: BTreeMap<SpaceId, (S, Ledger)>,
    untracked: Vec<(SpaceId, Untracked)>,
    missed: Vec<(SpaceId, io::Error)>,
    rounds: u32,
    scanned: Option<Instant>,
    /// A scan that the next round need not make, and whether everything stood still at it.
    ahead: Option<(Scan, bool)>,
    /// Spaces that have been scanned since everything stands still, and of which the same is known still.
    still: BTreeSet<SpaceId>,
}

impl<S> Default for Engine<S> {
    fn default() -> Self {
        Self {
            spaces: BTreeMap::new(),
            untracked: Vec::new(),
            missed: Vec::new(),
            rounds: 0,
            scanned: None,
            ahead: None,
            still: BTreeSet::new(),
        }
    }
}

impl<S: TrackedSpace> Engine<S> {
    /// Arms every space. If one cannot be armed, those before it are disarmed.
    ///
    /// # Errors
    /// The first space that cannot be armed, with its error.
    pub fn arm(spaces: Vec<S>) -> Result<Self, (SpaceId, io::Error)> {
        let mut engine = Self::default();
        for space in spaces {
            if let Err(error) = engine.add(space) {
                // The error that is told is the one that came first; what stays tracked ends with the descriptor.
                let _ = engine.disarm();
                return Err(error);
            }
        }
        Ok(engine)
    }

    /// Takes another space in and arms it: the next round sends all its content. One of the same number is replaced, and nothing of it
    /// counts as held at the target.
    ///
    /// # Errors
    /// It cannot be armed; it was not taken in, and one of the same number stays.
    pub fn add(&mut self, mut space: S) -> Result<(), (SpaceId, io::Error)> {
        let id = space.id();
        space.arm().map_err(|error| (id, error))?;
        self.still.remove(&id);
        self.spaces.insert(id, (space, Ledger::default()));
        Ok(())
    }

    /// Lets a space go that is no more at the source. It is given back as it is; dropping it ends what tracking is left.
    pub fn remove(&mut self, id: SpaceId) -> Option<S> {
        self.still.remove(&id);
        self.spaces.remove(&id).map(|(space, _)| space)
    }

    /// A space, for what only its kind can tell.
    #[must_use]
    pub fn space(&self, id: SpaceId) -> Option<&S> {
        self.spaces.get(&id).map(|(space, _)| space)
    }

    /// The spaces, ascending.
    pub fn spaces(&self) -> impl Iterator<Item = SpaceId> + '_ {
        self.spaces.keys().copied()
    }

    /// From now on the target has a place for content of `id` in `ranges` only: what lies outside stays pending.
    pub fn allow(&mut self, id: SpaceId, ranges: RangeSet) {
        if let Some((_, ledger)) = self.spaces.get_mut(&id) {
            ledger.allow(ranges);
        }
    }

    /// What the target held of `id` outside of `kept` is not held any more: it is due again if it still has content.
    pub fn lost(&mut self, id: SpaceId, kept: &RangeSet) {
        if let Some((_, ledger)) = self.spaces.get_mut(&id) {
            if !ledger.held().difference(kept).is_empty() {
                self.still.remove(&id);
            }
            ledger.lost(kept);
        }
    }

    /// Outside of `mapped` the workload has no memory: what a scan has seen there has gone since.
    pub fn confine(&mut self, id: SpaceId, mapped: &RangeSet) {
        if let Some((_, ledger)) = self.spaces.get_mut(&id) {
            ledger.confine(mapped);
        }
    }

    /// Something may have written to `id` unseen: all that the target holds of it is due again.
    pub fn doubt(&mut self, id: SpaceId) {
        if let Some((_, ledger)) = self.spaces.get_mut(&id) {
            self.still.remove(&id);
            ledger.doubt();
        }
    }

    /// Bytes of which the target may hold something, all spaces together.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.spaces.values().map(|(_, ledger)| ledger.held().bytes()).sum()
    }

    /// Bytes that the target does not have as they are, as far as is known without another scan.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.spaces.values().map(|(_, ledger)| ledger.pending().bytes()).sum()
    }

    /// One round while the workload runs. The first sends all content, later ones what was written since. `cancelled` is asked
    /// between batches. A space that cannot be scanned (its process has just ended) is left for the next round and told by
    /// [`Self::missed`].
    ///
    /// # Errors
    /// [`RoundError`]; the next round sends again what this one did not deliver.
    pub fn round(
        &mut self,
        carrier: &mut impl Carrier,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Round, RoundError> {
        self.run(carrier, cancelled, When::Running).map(|(round, _)| round)
    }

    /// While the workload runs, when what is due is to follow after the resume: what the target holds of `may` and was written again is
    /// as if it had never been sent. Returned: what the target gives back now, and need not in the pause. Repeated, it finds what was
    /// written meanwhile.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub fn set_aside(
        &mut self,
        may: &BTreeMap<SpaceId, RangeSet>,
    ) -> Result<BTreeMap<SpaceId, RangeSet>, RoundError> {
        self.look(When::Running)?;
        let spaces = self.spaces.iter_mut().filter_map(|(id, (_, ledger))| {
            let aside = ledger.set_aside(may.get(id)?);
            (!aside.is_empty()).then_some((*id, aside))
        });
        Ok(spaces.collect())
    }

    /// The scan with which the next round begins while the workload runs, by itself, for whoever decides whether there is to be one: how many
    /// bytes the target does not have as they are.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub fn scan_ahead(&mut self) -> Result<u64, RoundError> {
        self.ahead = Some((self.look(When::Running)?, false));
        Ok(self.pending_bytes())
    }

    /// The scan with which [`Self::still_round`] begins, or the last round, by itself: for whoever waits for what it finds, and not for the
    /// pages.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub fn still_scan(&mut self) -> Result<(), RoundError> {
        let scan = self.look(When::Still);
        if scan.is_err() {
            self.still.clear();
        }
        self.ahead = Some((scan?, true));
        Ok(())
    }

    /// A round when everything that can write has been stopped, for what the target has a place for already: the last round, which is to
    /// follow, scans nothing of it again, and does nothing if nothing is left. What of the workload's memory there is may be known
    /// only by then: see [`Self::confine`].
    ///
    /// # Errors
    /// As [`Self::last_round`].
    pub fn still_round(
        &mut self,
        carrier: &mut impl Carrier,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Round, RoundError> {
        self.run(carrier, cancelled, When::Still).map(|(round, _)| round)
    }

    /// The last round: the caller has stopped everything that can write, and lets it go on only when this has failed. Also sends
    /// what cannot be tracked. All spaces must be there and all their content must have a place at the target.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub fn last_round(
        &mut self,
        carrier: &mut impl Carrier,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Round, RoundError> {
        self.run(carrier, cancelled, When::Stopped(&BTreeMap::new())).map(|(round, _)| round)
    }

    /// [`Self::last_round`] of a workload that goes on before everything is there: what of it is due and lies in `later` is not sent,
    /// but returned. The target may hold something there that is not what it should be.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub fn last_round_without(
        &mut self,
        carrier: &mut impl Carrier,
        cancelled: &dyn Fn() -> bool,
        later: &BTreeMap<SpaceId, RangeSet>,
    ) -> Result<(Round, BTreeMap<SpaceId, RangeSet>), RoundError> {
        self.run(carrier, cancelled, When::Stopped(later))
    }

    /// What others were to tell of some spaces may be incomplete: these are scanned in the last round although they were when everything
    /// stood still.
    pub fn distrust(&mut self) {
        let spaces = &self.spaces;
        self.still.retain(|id| spaces.get(id).is_none_or(|(space, _)| !space.is_told_by_others()));
    }

    /// Whether a last round after [`Self::still_round`] has nothing to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.spaces.iter().all(|(id, (_, ledger))| self.still.contains(id) && ledger.is_done())
    }

    /// What the last scan could not track, for the plan and the report.
    #[must_use]
    pub fn untracked(&self) -> &[(SpaceId, Untracked)] {
        &self.untracked
    }

    /// Spaces that the last round could not scan, and why. They are still to be sent whole, or to be removed.
    #[must_use]
    pub fn missed(&self) -> &[(SpaceId, io::Error)] {
        &self.missed
    }

    /// Ends the tracking of every space and gives them back: the workload runs as if nothing had been. All are tried.
    ///
    /// # Errors
    /// The first that could not be disarmed.
    pub fn disarm(self) -> Result<Vec<S>, (SpaceId, io::Error)> {
        let mut first = None;
        let mut spaces = Vec::with_capacity(self.spaces.len());
        for (id, (mut space, _)) in self.spaces {
            if let Err(error) = space.disarm() {
                first = first.or(Some((id, error)));
            }
            spaces.push(space);
        }
        first.map_or(Ok(spaces), Err)
    }

    fn run(
        &mut self,
        carrier: &mut impl Carrier,
        cancelled: &dyn Fn() -> bool,
        when: When<'_>,
    ) -> Result<(Round, BTreeMap<SpaceId, RangeSet>), RoundError> {
        let done = self.attempt(carrier, cancelled, when);
        // Only from a round in which everything stood still to the last one: after that, or a failure, others may write again.
        if done.is_err() || !matches!(when, When::Still) {
            self.still.clear();
        }
        done
    }

    fn attempt(
        &mut self,
        carrier: &mut impl Carrier,
        cancelled: &dyn Fn() -> bool,
        when: When<'_>,
    ) -> Result<(Round, BTreeMap<SpaceId, RangeSet>), RoundError> {
        let last = matches!(when, When::Stopped(_));
        let settled = last && !self.still.is_empty();
        let running = matches!(when, When::Running);
        let Scan { begin, since_scan_us, dirty_bytes, scan_us } = match self.ahead.take() {
            Some((scan, still)) if still != running && last => scan.and(&self.look(when)?),
            Some((scan, still)) if still != running => scan,
            _ => self.look(when)?,
        };
        let mut round = Round { number: self.rounds, last, dirty_bytes, scan_us, ..Round::default() };
        let mut delivered = Vec::with_capacity(self.spaces.len());
        let mut left_out = BTreeMap::new();
        for (id, (space, ledger)) in &mut self.spaces {
            let due = ledger.due(last);
            let later = match when {
                When::Stopped(later) => later.get(id).map(|later| due.intersection(later)),
                When::Running | When::Still => None,
            };
            let due = match later.filter(|later| !later.is_empty()) {
                Some(later) => {
                    let due = due.difference(&later);
                    left_out.insert(*id, later);
                    due
                }
                None => due,
            };
            delivered.push(hand_over(space, ledger, &due, carrier, cancelled, &mut round)?);
        }
        // After a round that has settled there is nothing to wait for if nothing was handed over.
        if !settled || delivered.iter().any(|(pages, _)| !pages.is_empty()) {
            carrier.settle().map_err(RoundError::Carry)?;
        }
        for ((_, ledger), (pages, zero)) in self.spaces.values_mut().zip(&delivered) {
            ledger.settled(pages, zero);
        }
        self.rounds += 1;
        let ledgers = || self.spaces.values().map(|(_, ledger)| ledger);
        let round = Round {
            held_back_bytes: ledgers().map(|ledger| ledger.held_back().bytes()).sum(),
            outside_bytes: ledgers().map(|ledger| ledger.outside().bytes()).sum(),
            since_scan_us,
            duration_us: micros(begin.elapsed()),
            ..round
        };
        Ok((round, left_out))
    }

    fn look(&mut self, when: When<'_>) -> Result<Scan, RoundError> {
        let begin = Instant::now();
        let since_scan = self.scanned.map_or(Duration::ZERO, |before| begin.duration_since(before));
        let dirty_bytes = self.scan(when)?;
        self.scanned = Some(begin);
        Ok(Scan { begin, since_scan_us: micros(since_scan), dirty_bytes, scan_us: micros(begin.elapsed()) })
    }

    /// Scans all spaces; bytes that were found dirty. What one space reported is in its ledger even if the next one fails.
    fn scan(&mut self, when: When<'_>) -> Result<u64, RoundError> {
        let (running, last) = (matches!(when, When::Running), matches!(when, When::Stopped(_)));
        self.untracked.clear();
        self.missed.clear();
        let mut dirty = 0;
        let told = |space: &S| space.is_told_by_others();
        let (after, before): (Vec<_>, Vec<_>) =
            self.spaces.iter_mut().partition(|(_, (space, _))| told(space));
        for (id, (space, ledger)) in before.into_iter().chain(after) {
            if !last || !self.still.contains(id) {
                let found = match if running { space.scan() } else { space.scan_still() } {
                    Ok(found) => found,
                    Err(error) if last => return Err(RoundError::Scan(*id, error)),
                    Err(error) => {
                        self.missed.push((*id, error));
                        continue;
                    }
                };
                ledger.enter(&found);
                if !running {
                    self.still.insert(*id);
                }
                dirty += found.dirty.bytes();
                self.untracked.extend(found.untracked.into_iter().map(|each| (*id, each)));
            }
            if last && let Some(first) = ledger.outside().ranges().first() {
                let bytes = ledger.outside().bytes();
                return Err(RoundError::Outside { space: *id, start: first.start, bytes });
            }
        }
        Ok(dirty)
    }
}

/// A scan that is done.
#[derive(Debug)]
struct Scan {
    begin: Instant,
    since_scan_us: u64,
    dirty_bytes: u64,
    scan_us: u64,
}

impl Scan {
    /// With what another one found that looked at the rest.
    fn and(self, rest: &Self) -> Self {
        Self {
            dirty_bytes: self.dirty_bytes + rest.dirty_bytes,
            scan_us: self.scan_us + rest.scan_us,
            ..self
        }
    }
}

/// Whether the workload runs meanwhile.
#[derive(Clone, Copy)]
enum When<'a> {
    /// It does, and there will be another round.
    Running,
    /// It stands still by now, and the last round is to follow.
    Still,
    /// It stands still, and this is the last round. Pages of these may follow later.
    Stopped(&'a BTreeMap<SpaceId, RangeSet>),
}

/// Hands over what is due of one space and adds it up in `round`: the pages, and of these what was told to be zero.
fn hand_over(
    space: &impl TrackedSpace,
    ledger: &mut Ledger,
    due: &RangeSet,
    carrier: &mut impl Carrier,
    cancelled: &dyn Fn() -> bool,
    round: &mut Round,
) -> Result<(RangeSet, RangeSet), RoundError> {
    let gone = ledger.gone();
    let restored = if round.last { ledger.restored() } else { RangeSet::default() };
    ledger.hand_over(&gone.union(due).union(&restored));
    let mut sent = Sent::default();
    let unreadable = if round.last { Unreadable::Error } else { Unreadable::Skipped };
    send(space, due, carrier, cancelled, unreadable, &mut sent)?;
    // A file's page that cannot be read lies behind its end by now: whoever touches it gets SIGBUS, here and there.
    send(space, &restored, carrier, cancelled, Unreadable::Skipped, &mut sent)?;
    round.skipped_bytes += sent.skipped;
    let (pages, zero) = sent.pages();
    round.sent_bytes += pages.bytes() - zero.bytes();
    round.zero_bytes += zero.bytes();
    if gone.is_empty() {
        return Ok((pages, zero));
    }
    round.discarded_bytes += gone.bytes();
    carrier.zero(space.id(), gone.ranges().to_vec()).map_err(RoundError::Carry)?;
    Ok((pages.union(&gone), zero.union(&gone)))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
