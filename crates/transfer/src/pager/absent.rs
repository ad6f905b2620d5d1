//! The pages that one address space is still waiting for, and where each of them comes from.
//!
//! At first a page comes from where it will live. After mremap it lives elsewhere, so each piece keeps both places. Pieces are
//! disjoint in the addresses where they are missing; not in those where they come from, for a child waits for the same as its parent.

use crate::space::{Range, SpaceId};
use std::collections::BTreeMap;

/// A run of absent pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they are missing.
    pub at: Range,
    /// Space of the source that has them.
    pub space: SpaceId,
    /// Their address there.
    pub from: u64,
}

impl Piece {
    /// The part of it within `start..end` of where it is missing.
    fn within(&self, start: u64, end: u64) -> Option<Self> {
        let (from, to) = (self.at.start.max(start), self.at.end().min(end));
        (from < to).then(|| Self {
            at: Range { start: from, len: to - from },
            space: self.space,
            from: self.from + (from - self.at.start),
        })
    }
}

/// What one address space waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Absent {
    /// By the address where they are missing: length, and where they come from.
    pieces: BTreeMap<u64, (u64, SpaceId, u64)>,
    /// Their length.
    bytes: u64,
    /// Something of it is missing elsewhere than where it was.
    displaced: bool,
}

impl Absent {
    /// `ranges` of `space`, missing where they were.
    #[must_use]
    pub fn new(space: SpaceId, ranges: &[Range]) -> Self {
        // Of what ascends a tree is made at once, which may be done in a pause for hundreds of thousands of pieces.
        let pieces = ranges.iter().filter(|range| range.len > 0);
        Self {
            pieces: pieces.map(|range| (range.start, (range.len, space, range.start))).collect(),
            bytes: ranges.iter().map(|range| range.len).sum(),
            displaced: false,
        }
    }

    /// Whether it waits for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that it waits for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of it, by the address where it is missing.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.pieces.iter().map(|(start, (len, space, from))| Piece {
            at: Range { start: *start, len: *len },
            space: *space,
            from: *from,
        })
    }

    /// What is absent between `start` and `end`.
    #[must_use]
    pub fn between(&self, start: u64, end: u64) -> Vec<Piece> {
        if start >= end {
            return Vec::new();
        }
        // The piece before may reach in.
        let first = self.pieces.range(..=start).next_back().map_or(start, |(at, _)| *at);
        let pieces = self.pieces.range(first..end);
        pieces
            .filter_map(|(at, (len, space, from))| {
                let piece = Piece { at: Range { start: *at, len: *len }, space: *space, from: *from };
                piece.within(start, end)
            })
            .collect()
    }

    /// Where pages of `space` between `from` and `from + len` are missing: most often at one place, where they were.
    #[must_use]
    pub fn waiting_for(&self, space: SpaceId, from: u64, len: u64) -> Vec<Piece> {
        let end = from.saturating_add(len);
        let fits = |piece: &Piece| {
            let (start, stop) = (piece.from.max(from), (piece.from + piece.at.len).min(end));
            (piece.space == space && start < stop).then(|| {
                let at = piece.at.start + (start - piece.from);
                Piece { at: Range { start: at, len: stop - start }, space, from: start }
            })
        };
        let here: Vec<Piece> = self.between(from, end).iter().filter_map(fits).collect();
        // Only what has moved has to be looked for everywhere.
        if !self.displaced || here.iter().map(|piece| piece.at.len).sum::<u64>() == len {
            return here;
        }
        self.pieces().filter_map(|piece| fits(&piece)).collect()
    }

    /// What lies between `start` and `end` is waited for no longer.
    pub fn resolve(&mut self, start: u64, end: u64) {
        for piece in self.between(start, end) {
            self.cut(piece);
        }
    }

    /// A mapping has moved, with what is missing in it. What was missing where it came to was unmapped before.
    pub fn remap(&mut self, from: u64, to: u64, len: u64) {
        let moved = self.between(from, from.saturating_add(len));
        for piece in &moved {
            self.cut(*piece);
        }
        self.resolve(to, to.saturating_add(len));
        for piece in moved {
            let at = Range { start: to + (piece.at.start - from), len: piece.at.len };
            self.insert(Piece { at, ..piece });
        }
    }

    fn insert(&mut self, piece: Piece) {
        if piece.at.len > 0 {
            self.displaced |= piece.from != piece.at.start;
            self.bytes += piece.at.len;
            self.pieces.insert(piece.at.start, (piece.at.len, piece.space, piece.from));
        }
    }

    /// Takes out a piece that lies within one that is there.
    fn cut(&mut self, part: Piece) {
        let Some((start, (len, space, from))) =
            self.pieces.range(..=part.at.start).next_back().map(|(start, piece)| (*start, *piece))
        else {
            return;
        };
        self.pieces.remove(&start);
        self.bytes -= len;
        let (whole_end, part_end) = (start + len, part.at.end());
        self.insert(Piece { at: Range { start, len: part.at.start - start }, space, from });
        let rest = Range { start: part_end, len: whole_end - part_end };
        self.insert(Piece { at: rest, space, from: from + (part_end - start) });
    }
}

impl FromIterator<Piece> for Absent {
    /// Of disjoint pieces.
    fn from_iter<I: IntoIterator<Item = Piece>>(pieces: I) -> Self {
        let mut absent = Self::default();
        pieces.into_iter().for_each(|piece| absent.insert(piece));
        absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> Range {
        Range { start: start * 4096, len: len * 4096 }
    }

    #[test]
    fn what_is_resolved_in_the_middle_leaves_both_ends() {
        let mut absent = Absent::new(SpaceId(1), &[range(10, 10)]);
        absent.resolve(13 * 4096, 15 * 4096);
        let left: Vec<Range> = absent.pieces().map(|piece| piece.at).collect();
        assert_eq!(left, [range(10, 3), range(15, 5)]);
        assert!(absent.pieces().all(|piece| piece.at.start == piece.from));
        absent.resolve(0, u64::MAX);
        assert!(absent.is_empty());
    }

    #[test]
    fn what_has_moved_still_comes_from_where_it_was() {
        let mut absent = Absent::new(SpaceId(1), &[range(10, 4), range(30, 1)]);
        absent.remap(11 * 4096, 29 * 4096, 3 * 4096);
        let pieces: Vec<(Range, u64)> = absent.pieces().map(|piece| (piece.at, piece.from / 4096)).collect();
        assert_eq!(pieces, [(range(10, 1), 10), (range(29, 3), 11)], "what was at 30 has been mapped over");
        let waiting = absent.waiting_for(SpaceId(1), 12 * 4096, 4096);
        assert_eq!(waiting, [Piece { at: range(30, 1), space: SpaceId(1), from: 12 * 4096 }]);
        assert!(absent.waiting_for(SpaceId(2), 12 * 4096, 4096).is_empty());
    }
}
