//! The writer: so many pages, so many of them written anew each second, wherever chance says. Each page says which it is, which
//! version of it this is, and a sum of both, at its beginning and at its end, and the writer looks at a page before it writes to it. Which
//! version each must have follows from how many were written: chance is a sequence that begins anew. So no table is written beside the
//! pages, which would be some hundreds of dirty pages more in each round. A page that is lost, stale, torn, zero or elsewhere after a move
//! is an error that it counts.
//!
//! It answers on TCP: `p` with the number of errors so far, `v` with that of errors after a look at every page, `w` with that of pages
//! that it has written.

use ferry_sys::mapped::Mapped;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Size of a page, bytes.
pub const PAGE: usize = 4096;

/// Where it listens.
pub const PORT: u16 = 7400;

/// Where chance begins.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The memory, and what it must hold.
pub struct Pages {
    memory: Mapped,
    count: usize,
    chance: Chance,
    /// Pages written since the beginning.
    written: u64,
}

/// A sequence of pages.
#[derive(Clone, Copy)]
struct Chance(u64);

impl Chance {
    /// The next one of `count`.
    fn next(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % count as u64) as usize
    }
}

impl Pages {
    /// Fills `count` pages with what no compressor makes smaller.
    ///
    /// # Errors
    /// There is not so much address space.
    pub fn new(count: usize) -> io::Result<Self> {
        let mut memory = Mapped::new(count * PAGE)?;
        // A huge page would be dirty as a whole: what is measured is so many small ones.
        memory.huge(false)?;
        for (index, page) in memory.chunks_mut(PAGE).enumerate() {
            fill(page, index);
            seal(page, index, 0);
        }
        Ok(Self { memory, count, chance: Chance(SEED), written: 0 })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Looks at a page by chance and gives it its next version. False: it was not what it must be.
    pub fn write_one(&mut self) -> bool {
        let index = self.chance.next(self.count);
        self.written += 1;
        let page = &mut self.memory[index * PAGE..][..PAGE];
        let version = version(page);
        let good = is_sealed(page, index, version);
        seal(page, index, version.wrapping_add(1));
        good
    }

    /// Pages that are not what they must be, every byte looked at.
    pub fn wrong(&self) -> u64 {
        let (mut versions, mut chance) = (vec![0_u32; self.count], Chance(SEED));
        for _ in 0..self.written {
            let version = &mut versions[chance.next(self.count)];
            *version = version.wrapping_add(1);
        }
        let mut wanted = vec![0; PAGE];
        let mut wrong = 0;
        for (index, page) in self.memory.chunks(PAGE).take(self.count).enumerate() {
            fill(&mut wanted, index);
            seal(&mut wanted, index, versions[index]);
            wrong += u64::from(page != wanted);
        }
        wrong
    }
}

fn fill(page: &mut [u8], index: usize) {
    crate::subject::fill(page, (index as u64).wrapping_mul(0xd134_2543_de82_ef95) | 1);
}

fn words(index: usize, version: u32) -> [u8; 24] {
    let (index, version) = (index as u64, u64::from(version));
    let sum = (index ^ version.rotate_left(32)).wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut words = [0; 24];
    for (place, word) in words.chunks_exact_mut(8).zip([index, version, sum]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    words
}

/// The version that a page says it is.
fn version(page: &[u8]) -> u32 {
    page[8..12].try_into().map_or(0, u32::from_le_bytes)
}

fn seal(page: &mut [u8], index: usize, version: u32) {
    let words = words(index, version);
    page[..24].copy_from_slice(&words);
    page[PAGE - 24..].copy_from_slice(&words);
}

fn is_sealed(page: &[u8], index: usize, version: u32) -> bool {
    let words = words(index, version);
    page[..24] == words && page[PAGE - 24..] == words
}

/// What it has done so far.
#[derive(Default)]
struct Done {
    written: AtomicU64,
    errors: AtomicU64,
}

/// Runs until it is killed: writes `rate` pages a second and answers. If it was behind by more than a tenth of a second (`strict`: four
/// milliseconds), the rest is not made up for.
///
/// # Errors
/// It cannot listen, or has not the memory.
pub fn run(bytes: u64, rate: u64, strict: bool) -> io::Result<()> {
    let mut pages = Pages::new((bytes as usize / PAGE).max(1))?;
    let done = Arc::new(Done::default());
    let (ask, asked) = channel();
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    let seen = done.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (seen, ask) = (seen.clone(), ask.clone());
            std::thread::spawn(move || answer(&stream, &seen, &ask));
        }
    });
    let behind_max = if strict { rate / 250 } else { rate / 10 };
    write_for_ever(&mut pages, rate, behind_max, &done, &asked)
}

fn write_for_ever(
    pages: &mut Pages,
    rate: u64,
    behind_max: u64,
    done: &Done,
    asked: &Receiver<Sender<u64>>,
) -> io::Result<()> {
    let tick = Duration::from_millis(1);
    let (mut began, mut written) = (Instant::now(), 0);
    loop {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        if due.saturating_sub(written) > behind_max + 1 {
            // It stood still: what was not written then is not made up for in one burst.
            (began, written) = (Instant::now(), 0);
            continue;
        }
        for _ in written..due {
            if !pages.write_one() {
                done.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        done.written.fetch_add(due.saturating_sub(written), Ordering::Relaxed);
        written = written.max(due);
        match asked.recv_timeout(tick) {
            Ok(answer) => drop(answer.send(pages.wrong())),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

fn answer(stream: &TcpStream, done: &Done, ask: &Sender<Sender<u64>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream;
    for line in BufReader::new(stream).lines() {
        let errors = done.errors.load(Ordering::Relaxed);
        let number = match line?.as_str() {
            "v" => {
                let (send, receive) = channel();
                ask.send(send).map_err(io::Error::other)?;
                errors + receive.recv().map_err(io::Error::other)?
            }
            "w" => done.written.load(Ordering::Relaxed),
            _ => errors,
        };
        out.write_all(format!("{number}\n").as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_not_what_it_must_be_is_found() {
        let mut pages = Pages::new(8).unwrap();
        assert!((0..100).all(|_| pages.write_one()));
        assert_eq!(pages.wrong(), 0);
        pages.memory[3 * PAGE + 2000] ^= 1;
        assert_eq!(pages.wrong(), 1);
        // One that is older than it must be, which stays so however often it is written again, and one that is zero.
        let page = &mut pages.memory[5 * PAGE..6 * PAGE];
        let version = version(page);
        assert!(version > 1);
        seal(page, 5, version - 1);
        assert_eq!(pages.wrong(), 2);
        (0..100).for_each(|_| assert!(pages.write_one()));
        assert_eq!(pages.wrong(), 2);
        pages.memory[6 * PAGE..7 * PAGE].fill(0);
        assert_eq!(pages.wrong(), 3);
        assert!((0..100).any(|_| !pages.write_one()));
    }
}
