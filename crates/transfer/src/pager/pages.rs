//! A set of pages that grows by a few at a time: what is added or asked about costs by how much that is, hardly by how much there is.

use crate::engine::RangeSet;
use crate::space::Range;
use std::collections::BTreeMap;

/// Pages by the first address of each run, with the one after its last; no two runs touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pages(BTreeMap<u64, u64>);

impl Pages {
    /// Adds `range`; what of it was not there before.
    pub fn add(&mut self, range: &Range) -> Vec<Range> {
        let new = self.lacks(range);
        if !new.is_empty() {
            let (mut start, mut end) = (range.start, range.end());
            while let Some((from, to)) = self.last_until(end).filter(|(_, to)| *to >= start) {
                self.0.remove(&from);
                (start, end) = (start.min(from), end.max(to));
            }
            self.0.insert(start, end);
        }
        new
    }

    /// What of `range` is not in it, ascending.
    #[must_use]
    pub fn lacks(&self, range: &Range) -> Vec<Range> {
        let (mut at, end) = (range.start, range.end());
        let first = self.last_until(at).map_or(at, |(from, _)| from);
        let mut all = Vec::new();
        let mut hole = |at: u64, until: u64| {
            if at < until {
                all.push(Range { start: at, len: until - at });
            }
        };
        for (from, to) in self.0.range(first..end.max(first)) {
            hole(at, *from);
            at = at.max(*to);
        }
        hole(at, end);
        all
    }

    /// Its runs, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        self.0.iter().map(|(start, end)| Range { start: *start, len: end - start })
    }

    /// The same pages as a set that is worked on as a whole.
    #[must_use]
    pub fn to_set(&self) -> RangeSet {
        self.ranges().collect()
    }

    /// The last run that begins at `address` or before.
    fn last_until(&self, address: u64) -> Option<(u64, u64)> {
        self.0.range(..=address).next_back().map(|(from, to)| (*from, *to))
    }
}

impl FromIterator<Range> for Pages {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let mut pages = Self::default();
        for range in ranges {
            pages.add(&range);
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_a_set_of_ranges_is(parts in prop::collection::vec((0_u64..60, 0_u64..9), 0..40)) {
            let (mut pages, mut set) = (Pages::default(), RangeSet::default());
            for (start, len) in parts {
                let range = Range { start: start * 4096, len: len * 4096 };
                let one = RangeSet::new(vec![range]);
                let new = one.difference(&set);
                prop_assert_eq!(pages.lacks(&range), new.ranges());
                prop_assert_eq!(pages.add(&range), new.ranges());
                set = set.union(&one);
                prop_assert_eq!(&pages.to_set(), &set);
                prop_assert_eq!(pages.ranges().count(), set.ranges().len());
            }
        }
    }
}
