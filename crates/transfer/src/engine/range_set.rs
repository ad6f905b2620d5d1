//! A set of pages as ranges: ascending, disjoint, not touching. All operations go over both sets once, and copy long runs of the larger one
//! as they are: one of hundreds of thousands of pieces is cut by a few mappings while a workload stands still.

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
        let (mut many, few) =
            if self.0.len() < other.0.len() { (&other.0[..], self) } else { (&self.0[..], other) };
        let mut set = Self(Vec::with_capacity(many.len() + few.0.len()));
        for range in &few.0 {
            // Not those that it touches: they become one with it.
            let before = skipped(many, |other| other.end() < range.start);
            set.0.extend_from_slice(&many[..before]);
            many = &many[before..];
            let within = skipped(many, |other| other.start <= range.end());
            let touched = many[..within].first().zip(many[..within].last());
            let (start, end) = touched.map_or((range.start, range.end()), |(first, last)| {
                (first.start.min(range.start), last.end().max(range.end()))
            });
            set.append(start, end);
            many = &many[within..];
        }
        set.0.extend_from_slice(many);
        set
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut many, few) =
            if self.0.len() < other.0.len() { (&other.0[..], self) } else { (&self.0[..], other) };
        let mut set = Self(Vec::with_capacity(many.len() + few.0.len()));
        for range in &few.0 {
            many = &many[skipped(many, |other| other.end() <= range.start)..];
            let within = skipped(many, |other| other.end() <= range.end());
            if let Some((first, rest)) = many[..within].split_first() {
                set.append(first.start.max(range.start), first.end());
                set.0.extend_from_slice(rest);
            }
            if let Some(last) = many.get(within) {
                set.append(last.start.max(range.start), range.end());
            }
            many = &many[within..];
        }
        set
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut set = Self(Vec::with_capacity(self.0.len() + other.0.len()));
        let (mut ranges, mut holes) = (&self.0[..], &other.0[..]);
        while let Some(range) = ranges.first() {
            holes = &holes[skipped(holes, |hole| hole.end() <= range.start)..];
            let Some(hole) = holes.first() else { break };
            let before = skipped(ranges, |range| range.end() <= hole.start);
            if before > 0 {
                set.0.extend_from_slice(&ranges[..before]);
                ranges = &ranges[before..];
                continue;
            }
            let mut at = range.start;
            for hole in holes.iter().take_while(|hole| hole.start < range.end()) {
                set.append(at, hole.start);
                at = at.max(hole.end());
            }
            set.append(at, range.end());
            ranges = &ranges[1..];
        }
        set.0.extend_from_slice(ranges);
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

/// How many of `ranges`, of which first some are `before` and then none, are: found in steps that double, so that a long run costs little and
/// a short one, too.
fn skipped(ranges: &[Range], before: impl Fn(&Range) -> bool) -> usize {
    let mut step = 1;
    while step < ranges.len() && before(&ranges[step - 1]) {
        step *= 2;
    }
    let from = step / 2;
    from + ranges[from..ranges.len().min(step)].partition_point(before)
}
