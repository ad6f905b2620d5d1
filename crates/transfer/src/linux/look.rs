//! What the page tables of a task tell, in one walk over those of its anonymous memory: what the kernel does not tell of has content and was
//! not written. Walked by several threads where there is much of it: they wait for memory more than they work (1.2 ms for the page tables of
//! a gigabyte that are in no cache, 0.7 for those that are).

use super::tracker::range;
use crate::engine::RangeSet;
use crate::space::Range;
use ferry_sys::pagemap::{
    IS_FILE, IS_GUARD, IS_PRESENT, IS_SWAPPED, IS_TRACKED, IS_WRITTEN, IS_ZERO, PAGE, Pagemap, Part, Query,
    Region,
};
use std::io;
use std::sync::OnceLock;

/// Less is not worth a thread, bytes.
const PIECE_BYTES_MIN: u64 = 256 << 20;

/// Most threads: who moves is not alone on its host.
const THREADS_MAX: usize = 4;

/// What lies between two runs and is shorter is walked over with them, bytes: a call takes as long as a walk over so much (1.3 µs).
const GAP_BYTES_MAX: u64 = 256 * PAGE;

/// What lies between two mappings and is shorter does not part the work on them, bytes: there are no page tables to walk over. A longer one
/// does: between a heap and what was mapped lie terabytes, and who shared those out evenly would give one thread all there is.
const VOID_BYTES_MAX: u64 = 64 << 20;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Pages with content, and where something shared or unmapped lies between: the caller knows the mappings.
    pub content: RangeSet,
    /// Content in mappings that are not tracked.
    pub loose: RangeSet,
    /// Content that was written since the last scan that protected.
    pub written: RangeSet,
    /// Content that is not in memory, of mappings of files and what lies among them: it may be a marker of a page that was given back.
    pub out: RangeSet,
    /// Pages of anonymous memory that are guards.
    pub guards: RangeSet,
}

impl Look {
    /// Looks at all `parts`, of which `mapped` is all that can hold something.
    pub fn at(pagemap: &Pagemap, parts: &[Part], mapped: &RangeSet) -> io::Result<Self> {
        let (mut content, mut loose, mut written, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut absent, mut guards) = (Vec::new(), Vec::new());
        for part in parts.iter().filter(|part| !part.anonymous) {
            for region in pagemap.scan(part.start, part.end, &Query::CONTENT_AND_WRITES)? {
                let range = range(&region);
                content.push(range);
                if region.categories & IS_TRACKED == 0 {
                    loose.push(range);
                }
                if region.categories & IS_WRITTEN != 0 {
                    written.push(range);
                }
                if region.categories & IS_PRESENT == 0 {
                    out.push(range);
                }
            }
        }
        let anonymous: Vec<Range> = parts.iter().filter(|part| part.anonymous).map(whole).collect();
        for part in &anonymous {
            loose
                .extend(pagemap.scan(part.start, part.end(), &Query::UNTRACKED_ANONYMOUS)?.iter().map(range));
        }
        let held = near(&RangeSet::new(anonymous.clone()).intersection(mapped), VOID_BYTES_MAX);
        let pieces = pieces(&held, threads());
        let changed = beside(&pieces, |piece| changed(pagemap, piece))?;
        for region in changed {
            let some = region.categories & (IS_PRESENT | IS_SWAPPED) != 0;
            if !some || region.categories & (IS_ZERO | IS_GUARD) != 0 {
                absent.push(range(&region));
                if region.categories & IS_GUARD != 0 {
                    guards.push(range(&region));
                }
            } else if region.categories & IS_WRITTEN != 0 {
                written.push(range(&region));
            }
        }
        content.extend(anonymous);
        Ok(Self {
            content: RangeSet::new(content).difference(&RangeSet::new(absent)),
            loose: RangeSet::new(loose),
            written: RangeSet::new(written),
            out: RangeSet::new(out),
            guards: RangeSet::new(guards),
        })
    }
}

/// Where something is not as it was when `piece` was protected last, or not there.
fn changed(pagemap: &Pagemap, piece: &Range) -> io::Result<Vec<Region>> {
    let Some(unprotected) = pagemap.unprotected(piece.start, piece.end())? else {
        return pagemap.changed(piece.start, piece.end());
    };
    let unprotected: RangeSet = unprotected.iter().map(range).collect();
    one_by_one(&near(&unprotected, GAP_BYTES_MAX), |run| pagemap.changed(run.start, run.end()))
}

/// The pages in `mapped` that are guards.
///
/// # Errors
/// The task may not be looked at.
pub fn guards(pagemap: &Pagemap, mapped: &RangeSet) -> io::Result<RangeSet> {
    let pieces = pieces(&near(mapped, VOID_BYTES_MAX), threads());
    let found = beside(&pieces, |piece| pagemap.guards(piece.start, piece.end()))?;
    Ok(found.iter().map(range).collect::<RangeSet>().intersection(mapped))
}

/// Protects all that was written in or near `runs`, and gives it.
pub(super) fn protect(pagemap: &Pagemap, parts: &[Part], runs: &RangeSet) -> io::Result<RangeSet> {
    let mut found = Vec::new();
    for part in parts {
        let query = Query::WRITTEN_AND_PROTECT;
        let refused = if part.anonymous { query.refused & !IS_FILE } else { query.refused };
        let query = Query { refused, ..query };
        let runs = near(&runs.intersection(&RangeSet::new(vec![whole(part)])), GAP_BYTES_MAX);
        let pieces: Vec<Range> = runs.iter().flat_map(|run| pieces(&[*run], threads())).collect();
        let many = |piece: &Range| pagemap.scan(piece.start, piece.end(), &query);
        // A thread for each of many short runs would take longer than they do.
        let regions = match runs.iter().map(|run| run.len).max() {
            Some(longest) if longest > PIECE_BYTES_MIN => beside(&pieces, many)?,
            _ => one_by_one(&pieces, many)?,
        };
        found.extend(regions.iter().map(range));
    }
    Ok(RangeSet::new(found))
}

/// `runs` with what lies between two of them where that is at most `gap` bytes.
fn near(runs: &RangeSet, gap: u64) -> Vec<Range> {
    let mut near: Vec<Range> = Vec::new();
    for run in runs.ranges() {
        match near.last_mut() {
            Some(last) if run.start - last.end() <= gap => last.len = run.end() - last.start,
            _ => near.push(*run),
        }
    }
    near
}

/// Cuts `ranges` so that `threads` of them have about as much to do each.
fn pieces(ranges: &[Range], threads: usize) -> Vec<Range> {
    let bytes: u64 = ranges.iter().map(|range| range.len).sum();
    // More than one for each: what is mapped need not lie evenly.
    let share = bytes / (threads as u64 * 4).max(1);
    let most = share.max(PIECE_BYTES_MIN) / PAGE * PAGE;
    let cut = |range: &Range| {
        let (start, end) = (range.start, range.end());
        (start..end)
            .step_by(usize::try_from(most).unwrap_or(usize::MAX))
            .map(move |at| Range { start: at, len: most.min(end - at) })
    };
    ranges.iter().flat_map(cut).collect()
}

/// Asks of each piece, several at once; the answers in their order.
fn beside(
    pieces: &[Range],
    ask: impl Fn(&Range) -> io::Result<Vec<Region>> + Sync,
) -> io::Result<Vec<Region>> {
    let threads = threads().min(pieces.len());
    if threads < 2 {
        return one_by_one(pieces, ask);
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let answers: Vec<OnceLock<io::Result<Vec<Region>>>> = pieces.iter().map(|_| OnceLock::new()).collect();
    let work = || {
        while let Some((piece, answer)) = {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            pieces.get(at).zip(answers.get(at))
        } {
            let _ = answer.set(ask(piece));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // One that cannot be started leaves its work to the others.
            let _ = std::thread::Builder::new().name("ferry-look".into()).spawn_scoped(scope, work);
        }
        work();
    });
    let mut all = Vec::new();
    for answer in answers {
        let missing = || Err(io::Error::other("A look at page tables ended early"));
        all.append(&mut answer.into_inner().unwrap_or_else(missing)?);
    }
    Ok(all)
}

fn one_by_one(pieces: &[Range], ask: impl Fn(&Range) -> io::Result<Vec<Region>>) -> io::Result<Vec<Region>> {
    let mut all = Vec::new();
    for piece in pieces {
        all.append(&mut ask(piece)?);
    }
    Ok(all)
}

fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX))
}

pub(super) fn whole(part: &Part) -> Range {
    Range { start: part.start, len: part.end - part.start }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn range(start: u64, len: u64) -> Range {
        Range { start, len }
    }

    #[test]
    fn pieces_are_all_that_there_is_and_not_too_many() {
        let ranges = [range(0x1000, 900 * MIB), range(4096 * MIB, 4096), range(1 << 40, 1 << 44)];
        for threads in 1..=4 {
            let pieces = pieces(&ranges, threads);
            assert_eq!(RangeSet::new(pieces.clone()), RangeSet::new(ranges.to_vec()));
            assert!(pieces.len() < 40, "{} pieces", pieces.len());
            assert_eq!(pieces.iter().map(|piece| piece.len).sum::<u64>(), 900 * MIB + 4096 + (1 << 44));
        }
        assert_eq!(pieces(&[range(0x1000, 200 * MIB)], 4).len(), 1);
    }

    #[test]
    fn answers_come_in_order_and_an_error_is_one() {
        let pieces: Vec<Range> = (0..37).map(|at| range(at * PAGE, PAGE)).collect();
        let say = |piece: &Range| {
            Ok(vec![Region { start: piece.start, end: piece.end(), categories: piece.start / PAGE % 2 }])
        };
        let all = beside(&pieces, say).unwrap();
        assert!(all.iter().map(|region| region.start).eq(pieces.iter().map(|piece| piece.start)));
        let fails = |piece: &Range| {
            if piece.start == 9 * PAGE { Err(io::Error::other("no")) } else { say(piece) }
        };
        assert!(beside(&pieces, fails).is_err());
    }

    #[test]
    fn short_gaps_are_walked_over() {
        let runs = RangeSet::new(vec![range(0, PAGE), range(3 * PAGE, PAGE), range(10 * MIB, PAGE)]);
        assert_eq!(near(&runs, GAP_BYTES_MAX), [range(0, 4 * PAGE), range(10 * MIB, PAGE)]);
    }
}
