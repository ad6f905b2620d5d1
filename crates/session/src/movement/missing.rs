//! The set of pages that follow after the resume: as bytes, whose hash both sides put into their receipts, and checked against what may be
//! missing at all.

use ferry_model::error::{Error, Kind, Result};
use ferry_transfer::access::Missing;
use ferry_transfer::engine::RangeSet;
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId, covers};
use std::collections::BTreeMap;

/// Most bytes of a set: every second page of 256 GiB.
pub(super) const BYTES_MAX: u64 = 64 << 20;

/// The set as it is said: spaces ascending, the ranges of each ascending and apart.
pub(super) fn of(sets: BTreeMap<SpaceId, RangeSet>) -> Vec<Missing> {
    let sets = sets.into_iter().filter(|(_, set)| !set.is_empty());
    sets.map(|(space, set)| Missing { space, ranges: set.ranges().to_vec() }).collect()
}

/// How many pages are in it.
pub(super) fn pages(missing: &[Missing]) -> u64 {
    missing.iter().flat_map(|each| &each.ranges).map(|range| range.len / PAGE_SIZE).sum()
}

/// As bytes: of one set always the same.
pub(super) fn to_bytes(missing: &[Missing]) -> Vec<u8> {
    minicbor::to_vec(missing).unwrap_or_default()
}

/// Reads a set that the source has sent.
///
/// # Errors
/// It is no set.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Missing>> {
    let missing: Vec<Missing> = minicbor::decode(bytes).map_err(|e| refused(&e.to_string()))?;
    let whole = |range: &Range| {
        range.len > 0
            && range.start.is_multiple_of(PAGE_SIZE)
            && range.len.is_multiple_of(PAGE_SIZE)
            && range.start.checked_add(range.len).is_some()
    };
    let mut before = None;
    for Missing { space, ranges } in &missing {
        let apart = ranges.windows(2).all(|pair| match pair {
            [one, next] => one.start.saturating_add(one.len) < next.start,
            _ => true,
        });
        if ranges.is_empty() || !ranges.iter().all(whole) || !apart || before >= Some(*space) {
            return Err(refused(&format!("space {} is not named in order", space.0)));
        }
        before = Some(*space);
    }
    Ok(missing)
}

/// [`read`], and only what `may` be missing is.
///
/// # Errors
/// It is no set, or something is missing in it that nobody could wait for.
pub(super) fn from_bytes(bytes: &[u8], may: &BTreeMap<SpaceId, RangeSet>) -> Result<Vec<Missing>> {
    let missing = read(bytes)?;
    for Missing { space, ranges } in &missing {
        let may = may.get(space).map(RangeSet::ranges).unwrap_or_default();
        if let Some(range) = ranges.iter().find(|range| !covers(may, range.start, range.len)) {
            return Err(refused(&format!("{:#x} of space {} must be there", range.start, space.0)));
        }
    }
    Ok(missing)
}

fn refused(why: &str) -> Error {
    Error::new(Kind::Refused, format!("The set of missing pages is wrong: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, pages: u64) -> Range {
        Range { start: start * PAGE_SIZE, len: pages * PAGE_SIZE }
    }

    fn sets(list: &[(u32, &[Range])]) -> BTreeMap<SpaceId, RangeSet> {
        list.iter().map(|(space, ranges)| (SpaceId(*space), RangeSet::new(ranges.to_vec()))).collect()
    }

    #[test]
    fn both_sides_have_the_same_set_and_say_it_alike() {
        let may = sets(&[(1, &[range(10, 100)]), (4, &[range(0, 10)])]);
        let missing = of(sets(&[(1, &[range(10, 5), range(20, 90)]), (2, &[]), (4, &[range(9, 1)])]));
        assert_eq!((missing.len(), pages(&missing)), (2, 96));
        let read = from_bytes(&to_bytes(&missing), &may).unwrap();
        assert_eq!((&read, to_bytes(&read)), (&missing, to_bytes(&missing)));
        assert_ne!(to_bytes(&read), to_bytes(&of(sets(&[(1, &[range(10, 6)])]))));
    }

    #[test]
    fn what_must_be_there_and_what_is_no_set_is_refused() {
        let may = sets(&[(1, &[range(10, 100)]), (4, &[range(0, 10)])]);
        let one = |space: u32, ranges: &[Range]| Missing { space: SpaceId(space), ranges: ranges.to_vec() };
        for wrong in [
            vec![one(1, &[range(9, 2)])],
            vec![one(2, &[range(10, 1)])],
            vec![one(1, &[])],
            vec![one(1, &[range(12, 1), range(10, 1)])],
            vec![one(1, &[range(10, 2), range(12, 1)])],
            vec![one(4, &[range(1, 1)]), one(1, &[range(10, 1)])],
            vec![one(1, &[range(10, 1)]), one(1, &[range(20, 1)])],
            vec![one(1, &[Range { start: 40961, len: 4096 }])],
            vec![one(1, &[Range { start: 40960, len: 1 }])],
            vec![one(1, &[Range { start: u64::MAX - 4095, len: 8192 }])],
        ] {
            let error = from_bytes(&to_bytes(&wrong), &may).unwrap_err();
            assert_eq!(error.kind, Kind::Refused, "{wrong:?}");
        }
        assert!(from_bytes(&[0xff, 3], &may).is_err());
    }
}
