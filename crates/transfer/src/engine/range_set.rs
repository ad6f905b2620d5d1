//! A set of pages as ranges: ascending, disjoint, not touching. All operations go over both sets once.

use crate::space::Range;

/// A set of addresses, kept as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// The set of `ranges`, in any order; they may overlap. Empty ones, and parts beyond the last address, are left out.
    #[must_use]
    pub fn new(mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable_by_key(|range| range.start);
        let mut set = Self(Vec::with_capacity(ranges.len()));
        for range in ranges {
            set.append(range.start, range.start.saturating_add(range.len));
        }
        set
    }

    /// Its ranges, ascending; no two touch.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes are in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.len).sum()
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut set = Self(Vec::with_capacity(self.0.len() + other.0.len()));
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let next = match (a.peek(), b.peek()) {
                (Some(x), Some(y)) if x.start <= y.start => a.next(),
                (Some(_), None) => a.next(),
                _ => b.next(),
            };
            let Some(range) = next else { return set };
            set.append(range.start, range.end());
        }
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut set = Self::default();
        let (mut i, mut j) = (0, 0);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            set.append(a.start.max(b.start), a.end().min(b.end()));
            if a.end() <= b.end() {
                i += 1;
            } else {
                j += 1;
            }
        }
        set
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut set = Self::default();
        let mut j = 0;
        for range in &self.0 {
            let mut at = range.start;
            while other.0.get(j).is_some_and(|hole| hole.end() <= at) {
                j += 1;
            }
            let mut k = j;
            while let Some(hole) = other.0.get(k).filter(|hole| hole.start < range.end()) {
                set.append(at, hole.start);
                at = at.max(hole.end());
                k += 1;
            }
            set.append(at, range.end());
        }
        set
    }

    /// Adds what follows everything that is in it, or overlaps with its last range.
    fn append(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.end() >= start => last.len = last.len.max(end - last.start),
            _ => self.0.push(Range { start, len: end - start }),
        }
    }
}

impl FromIterator<Range> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        Self::new(ranges.into_iter().collect())
    }
}
