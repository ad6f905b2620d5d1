//! The pager: takes in what happens, says what is wanted, puts in place what comes.

use super::absent::{Absent, Piece};
use super::pages::Pages;
use super::resident::{Happening, Placed, Resident};
use crate::engine::{RangeSet, is_zero};
use crate::space::{PAGE_SIZE, Range, SpaceId};
use std::collections::{BTreeMap, VecDeque};
use std::io;

/// Bytes that are wanted together with a page that was touched, from it on: programs go forward, and one request costs more than
/// fifteen pages more in its answer.
pub const PREFETCH_BYTES: u64 = 64 << 10;

/// Pieces that are not longer are fetched first: a program's own data and stacks, beside what it keeps much of.
const SMALL_BYTES: u64 = 2 << 20;

/// Pages that are wanted from the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wanted {
    /// Of which space.
    pub space: SpaceId,
    /// Which, ascending; addresses of the source.
    pub ranges: Vec<Range>,
    /// Somebody waits for the first of them.
    pub urgent: bool,
}

/// Serves all address spaces of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pager<R> {
    residents: Vec<(R, Absent)>,
    /// What is on its way, by the source's addresses.
    asked: BTreeMap<SpaceId, Pages>,
    /// Small pieces were all asked for once.
    small_asked: bool,
    /// What has come and could not be placed yet: the kernel refuses from the moment in which a mapping changes until the task that
    /// changes it has run again.
    backlog: VecDeque<Arrived>,
    /// Pages that were touched and are to be zero, which could not be placed yet.
    zero: Vec<(usize, u64)>,
}

/// Pages that have come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Arrived {
    space: SpaceId,
    address: u64,
    bytes: Vec<u8>,
}

impl<R: Resident> Pager<R> {
    /// Begins with these. Each is already held: who touches an absent page waits.
    #[must_use]
    pub fn new(residents: Vec<(R, Absent)>) -> Self {
        Self {
            residents,
            asked: BTreeMap::new(),
            small_asked: false,
            backlog: VecDeque::new(),
            zero: Vec::new(),
        }
    }

    /// Whether nothing is waited for any more.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.residents.iter().all(|(_, absent)| absent.is_empty())
    }

    /// Bytes that are still to come. What several wait for counts once for each.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.residents.iter().map(|(_, absent)| absent.bytes()).sum()
    }

    /// The address spaces, for whoever waits until something happens in one of them.
    pub fn residents(&self) -> impl Iterator<Item = &R> {
        self.residents.iter().map(|(resident, _)| resident)
    }

    /// The address spaces, and what is absent in each.
    pub fn parts(&self) -> impl Iterator<Item = (&R, &Absent)> {
        self.residents.iter().map(|(resident, absent)| (resident, absent))
    }

    /// Whether something that has come waits for the workload to get done with its mappings: hear again soon, whatever happens.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.backlog.is_empty() || !self.zero.is_empty()
    }

    /// Takes in what has happened, and places what could not be placed before it; what is wanted at once because of it.
    ///
    /// # Errors
    /// A space can no longer be heard: what happens in it is unknown, and nothing more may be placed.
    pub fn hear(&mut self) -> io::Result<Vec<Wanted>> {
        let mut wanted = Vec::new();
        self.take_in_all(&mut wanted)?;
        self.place_all(&mut wanted)?;
        Ok(wanted)
    }

    /// What to ask for while nobody waits: at most about `bytes_max`, small pieces first, in the order of addresses. Nothing when all is on
    /// its way.
    pub fn background(&mut self, bytes_max: u64) -> Option<Wanted> {
        if !self.small_asked {
            let small = self.next_of(bytes_max, SMALL_BYTES);
            self.small_asked = small.is_none();
            if small.is_some() {
                return small;
            }
        }
        self.next_of(bytes_max, u64::MAX)
    }

    /// As [`Self::background`], of pieces that are not longer than `piece_max`.
    fn next_of(&mut self, bytes_max: u64, piece_max: u64) -> Option<Wanted> {
        let (mut space, mut ranges, mut bytes) = (None, Vec::new(), 0);
        let pieces = self.residents.iter().flat_map(|(_, absent)| absent.pieces());
        for piece in pieces.filter(|piece| piece.at.len <= piece_max) {
            if space.is_some_and(|space| space != piece.space) || bytes >= bytes_max {
                break;
            }
            for range in self.not_asked(&piece) {
                let room = bytes_max.saturating_sub(bytes).div_ceil(PAGE_SIZE).saturating_mul(PAGE_SIZE);
                let len = range.len.min(room);
                if len == 0 {
                    break;
                }
                space = Some(piece.space);
                ranges.push(Range { start: range.start, len });
                bytes += len;
            }
        }
        let ranges = RangeSet::new(ranges);
        let space = space.filter(|_| !ranges.is_empty())?;
        self.note_asked(space, &ranges);
        Some(Wanted { space, ranges: ranges.ranges().to_vec(), urgent: false })
    }

    /// The way to the source was lost: all that has not come is wanted again.
    pub fn ask_again(&mut self) {
        self.asked.clear();
    }

    /// Puts pages of `space` that have come wherever they are waited for. Twice does no harm. What cannot be placed now is kept, so
    /// nothing more should be fetched while [`Self::is_behind`].
    ///
    /// # Errors
    /// A space can no longer be heard, or the kernel refuses for a reason that is none of the workload's doing.
    pub fn arrive(&mut self, space: SpaceId, address: u64, bytes: &[u8]) -> io::Result<Vec<Wanted>> {
        self.backlog.push_back(Arrived { space, address, bytes: bytes.to_vec() });
        let mut wanted = Vec::new();
        self.place_all(&mut wanted)?;
        if self.is_behind() {
            self.take_in_all(&mut wanted)?;
            self.place_all(&mut wanted)?;
        }
        Ok(wanted)
    }

    fn take_in_all(&mut self, wanted: &mut Vec<Wanted>) -> io::Result<()> {
        let mut at = 0;
        // Children that come to be are heard in the same turn.
        while at < self.residents.len() {
            for happening in self.residents[at].0.happenings()? {
                self.take_in(at, happening, wanted)?;
            }
            at += 1;
        }
        Ok(())
    }

    fn place_all(&mut self, wanted: &mut Vec<Wanted>) -> io::Result<()> {
        while let Some(arrived) = self.backlog.pop_front() {
            if !self.put_everywhere(&arrived)? {
                self.backlog.push_front(arrived);
                break;
            }
        }
        for (at, address) in std::mem::take(&mut self.zero) {
            match self.fault(at, address) {
                // What has happened since has brought an absent page here.
                Some(urgent) => wanted.push(urgent),
                None if self.residents[at].0.place_zero(address, PAGE_SIZE)? == Placed::Changing => {
                    self.zero.push((at, address));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Whether it could be placed wherever it is waited for. What was placed is waited for no longer, so trying again goes on there.
    fn put_everywhere(&mut self, arrived: &Arrived) -> io::Result<bool> {
        let Arrived { space, address, bytes } = arrived;
        for at in 0..self.residents.len() {
            for piece in self.residents[at].1.waiting_for(*space, *address, bytes.len() as u64) {
                if !self.put(at, piece, &bytes[(piece.from - address) as usize..])? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Places one piece; false when something has to be taken in first.
    fn put(&mut self, at: usize, piece: Piece, bytes: &[u8]) -> io::Result<bool> {
        let (resident, absent) = &mut self.residents[at];
        let (mut start, end) = (piece.at.start, piece.at.end());
        // How far is tried at once.
        let mut until = end;
        while start < end {
            let part = |address: u64| (address - piece.at.start) as usize;
            let some = &bytes[part(start)..part(until)];
            // What was never written to takes no memory here either.
            let tried = match is_zero(some) {
                true => resident.place_zero(start, some.len() as u64)?,
                false => resident.place(start, some)?,
            };
            let done = match tried {
                Placed::Bytes(done) if done > 0 => done,
                // Written whole by the kernel, or placed before: what is there is newer.
                Placed::Present => PAGE_SIZE,
                Placed::Bytes(_) | Placed::Changing => return Ok(false),
                // The kernel says the same of pages of two mappings beside each other.
                Placed::NoMapping if until - start > PAGE_SIZE => {
                    until = start + ((until - start) / 2).next_multiple_of(PAGE_SIZE);
                    continue;
                }
                // That it is gone has been told or will be; nobody can touch it there.
                Placed::NoMapping => PAGE_SIZE,
                Placed::Gone => {
                    *absent = Absent::default();
                    return Ok(true);
                }
            };
            absent.resolve(start, start + done);
            start += done;
            until = end;
        }
        Ok(true)
    }

    fn take_in(&mut self, at: usize, happening: Happening<R>, wanted: &mut Vec<Wanted>) -> io::Result<()> {
        match happening {
            Happening::Fault { address } => match self.fault(at, address) {
                Some(urgent) => wanted.push(urgent),
                None => self.zero.push((at, address)),
            },
            Happening::Fork { child } => {
                let absent = self.residents[at].1.clone();
                self.residents.push((child, absent));
            }
            // Another thread may wait for what is gone: its page will not come, so it has to touch it again.
            Happening::Remap { from, to, len } => {
                self.residents[at].1.remap(from, to, len);
                self.residents[at].0.wake(from, len)?;
            }
            Happening::Forget { start, end } => {
                self.residents[at].1.resolve(start, end);
                self.residents[at].0.wake(start, end - start)?;
            }
        }
        Ok(())
    }

    /// What is wanted at once because `address` was touched; none where nothing is absent there.
    fn fault(&mut self, at: usize, address: u64) -> Option<Wanted> {
        let absent = &self.residents[at].1;
        let near = absent.between(address, address.saturating_add(PREFETCH_BYTES));
        let first = near.first().filter(|piece| piece.at.start == address).copied()?;
        // The page itself is asked for even if it is on its way: it may be far behind in the background's queue.
        let mut ranges = vec![Range { start: first.from, len: PAGE_SIZE }];
        for piece in near.iter().take_while(|piece| piece.space == first.space) {
            ranges.extend(self.not_asked(piece));
        }
        let ranges = RangeSet::new(ranges);
        self.note_asked(first.space, &ranges);
        let mut ranges = ranges.ranges().to_vec();
        // What somebody waits for goes first.
        ranges.sort_by_key(|range| !(range.start..range.end()).contains(&first.from));
        Some(Wanted { space: first.space, ranges, urgent: true })
    }

    /// What of a piece is not on its way yet, by the source's addresses.
    fn not_asked(&self, piece: &Piece) -> Vec<Range> {
        let whole = Range { start: piece.from, len: piece.at.len };
        self.asked.get(&piece.space).map_or_else(|| vec![whole], |asked| asked.lacks(&whole))
    }

    fn note_asked(&mut self, space: SpaceId, ranges: &RangeSet) {
        let asked = self.asked.entry(space).or_default();
        for range in ranges.ranges() {
            asked.add(range);
        }
    }
}
