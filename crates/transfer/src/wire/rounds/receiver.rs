//! The receiving end: a thread for each stream that puts pages in their places, for the whole of a move.

use super::super::{Stream, invalid};
use super::digest::{RoundDigest, Rounds};
use super::frame::{self, BYTES_MAX, ENTRY_BYTES, Frame, HEADER_BYTES, Header, POSITION_BYTES};
use super::held::Held;
use super::{LOOK_EVERY, SILENCE_MAX};
use crate::engine::Filler;
use crate::space::{PAGE_SIZE, Range, SpaceId};
use ferry_model::ids::Hash;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// What all threads share.
struct Shared {
    filler: RwLock<Arc<dyn Filler>>,
    /// What was offered to the sender; none if nothing was.
    held: OnceLock<Arc<dyn Held>>,
    state: Mutex<State>,
    /// Nobody wants anything more.
    stop: AtomicBool,
    bytes: AtomicU64,
    streams: usize,
}

#[derive(Default)]
struct State {
    digest: RoundDigest,
    arrived: usize,
    rounds: Rounds,
    failed: Option<(io::ErrorKind, String)>,
}

/// Receives rounds until the sender's end. Dropping it ends all threads, and waits for them: nothing is written after that.
pub struct Receiver {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Receiver {
    /// Starts a thread for each stream.
    ///
    /// # Errors
    /// There is no stream, or no thread can be started.
    pub fn begin(streams: Vec<Box<dyn Stream>>, filler: Arc<dyn Filler>) -> io::Result<Self> {
        if streams.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "Pages need at least one stream"));
        }
        let shared = Arc::new(Shared {
            filler: RwLock::new(filler),
            held: OnceLock::new(),
            state: Mutex::default(),
            stop: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            streams: streams.len(),
        });
        let mut receiver = Self { shared, threads: Vec::with_capacity(streams.len()) };
        for (index, stream) in streams.into_iter().enumerate() {
            let shared = receiver.shared.clone();
            let thread = std::thread::Builder::new().name(format!("pages-{index}"));
            receiver.threads.push(thread.spawn(move || {
                // Dropped last: the reason is noted before the other side can see the stream end.
                let mut line = Line::new(stream, &shared);
                let mut ending = Ending(&shared, Some(io::Error::other("A page stream's thread ended")));
                ending.1 = line.run().err();
            })?);
        }
        Ok(receiver)
    }

    /// From now on pages go into `filler`. To be called between rounds only, when everything sent before has been settled.
    pub fn set_filler(&self, filler: Arc<dyn Filler>) {
        *self.shared.filler.write().unwrap_or_else(PoisonError::into_inner) = filler;
    }

    /// Pages that the sender gives by number come from `held`. To be called before they are offered to it, and once: the first call counts.
    pub fn hold(&self, held: Arc<dyn Held>) {
        let _ = self.shared.held.set(held);
    }

    /// How many rounds are in their places, and the hash over them: the sender must come to the same.
    #[must_use]
    pub fn settled(&self) -> (u64, Hash) {
        let state = self.shared.lock();
        (state.rounds.count(), state.rounds.finish())
    }

    /// Bytes of memory that are in their places, those that were held here included, zeros left out.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Why it has ended early, if it has.
    ///
    /// # Errors
    /// That reason.
    pub fn check(&self) -> io::Result<()> {
        match &self.shared.lock().failed {
            None => Ok(()),
            Some((kind, what)) => Err(io::Error::new(*kind, what.clone())),
        }
    }

    /// Waits for the sender's end on every stream; the number of rounds and the hash over them.
    ///
    /// # Errors
    /// A stream broke, what came was not allowed, or it could not be put in its place.
    pub fn finish(mut self) -> io::Result<(u64, Hash)> {
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
        self.check().map(|()| self.settled())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filler(&self) -> Arc<dyn Filler> {
        self.filler.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One stream has put everything of `round` in its place. With the last of them the round is closed.
    fn settle(&self, round: u64, digest: &mut RoundDigest) -> io::Result<()> {
        let mut state = self.lock();
        if round != state.rounds.count() + 1 {
            return Err(invalid(format!("Round {round} ends after {} of them", state.rounds.count())));
        }
        state.digest.merge(digest);
        state.arrived += 1;
        if state.arrived == self.streams {
            state.arrived = 0;
            let digest = std::mem::take(&mut state.digest);
            state.rounds.close(digest);
        }
        Ok(())
    }
}

/// Stops the other threads when one fails, even by a panic.
struct Ending<'a>(&'a Shared, Option<io::Error>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if let Some(error) = &self.1 {
            self.0.stop.store(true, Ordering::Relaxed);
            self.0.lock().failed.get_or_insert_with(|| (error.kind(), error.to_string()));
        }
    }
}

/// One stream.
struct Line<'a> {
    stream: Box<dyn Stream>,
    shared: &'a Shared,
    digest: RoundDigest,
    sequence: u64,
    table: Vec<u8>,
    body: Vec<u8>,
    content: Vec<u8>,
}

impl<'a> Line<'a> {
    fn new(stream: Box<dyn Stream>, shared: &'a Shared) -> Self {
        let (table, body, content) = (Vec::new(), Vec::new(), Vec::new());
        Self { stream, shared, digest: RoundDigest::default(), sequence: 0, table, body, content }
    }

    fn run(&mut self) -> io::Result<()> {
        self.stream.set_timeout(Some(LOOK_EVERY))?;
        loop {
            let mut header = [0; HEADER_BYTES];
            // Between frames a sender may be silent for long: it waits for the workload to write, or for the target to take a draft in.
            fill(&mut self.stream, &mut header, self.shared, None)?;
            match frame::header(&header, self.sequence)? {
                Frame::Pages { space, ranges, bytes, body, compressed } => {
                    self.pages(space, ranges, bytes, body, compressed)?;
                }
                Frame::Zero { space, ranges } => {
                    self.table(ranges)?;
                    let (ranges, _) = frame::read_table(&self.table)?;
                    self.digest.add(space, &self.table, &[]);
                    self.shared.filler().zero(space, &ranges)?;
                }
                Frame::Held { space, ranges, bytes } => self.held(space, ranges, bytes)?,
                Frame::Settle { round } => {
                    self.shared.settle(round, &mut self.digest)?;
                    self.stream.write_all(Header::new(&Frame::Settled { round }, 0).as_bytes())?;
                    self.stream.flush()?;
                    continue;
                }
                Frame::End => return Ok(()),
                other => return Err(invalid(format!("{other:?} where pages of a round were due"))),
            }
            self.sequence += 1;
        }
    }

    fn pages(
        &mut self,
        space: SpaceId,
        ranges: usize,
        bytes: usize,
        body: usize,
        compressed: bool,
    ) -> io::Result<()> {
        let ranges = self.table_of(ranges, bytes)?;
        let came = if compressed { &mut self.body } else { &mut self.content };
        came.resize(body, 0);
        fill(&mut self.stream, came, self.shared, Some(SILENCE_MAX))?;
        if compressed {
            self.content.resize(bytes, 0);
            frame::unpack(&self.body, &mut self.content)?;
        }
        self.place(space, &ranges)
    }

    /// Pages that are held here: only their positions come.
    fn held(&mut self, space: SpaceId, ranges: usize, bytes: usize) -> io::Result<()> {
        let held = self.shared.held.get().ok_or_else(|| invalid("Pages by number, and none were offered"))?;
        let ranges = self.table_of(ranges, bytes)?;
        self.body.resize(frame::positions_bytes(bytes), 0);
        fill(&mut self.stream, &mut self.body, self.shared, Some(SILENCE_MAX))?;
        self.content.resize(bytes, 0);
        let (positions, _) = self.body.as_chunks::<POSITION_BYTES>();
        for (position, page) in positions.iter().zip(self.content.chunks_exact_mut(PAGE_SIZE as usize)) {
            let position = u32::from_le_bytes(*position);
            held.read(position, page).map_err(|error| {
                io::Error::new(error.kind(), format!("Page {position} of those held here: {error}"))
            })?;
        }
        // What is hashed is what is put in its place: a wrong page shows as one that was altered on the way does.
        self.place(space, &ranges)
    }

    /// Hashes the content and puts it in its place.
    fn place(&mut self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        self.digest.add(space, &self.table, &self.content);
        self.shared.filler().write_ranges(space, ranges, &self.content)?;
        self.shared.bytes.fetch_add(self.content.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Reads a table of so many bytes of memory.
    fn table_of(&mut self, ranges: usize, bytes: usize) -> io::Result<Vec<Range>> {
        self.table(ranges)?;
        let (ranges, sum) = frame::read_table(&self.table)?;
        if sum != bytes as u64 || bytes > BYTES_MAX {
            return Err(invalid(format!("Ranges of {sum} bytes for {bytes}")));
        }
        Ok(ranges)
    }

    fn table(&mut self, ranges: usize) -> io::Result<()> {
        self.table.resize(ranges * ENTRY_BYTES, 0);
        fill(&mut self.stream, &mut self.table, self.shared, Some(SILENCE_MAX))
    }
}

/// Fills `buffer`; ends when nobody wants it any more, or when nothing comes for `silence_max`.
fn fill(
    stream: &mut Box<dyn Stream>,
    buffer: &mut [u8],
    shared: &Shared,
    silence_max: Option<Duration>,
) -> io::Result<()> {
    let mut at = 0;
    let mut heard = Instant::now();
    while at < buffer.len() {
        if shared.stop.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "The page streams were given up"));
        }
        match stream.read(&mut buffer[at..]) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "A page stream broke off")),
            Ok(count) => {
                at += count;
                heard = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                // What has begun must go on.
                if (at > 0 || silence_max.is_some()) && heard.elapsed() > silence_max.unwrap_or(SILENCE_MAX) {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "A page stream fell silent"));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
