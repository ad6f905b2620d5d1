//! Sets of ranges against sets of pages.

use ferry_transfer::engine::RangeSet;
use ferry_transfer::space::Range;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A few near each other, or very many.
fn any_ranges() -> impl Strategy<Value = Vec<Range>> {
    let of = |places: u64, count: usize| {
        let range = (0..places, 0..8_u64).prop_map(|(start, len)| Range { start, len });
        proptest::collection::vec(range, 0..count)
    };
    prop_oneof![3 => of(60, 12), 1 => of(4000, 12), 2 => of(4000, 600)]
}

fn pages(ranges: &[Range]) -> BTreeSet<u64> {
    ranges.iter().flat_map(|range| range.start..range.end()).collect()
}

proptest! {
    #[test]
    fn they_are_sets(a in any_ranges(), b in any_ranges()) {
        let (x, y) = (RangeSet::new(a.clone()), RangeSet::new(b.clone()));
        let (a, b) = (pages(&a), pages(&b));
        for (set, wanted) in [
            (x.clone(), a.clone()),
            (x.union(&y), &a | &b),
            (x.intersection(&y), &a & &b),
            (x.difference(&y), &a - &b),
        ] {
            prop_assert_eq!(pages(set.ranges()), wanted.clone());
            prop_assert_eq!(set.bytes(), wanted.len() as u64);
            prop_assert_eq!(set.is_empty(), wanted.is_empty());
            prop_assert!(set.ranges().iter().all(|range| range.len > 0));
            prop_assert!(set.ranges().windows(2).all(|pair| pair[0].end() < pair[1].start));
        }
    }
}
