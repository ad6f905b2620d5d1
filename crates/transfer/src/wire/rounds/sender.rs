//! The sending end: a carrier with a thread for each stream.

use super::super::cap::Cap;
use super::super::{Stream, invalid};
use super::SILENCE_MAX;
use super::compress::{Compression, Decider, Verdict};
use super::digest::{RoundDigest, Rounds};
use super::frame::{self, BYTES_MAX, Frame, HEADER_BYTES, Header, RANGES_MAX};
use super::held::Offer;
use super::queue::{Job, Next, Queue};
use crate::engine::{Carrier, without};
use crate::space::{PAGE_SIZE, Range, SpaceId};
use ferry_model::ids::Hash;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use zerocopy::IntoBytes;

/// How it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Most bytes per second on the link, all streams together.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Whether frames are packed.
    pub compression: Compression,
}

/// What went over so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Bytes of memory whose content was sent: zeros and what the target holds left out.
    pub memory_bytes: u64,
    /// Bytes of memory that were not sent because the target holds them.
    pub held_bytes: u64,
    /// Bytes on the link before encryption, with headers and tables.
    pub wire_bytes: u64,
    /// Whether frames are packed now, and why.
    pub compression: Verdict,
}

/// What all threads share.
struct Shared {
    queue: Queue,
    cap: Option<Cap>,
    decider: Mutex<Decider>,
    offer: OnceLock<Offer>,
    memory_bytes: AtomicU64,
    held_bytes: AtomicU64,
    wire_bytes: AtomicU64,
}

/// A [`Carrier`] over streams that have been greeted. Dropping it ends all of them; what waits is not sent.
pub struct StreamCarrier {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    rounds: Rounds,
}

impl StreamCarrier {
    /// Starts a thread for each stream.
    ///
    /// # Errors
    /// There is no stream, or no thread can be started.
    pub fn begin(streams: Vec<Box<dyn Stream>>, settings: &Settings) -> io::Result<Self> {
        if streams.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "Pages need at least one stream"));
        }
        let shared = Arc::new(Shared {
            queue: Queue::new(streams.len()),
            cap: settings.bandwidth_bytes_per_s.map(Cap::new),
            decider: Mutex::new(Decider::new(settings.compression)),
            offer: OnceLock::new(),
            memory_bytes: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            wire_bytes: AtomicU64::new(0),
        });
        let mut carrier =
            Self { shared, threads: Vec::with_capacity(streams.len()), rounds: Rounds::default() };
        for (index, stream) in streams.into_iter().enumerate() {
            let shared = carrier.shared.clone();
            let thread = std::thread::Builder::new().name(format!("pages-{index}"));
            carrier.threads.push(thread.spawn(move || {
                // Dropped last: the reason is noted before the other side can see the stream end.
                let mut line = Line::new(stream, &shared);
                let mut failing =
                    Failing(&shared.queue, Some(io::Error::other("A page stream's thread ended")));
                failing.1 = line.run().err();
            })?);
        }
        Ok(carrier)
    }

    /// What the target holds: the first round sends none of it. To be called before its first page, and once: the first call counts.
    pub fn offer(&self, offer: Offer) {
        let _ = self.shared.offer.set(offer);
    }

    /// The hash over all rounds that have been settled: the receiver must come to the same.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.rounds.finish()
    }

    /// What went over so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            memory_bytes: self.shared.memory_bytes.load(Ordering::Relaxed),
            held_bytes: self.shared.held_bytes.load(Ordering::Relaxed),
            wire_bytes: self.shared.wire_bytes.load(Ordering::Relaxed),
            compression: self.shared.decider().verdict(),
        }
    }

    /// Ends all streams in good order, after the last round was settled; the hash over all rounds.
    ///
    /// # Errors
    /// A stream broke before its end was said.
    pub fn finish(mut self) -> io::Result<Hash> {
        self.shared.queue.end();
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
        self.shared.queue.next(u64::MAX).map(|_| self.rounds.finish())
    }
}

impl Carrier for StreamCarrier {
    fn buffer(&mut self) -> Vec<u8> {
        self.shared.queue.buffer()
    }

    fn pages(&mut self, space: SpaceId, ranges: Vec<Range>, bytes: Vec<u8>) -> io::Result<()> {
        if bytes.len() > BYTES_MAX || ranges.len() > RANGES_MAX {
            return Err(invalid(format!("{} bytes in {} ranges at once", bytes.len(), ranges.len())));
        }
        // A thread takes them apart page by page.
        let whole = ranges.iter().all(|range| range.len.is_multiple_of(PAGE_SIZE));
        if !whole || ranges.iter().map(|range| range.len).sum::<u64>() != bytes.len() as u64 {
            return Err(invalid(format!("{} bytes for ranges of other pages", bytes.len())));
        }
        self.shared.queue.push(Job { space, ranges, bytes: Some(bytes) })
    }

    fn zero(&mut self, space: SpaceId, ranges: Vec<Range>) -> io::Result<()> {
        for ranges in ranges.chunks(RANGES_MAX) {
            self.shared.queue.push(Job { space, ranges: ranges.to_vec(), bytes: None })?;
        }
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        let digest = self.shared.queue.settle()?;
        self.rounds.close(digest);
        Ok(())
    }
}

impl Drop for StreamCarrier {
    /// The threads end by themselves: at once, or when the write that they are in comes to its end.
    fn drop(&mut self) {
        self.shared.queue.fail(&io::Error::new(io::ErrorKind::BrokenPipe, "The page streams were given up"));
    }
}

impl Shared {
    fn decider(&self) -> std::sync::MutexGuard<'_, Decider> {
        self.decider.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the queue how a thread ended, even by a panic.
struct Failing<'a>(&'a Queue, Option<io::Error>);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if let Some(error) = &self.1 {
            self.0.fail(error);
        }
    }
}

/// One stream.
struct Line<'a> {
    stream: Box<dyn Stream>,
    shared: &'a Shared,
    digest: RoundDigest,
    sequence: u64,
    head: Vec<u8>,
    packed: Vec<u8>,
    held: Vec<u8>,
    positions: Vec<u8>,
}

impl<'a> Line<'a> {
    fn new(stream: Box<dyn Stream>, shared: &'a Shared) -> Self {
        let (head, packed, held, positions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { stream, shared, digest: RoundDigest::default(), sequence: 0, head, packed, held, positions }
    }

    fn run(&mut self) -> io::Result<()> {
        self.stream.set_timeout(Some(SILENCE_MAX))?;
        let mut round = 0;
        loop {
            match self.shared.queue.next(round)? {
                Next::Send(job) => self.send(job, round == 0)?,
                Next::Settle(now) => {
                    self.settle(now)?;
                    round = now;
                    self.shared.queue.settled(&mut self.digest);
                }
                Next::End => {
                    self.stream.write_all(Header::new(&Frame::End, 0).as_bytes())?;
                    return self.stream.flush();
                }
            }
        }
    }

    /// Sends a job: in the first round what the target holds apart from the rest. Later ones have what was just written, which it cannot.
    fn send(&mut self, job: Job, first: bool) -> io::Result<()> {
        let Job { space, mut ranges, bytes } = job;
        let Some(mut bytes) = bytes else {
            self.begin(space, &ranges, &[])?;
            return self.write(&Frame::Zero { space, ranges: ranges.len() }, &[]);
        };
        if let Some(offer) = self.shared.offer.get().filter(|_| first) {
            ranges = self.held(offer, space, &ranges, &mut bytes)?;
        }
        if !ranges.is_empty() {
            self.pages(space, &ranges, &bytes)?;
        }
        self.shared.queue.give_back(bytes);
        Ok(())
    }

    fn pages(&mut self, space: SpaceId, ranges: &[Range], content: &[u8]) -> io::Result<()> {
        self.begin(space, ranges, content)?;
        let compressed = self.pack(content);
        let packed = std::mem::take(&mut self.packed);
        let body = if compressed { packed.as_slice() } else { content };
        let (ranges, bytes) = (ranges.len(), content.len());
        self.write(&Frame::Pages { space, ranges, bytes, body: body.len(), compressed }, body)?;
        self.packed = packed;
        self.shared.memory_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Takes what the target holds out of `bytes` and says where it has it; the ranges of the rest.
    fn held(
        &mut self,
        offer: &Offer,
        space: SpaceId,
        ranges: &[Range],
        bytes: &mut Vec<u8>,
    ) -> io::Result<Vec<Range>> {
        let (mut held, mut positions) = (std::mem::take(&mut self.held), std::mem::take(&mut self.positions));
        held.clear();
        positions.clear();
        let (rest, taken) = without(ranges, bytes, |page| {
            let position = offer.find(page);
            if let Some(position) = position {
                positions.extend_from_slice(&position.to_le_bytes());
                held.extend_from_slice(page);
            }
            position.is_some()
        });
        if !taken.is_empty() {
            // The target hashes what it holds: only the same content comes to the same hash.
            self.begin(space, &taken, &held)?;
            self.write(&Frame::Held { space, ranges: taken.len(), bytes: held.len() }, &positions)?;
            self.shared.held_bytes.fetch_add(held.len() as u64, Ordering::Relaxed);
        }
        (self.held, self.positions) = (held, positions);
        Ok(rest)
    }

    /// Begins a frame: its table, with room for the header, and its hash.
    fn begin(&mut self, space: SpaceId, ranges: &[Range], content: &[u8]) -> io::Result<()> {
        self.head.clear();
        self.head.resize(HEADER_BYTES, 0);
        frame::write_table(ranges, &mut self.head)?;
        self.digest.add(space, &self.head[HEADER_BYTES..], content);
        Ok(())
    }

    /// Sends the frame that was begun, within the cap.
    fn write(&mut self, frame: &Frame, body: &[u8]) -> io::Result<()> {
        self.head[..HEADER_BYTES].copy_from_slice(Header::new(frame, self.sequence).as_bytes());
        self.sequence += 1;
        let wire = self.head.len() + body.len();
        let begin = Instant::now();
        if let Some(cap) = &self.shared.cap {
            std::thread::sleep(cap.take(wire as u64, begin));
        }
        self.stream.write_all(&self.head)?;
        self.stream.write_all(body)?;
        // The short ones say nothing about the link.
        if matches!(frame, Frame::Pages { .. }) {
            self.shared.decider().wrote(wire, begin.elapsed());
        }
        self.shared.wire_bytes.fetch_add(wire as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Packs `content` if that is wanted; whether it has become so much shorter that it is sent so.
    fn pack(&mut self, content: &[u8]) -> bool {
        if !self.shared.decider().next() {
            return false;
        }
        let begin = Instant::now();
        frame::pack(content, &mut self.packed);
        let packed = self.packed.len();
        self.shared.decider().packed(content.len(), packed, begin.elapsed());
        packed < content.len() / 16 * 15
    }

    /// Says that the round is over and waits until everything is in its place.
    fn settle(&mut self, round: u64) -> io::Result<()> {
        self.stream.write_all(Header::new(&Frame::Settle { round }, 0).as_bytes())?;
        self.stream.flush()?;
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        match frame::header(&header, 0)? {
            Frame::Settled { round: settled } if settled == round => Ok(()),
            other => Err(invalid(format!("{other:?} where the end of round {round} was due"))),
        }
    }
}
