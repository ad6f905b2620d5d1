//! The source: answers what it is asked for, one stream at a time.

use super::super::cap::Cap;
use super::super::invalid;
use super::super::rounds::frame::{
    self, ENTRY_BYTES, Frame, HASH_BYTES, HEADER_BYTES, Header, RANGES_MAX, read_table, write_table,
};
use super::super::rounds::{Compression, Decider};
use super::delivered::Delivered;
use super::sum::{PageHash, PageSum, sum_of};
use crate::access::Missing;
use crate::engine::{RangeSet, without_zeros};
use crate::space::{self, PAGE_SIZE, PageSource, Range, SpaceId};
use ferry_model::ids::Hash;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;
use zerocopy::IntoBytes;

/// Most bytes of memory in one answer: an urgent page on another stream shares the link with at most so many at a time.
const ANSWER_BYTES: u64 = 256 << 10;

/// Most ranges that a target may say that it has: as many pages as 64 TiB have in every second place are more than any memory.
const HAVE_RANGES_MAX: usize = 1 << 24;

/// What went over, all streams of one move together.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of memory that were answered, zeros included. A page that was asked for twice counts twice.
    pub served_bytes: AtomicU64,
    /// Of these such that somebody waited for.
    pub urgent_bytes: AtomicU64,
    /// The hash on which both sides agree, as soon as the target has said that nothing is missing any more.
    pub agreed: OnceLock<Hash>,
    /// What was answered, with its sum.
    answered: Mutex<Delivered>,
}

/// Answers what comes on one stream until the target closes it. `allowed` is what was offered as missing: every other page is refused, and
/// ends the stream. Pages that somebody waits for go at once, whatever the `cap` says; the others wait until they have been made up for.
///
/// # Errors
/// The stream broke, the target asked for what was not offered, the memory cannot be read, or both sides do not come to the same hash.
pub fn serve(
    stream: &mut (impl Read + Write + ?Sized),
    source: &dyn PageSource,
    allowed: &[Missing],
    progress: &Progress,
    cap: Option<&Cap>,
) -> io::Result<()> {
    let mut server = Server {
        stream,
        source,
        allowed: allowed.iter().map(|each| (each.space, each.ranges.as_slice())).collect(),
        progress,
        cap,
        decider: Decider::new(Compression::Measured),
        heard: 0,
        said: 0,
        has: BTreeMap::new(),
        has_ranges: 0,
        buffer: Vec::new(),
        packed: Vec::new(),
        out: Vec::new(),
    };
    while server.turn()? {}
    Ok(())
}

struct Server<'a, S: ?Sized> {
    stream: &'a mut S,
    source: &'a dyn PageSource,
    allowed: BTreeMap<SpaceId, &'a [Range]>,
    progress: &'a Progress,
    cap: Option<&'a Cap>,
    decider: Decider,
    /// Frames with a table that came, and that went.
    heard: u64,
    said: u64,
    /// What the target says it has.
    has: BTreeMap<SpaceId, Vec<Range>>,
    has_ranges: usize,
    buffer: Vec<u8>,
    packed: Vec<u8>,
    out: Vec<u8>,
}

impl<S: Read + Write + ?Sized> Server<'_, S> {
    /// One frame; false: the target has closed the stream.
    fn turn(&mut self) -> io::Result<bool> {
        let mut header = [0; HEADER_BYTES];
        if !begin(self.stream, &mut header)? {
            return Ok(false);
        }
        match frame::header(&header, self.heard)? {
            Frame::Ask { space, ranges, urgent } => {
                let (ranges, _) = self.table(space, ranges)?;
                self.answer(space, &ranges, urgent)?;
            }
            Frame::Have { space, ranges } => {
                self.has_ranges += ranges;
                if self.has_ranges > HAVE_RANGES_MAX {
                    return Err(invalid("The target has more pages than there are"));
                }
                let (ranges, _) = self.table(space, ranges)?;
                self.has.entry(space).or_default().extend(ranges);
            }
            Frame::AllIn => {
                let mut hash = [0; HASH_BYTES];
                self.stream.read_exact(&mut hash)?;
                self.agree(Hash(hash))?;
            }
            other => return Err(invalid(format!("{other:?} where a target was to ask"))),
        }
        Ok(true)
    }

    /// The table behind a header. All of it was offered.
    fn table(&mut self, space: SpaceId, ranges: usize) -> io::Result<(Vec<Range>, u64)> {
        let mut table = vec![0; ranges * ENTRY_BYTES];
        self.stream.read_exact(&mut table)?;
        self.heard += 1;
        let (ranges, sum) = read_table(&table)?;
        let offered = self.allowed.get(&space).copied().unwrap_or_default();
        if let Some(range) = ranges.iter().find(|range| !space::covers(offered, range.start, range.len)) {
            let Range { start, len } = range;
            return Err(invalid(format!("{len} bytes at {start:#x} of space {} were not offered", space.0)));
        }
        Ok((ranges, sum))
    }

    fn answer(&mut self, space: SpaceId, ranges: &[Range], urgent: bool) -> io::Result<()> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let most = match self.cap {
            Some(cap) if !urgent => (cap.piece() / PAGE_SIZE * PAGE_SIZE).clamp(PAGE_SIZE, ANSWER_BYTES),
            _ => ANSWER_BYTES,
        };
        for range in ranges {
            let mut start = range.start;
            while start < range.end() {
                let len = (range.end() - start).min(most - bytes);
                batch.push(Range { start, len });
                (start, bytes) = (start + len, bytes + len);
                if bytes == most || batch.len() == RANGES_MAX {
                    self.send(space, &std::mem::take(&mut batch), bytes, urgent)?;
                    bytes = 0;
                }
            }
        }
        if batch.is_empty() { Ok(()) } else { self.send(space, &batch, bytes, urgent) }
    }

    fn send(&mut self, space: SpaceId, ranges: &[Range], bytes: u64, urgent: bool) -> io::Result<()> {
        self.buffer.resize(bytes as usize, 0);
        self.source.read_ranges(space, ranges, &mut self.buffer)?;
        let (content, zero) = without_zeros(ranges, &mut self.buffer);
        self.out.clear();
        if !content.is_empty() {
            // Whoever waits for a page waits for its compression too.
            let packed = !urgent && self.decider.next() && {
                let begin = Instant::now();
                frame::pack(&self.buffer, &mut self.packed);
                self.decider.packed(self.buffer.len(), self.packed.len(), begin.elapsed());
                self.packed.len() < self.buffer.len() / 16 * 15
            };
            let body = if packed { &self.packed } else { &self.buffer };
            let (bytes, ranges) = (self.buffer.len(), content.len());
            let head = Frame::Pages { space, ranges, bytes, body: body.len(), compressed: packed };
            self.out.extend_from_slice(Header::new(&head, self.said).as_bytes());
            write_table(&content, &mut self.out)?;
            self.out.extend_from_slice(body);
            self.said += 1;
        }
        if !zero.is_empty() {
            let head = Frame::Zero { space, ranges: zero.len() };
            self.out.extend_from_slice(Header::new(&head, self.said).as_bytes());
            write_table(&zero, &mut self.out)?;
            self.said += 1;
        }
        let wait = self.cap.map(|cap| cap.take(self.out.len() as u64, Instant::now()));
        if let Some(wait) = wait.filter(|_| !urgent) {
            std::thread::sleep(wait);
        }
        let begin = Instant::now();
        self.stream.write_all(&self.out)?;
        self.stream.flush()?;
        self.decider.wrote(self.out.len(), begin.elapsed());
        self.progress.served_bytes.fetch_add(bytes, Ordering::Relaxed);
        if urgent {
            self.progress.urgent_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.add_up(space, &content, &zero);
        Ok(())
    }

    /// Adds up what was answered: when it is on its way already, and nobody waits.
    fn add_up(&self, space: SpaceId, content: &[Range], zero: &[Range]) {
        let numbers = |range: &Range| (range.start..range.end()).step_by(PAGE_SIZE as usize);
        let filled = content.iter().flat_map(numbers).zip(self.buffer.chunks(PAGE_SIZE as usize));
        let empty = zero.iter().flat_map(numbers).map(|start| (start, &[][..]));
        let hashed: Vec<(u64, PageHash)> =
            filled.chain(empty).map(|(start, page)| (start, PageHash::of(space, start, page))).collect();
        let answered = self.progress.answered.lock();
        answered.unwrap_or_else(PoisonError::into_inner).add_hashed(space, &hashed);
    }

    /// The sum of what the target says it has.
    fn sum_of(&self, has: &BTreeMap<SpaceId, RangeSet>) -> io::Result<PageSum> {
        let Delivered { pages, sum } =
            self.progress.answered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answered: BTreeMap<SpaceId, RangeSet> =
            pages.into_iter().map(|(space, pages)| (space, pages.to_set())).collect();
        let without = |all: &BTreeMap<SpaceId, RangeSet>, others: &BTreeMap<SpaceId, RangeSet>| {
            let rest = |(space, set): (&SpaceId, &RangeSet)| {
                (*space, others.get(space).map_or_else(|| set.clone(), |other| set.difference(other)))
            };
            sum_of(self.source, &all.iter().map(rest).collect::<Vec<_>>())
        };
        Ok(sum.plus(&without(has, &answered)?).minus(&without(&answered, has)?))
    }

    fn agree(&mut self, hash: Hash) -> io::Result<()> {
        let has: BTreeMap<SpaceId, RangeSet> = std::mem::take(&mut self.has)
            .into_iter()
            .map(|(space, ranges)| (space, RangeSet::new(ranges)))
            .collect();
        let own = self.sum_of(&has)?.hash();
        if own != hash {
            return Err(invalid(format!("The target's pages have the hash {hash:?}, the source's {own:?}")));
        }
        self.has_ranges = 0;
        // First, so that whoever hears of it from the target finds it here.
        let _ = self.progress.agreed.set(hash);
        self.stream.write_all(Header::new(&Frame::Agreed, 0).as_bytes())?;
        self.stream.flush()
    }
}

/// Reads a header; false: nothing follows.
fn begin(stream: &mut (impl Read + ?Sized), header: &mut [u8; HEADER_BYTES]) -> io::Result<bool> {
    let first = loop {
        match stream.read(header) {
            Ok(0) => return Ok(false),
            Ok(count) => break count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    stream.read_exact(&mut header[first..]).map(|()| true)
}
