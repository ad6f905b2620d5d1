//! Sending a set of pages: in batches, with what is zero only told.

use super::carrier::Carrier;
use super::range_set::RangeSet;
use super::rounds::RoundError;
use super::space::TrackedSpace;
use crate::space::{PAGE_SIZE, Range, SpaceId};

/// Bytes read and handed over at once: long enough for full speed, short enough to be cancelled within a millisecond or two.
pub const BATCH_BYTES: u64 = 1 << 20;

/// What becomes of a page that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It has gone since the scan: the next one says so.
    Skipped,
    /// Nothing can have changed since the scan.
    Error,
}

/// What was handed over, by how.
#[derive(Debug, Default)]
pub(super) struct Sent {
    content: Vec<Range>,
    zero: Vec<Range>,
    /// Bytes that could not be read.
    pub(super) skipped: u64,
}

impl Sent {
    /// Everything handed over, and of this what was told to be zero.
    pub(super) fn pages(self) -> (RangeSet, RangeSet) {
        let zero = RangeSet::new(self.zero);
        (RangeSet::new(self.content).union(&zero), zero)
    }
}

/// Reads `due` of one space and hands it over.
pub(super) fn send(
    space: &impl TrackedSpace,
    due: &RangeSet,
    carrier: &mut impl Carrier,
    cancelled: &dyn Fn() -> bool,
    unreadable: Unreadable,
    sent: &mut Sent,
) -> Result<(), RoundError> {
    for batch in batches(due) {
        if cancelled() {
            return Err(RoundError::Cancelled);
        }
        let mut buffer = carrier.buffer();
        fit(&mut buffer, batch.iter().map(|range| range.len).sum());
        if space.read(&batch, &mut buffer).is_ok() {
            hand_over(space.id(), &batch, buffer, carrier, sent)?;
            continue;
        }
        // Something in it has gone since the scan: page by page, the others are still there.
        for page in batch.iter().flat_map(pages) {
            fit(&mut buffer, PAGE_SIZE);
            match space.read(&[page], &mut buffer) {
                Ok(()) => {
                    hand_over(space.id(), &[page], std::mem::take(&mut buffer), carrier, sent)?;
                    buffer = carrier.buffer();
                }
                Err(source) if unreadable == Unreadable::Error => {
                    let Range { start, len } = page;
                    return Err(RoundError::Read { space: space.id(), start, len, source });
                }
                Err(_) => sent.skipped += page.len,
            }
        }
    }
    Ok(())
}

/// Makes `buffer` this long, whatever is in it.
fn fit(buffer: &mut Vec<u8>, len: u64) {
    buffer.resize(len as usize, 0);
}

/// Hands `bytes` of `ranges` over, without the pages that are zero.
fn hand_over(
    id: SpaceId,
    ranges: &[Range],
    mut bytes: Vec<u8>,
    carrier: &mut impl Carrier,
    sent: &mut Sent,
) -> Result<(), RoundError> {
    let (content, zero) = without_zeros(ranges, &mut bytes);
    sent.zero.extend_from_slice(&zero);
    sent.content.extend_from_slice(&content);
    if !zero.is_empty() {
        carrier.zero(id, zero).map_err(RoundError::Carry)?;
    }
    if !content.is_empty() {
        carrier.pages(id, content, bytes).map_err(RoundError::Carry)?;
    }
    Ok(())
}

/// Takes the pages that are zero out of `bytes`, which `ranges` have: what is left of the ranges, and what was taken out.
pub(crate) fn without_zeros(ranges: &[Range], bytes: &mut Vec<u8>) -> (Vec<Range>, Vec<Range>) {
    without(ranges, bytes, is_zero)
}

/// Takes the pages that are `wanted` out of `bytes`, which `ranges` have: what is left of the ranges, and what was taken out.
pub(crate) fn without(
    ranges: &[Range],
    bytes: &mut Vec<u8>,
    mut wanted: impl FnMut(&[u8]) -> bool,
) -> (Vec<Range>, Vec<Range>) {
    let (mut left, mut taken) = (Vec::new(), Vec::new());
    let (mut at, mut kept) = (0, 0);
    for page in ranges.iter().flat_map(pages) {
        let end = at + page.len as usize;
        if wanted(&bytes[at..end]) {
            push(&mut taken, page);
        } else {
            push(&mut left, page);
            if kept < at {
                bytes.copy_within(at..end, kept);
            }
            kept += end - at;
        }
        at = end;
    }
    bytes.truncate(kept);
    (left, taken)
}

/// Cuts a set into batches of at most [`BATCH_BYTES`].
pub(super) fn batches(due: &RangeSet) -> Vec<Vec<Range>> {
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

/// Adds what follows the last range, or lies behind it.
fn push(ranges: &mut Vec<Range>, page: Range) {
    match ranges.last_mut() {
        Some(last) if last.end() == page.start => last.len += page.len,
        _ => ranges.push(page),
    }
}

fn pages(range: &Range) -> impl Iterator<Item = Range> + use<> {
    (range.start..range.end()).step_by(PAGE_SIZE as usize).map(|start| Range { start, len: PAGE_SIZE })
}

/// Whether a page is all zeros.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|part| part.iter().fold(0, |sum, byte| sum | byte) == 0)
}
