//! The rounds: scan, forget what is gone, send what is due, settle.

use super::carrier::Carrier;
use super::ledger::Ledger;
use super::range_set::RangeSet;
use super::space::{TrackedSpace, Untracked};
use crate::space::{PAGE_SIZE, Range, SpaceId};
use ferry_model::strategy::measured::Round;
use std::io;
use std::time::{Duration, Instant};

/// Bytes read and handed over at once: long enough for full speed, short enough to be cancelled within a millisecond or two.
pub const BATCH_BYTES: u64 = 1 << 20;

/// Why a round ended early. Nothing is lost: what was not settled is still pending.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The space could not be scanned.
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
    /// The carrier is broken: take another one.
    #[error("Pages could not be carried to the target")]
    Carry(#[source] io::Error),
    /// It was cancelled; the carrier must not be used again.
    #[error("The round was cancelled")]
    Cancelled,
}

/// Pre-copy of a workload's spaces to one target.
#[derive(Debug)]
pub struct Engine<S> {
    spaces: Vec<(S, Ledger)>,
    untracked: Vec<(SpaceId, Untracked)>,
    rounds: u32,
    scanned: Option<Instant>,
}

/// What went over in one round, in bytes.
#[derive(Default)]
struct Sent {
    content: u64,
    zero: u64,
    skipped: u64,
}

impl<S: TrackedSpace> Engine<S> {
    /// Arms every space. If one cannot be armed, those before it are disarmed.
    ///
    /// # Errors
    /// The first space that cannot be armed, with its error.
    pub fn arm(spaces: Vec<S>) -> Result<Self, (SpaceId, io::Error)> {
        let mut engine = Self {
            spaces: spaces.into_iter().map(|space| (space, Ledger::default())).collect(),
            untracked: Vec::new(),
            rounds: 0,
            scanned: None,
        };
        for at in 0..engine.spaces.len() {
            if let Err(error) = engine.spaces[at].0.arm() {
                let id = engine.spaces[at].0.id();
                for (space, _) in &mut engine.spaces[..at] {
                    // The error that is told is the one that came first; what stays tracked ends with the descriptor.
                    let _ = space.disarm();
                }
                return Err((id, error));
            }
        }
        Ok(engine)
    }

    /// One round while the workload runs. The first sends all content, later ones what was written since. `cancelled` is asked
    /// between batches.
    ///
    /// # Errors
    /// [`RoundError`]; the next round sends again what this one did not deliver.
    pub fn round(
        &mut self,
        carrier: &mut impl Carrier,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Round, RoundError> {
        self.run(carrier, cancelled, false)
    }

    /// The last round: the caller has stopped everything that can write, and lets it go on only when this has failed. Also sends
    /// what cannot be tracked.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub fn last_round(
        &mut self,
        carrier: &mut impl Carrier,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Round, RoundError> {
        self.run(carrier, cancelled, true)
    }

    /// What the last scan could not track, for the plan and the report.
    #[must_use]
    pub fn untracked(&self) -> &[(SpaceId, Untracked)] {
        &self.untracked
    }

    /// Ends the tracking of every space and gives them back: the workload runs as if nothing had been. All are tried.
    ///
    /// # Errors
    /// The first that could not be disarmed.
    pub fn disarm(self) -> Result<Vec<S>, (SpaceId, io::Error)> {
        let mut first = None;
        let mut spaces = Vec::with_capacity(self.spaces.len());
        for (mut space, _) in self.spaces {
            if let Err(error) = space.disarm() {
                first = first.or(Some((space.id(), error)));
            }
            spaces.push(space);
        }
        first.map_or(Ok(spaces), Err)
    }

    fn run(
        &mut self,
        carrier: &mut impl Carrier,
        cancelled: &dyn Fn() -> bool,
        last: bool,
    ) -> Result<Round, RoundError> {
        let begin = Instant::now();
        let since_scan = self.scanned.map_or(Duration::ZERO, |before| begin.duration_since(before));
        let dirty_bytes = self.scan()?;
        self.scanned = Some(begin);
        let scan_us = micros(begin.elapsed());

        let mut sent = Sent::default();
        let mut discarded_bytes = 0;
        let mut delivered = Vec::with_capacity(self.spaces.len());
        for (space, ledger) in &mut self.spaces {
            if !ledger.gone().is_empty() {
                carrier.discard(space.id(), ledger.gone().ranges()).map_err(RoundError::Carry)?;
                discarded_bytes += ledger.gone().bytes();
            }
            let due = ledger.due(last);
            ledger.hand_over(&due);
            delivered.push(send(space, &due, carrier, cancelled, last, &mut sent)?);
        }
        carrier.settle().map_err(RoundError::Carry)?;
        for ((_, ledger), delivered) in self.spaces.iter_mut().zip(&delivered) {
            ledger.settled(delivered);
        }
        let number = self.rounds;
        self.rounds += 1;
        Ok(Round {
            number,
            last,
            dirty_bytes,
            sent_bytes: sent.content,
            zero_bytes: sent.zero,
            discarded_bytes,
            skipped_bytes: sent.skipped,
            held_back_bytes: self.spaces.iter().map(|(_, ledger)| ledger.held_back_bytes()).sum(),
            since_scan_us: micros(since_scan),
            scan_us,
            duration_us: micros(begin.elapsed()),
        })
    }

    /// Scans all spaces; bytes that were found dirty. What one space reported is in its ledger even if the next one fails.
    fn scan(&mut self) -> Result<u64, RoundError> {
        self.untracked.clear();
        let mut dirty = 0;
        for (space, ledger) in &mut self.spaces {
            let id = space.id();
            let found = space.scan().map_err(|error| RoundError::Scan(id, error))?;
            ledger.enter(&found);
            dirty += found.dirty.bytes();
            self.untracked.extend(found.untracked.into_iter().map(|each| (id, each)));
        }
        Ok(dirty)
    }
}

/// Sends `due` of one space in batches; what was handed over whole.
fn send(
    space: &impl TrackedSpace,
    due: &RangeSet,
    carrier: &mut impl Carrier,
    cancelled: &dyn Fn() -> bool,
    last: bool,
    sent: &mut Sent,
) -> Result<RangeSet, RoundError> {
    let mut buffer = Vec::new();
    let mut delivered = Vec::new();
    for batch in batches(due) {
        if cancelled() {
            return Err(RoundError::Cancelled);
        }
        let bytes: u64 = batch.iter().map(|range| range.len).sum();
        buffer.resize(bytes as usize, 0);
        if space.read(&batch, &mut buffer).is_ok() {
            hand_over(space.id(), &batch, &buffer, carrier, sent)?;
            delivered.extend(batch);
            continue;
        }
        // Something in it has gone since the scan: page by page, the others are still there.
        for page in batch.iter().flat_map(pages) {
            buffer.resize(PAGE_SIZE as usize, 0);
            match space.read(&[page], &mut buffer) {
                Ok(()) => {
                    hand_over(space.id(), &[page], &buffer, carrier, sent)?;
                    delivered.push(page);
                }
                Err(source) if last => {
                    let Range { start, len } = page;
                    return Err(RoundError::Read { space: space.id(), start, len, source });
                }
                Err(_) => sent.skipped += page.len,
            }
        }
    }
    Ok(RangeSet::new(delivered))
}

/// Hands `bytes` of `ranges` over: what is zero is only told.
fn hand_over(
    id: SpaceId,
    ranges: &[Range],
    bytes: &[u8],
    carrier: &mut impl Carrier,
    sent: &mut Sent,
) -> Result<(), RoundError> {
    let mut zero = Vec::new();
    let mut content = Vec::new();
    let mut kept = Vec::with_capacity(bytes.len());
    for (page, bytes) in ranges.iter().flat_map(pages).zip(bytes.chunks(PAGE_SIZE as usize)) {
        if is_zero(bytes) {
            zero.push(page);
        } else {
            content.push(page);
            kept.extend_from_slice(bytes);
        }
    }
    let (zero, content) = (RangeSet::new(zero), RangeSet::new(content));
    sent.zero += zero.bytes();
    sent.content += content.bytes();
    if !zero.is_empty() {
        carrier.zero(id, zero.ranges()).map_err(RoundError::Carry)?;
    }
    if !content.is_empty() {
        carrier.pages(id, content.ranges(), &kept).map_err(RoundError::Carry)?;
    }
    Ok(())
}

/// Cuts a set into batches of at most [`BATCH_BYTES`].
fn batches(due: &RangeSet) -> Vec<Vec<Range>> {
    let mut all = Vec::new();
    let mut batch: Vec<Range> = Vec::new();
    let mut bytes = 0;
    for range in due.ranges() {
        let mut start = range.start;
        while start < range.end() {
            let len = (range.end() - start).min(BATCH_BYTES - bytes);
            batch.push(Range { start, len });
            start += len;
            bytes += len;
            if bytes == BATCH_BYTES {
                all.push(std::mem::take(&mut batch));
                bytes = 0;
            }
        }
    }
    if !batch.is_empty() {
        all.push(batch);
    }
    all
}

fn pages(range: &Range) -> impl Iterator<Item = Range> + use<> {
    (range.start..range.end()).step_by(PAGE_SIZE as usize).map(|start| Range { start, len: PAGE_SIZE })
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|part| part.iter().fold(0, |sum, byte| sum | byte) == 0)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
