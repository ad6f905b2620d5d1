//! From a few looks at a running workload to what it dirties: the rate is that of the first short look, when each page was written to
//! hardly more than once; the working set is the one with which that rate gives what all looks together found.

use super::measured::Measured;

/// What one look found: pages written to since the look before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Since the look before, microseconds.
    pub since_us: u64,
    /// Bytes of pages that were written to.
    pub dirty_bytes: u64,
}

/// Bytes dirtied in a second, by the first of `looks` that took any time.
#[must_use]
pub fn rate(looks: &[Look]) -> u64 {
    let first = looks.iter().find(|look| look.since_us > 0);
    first.map_or(0, |look| per_second(look.dirty_bytes, look.since_us))
}

fn per_second(bytes: u64, us: u64) -> u64 {
    let rate = (u128::from(bytes) * 1_000_000).checked_div(u128::from(us)).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// What counts as less than all memory would give, percent of it. A look is short beside the rounds that are predicted by it, and what a busy
/// machine does to a writer within it differs by a quarter: measured, a writer to 1 GiB was taken for one to 144 to 249 MiB.
const BOUND_PERCENT: u64 = 75;

/// The working set of a workload with `bytes` of memory that dirties `rate` bytes in a second and had written to `union` different
/// bytes after `us` microseconds. All its memory, where nothing shows that it writes to less.
#[must_use]
pub fn working_set(rate: u64, us: u64, union: u64, bytes: u64) -> u64 {
    let union = union.min(bytes);
    let after = |working_set_bytes| {
        Measured { bytes, working_set_bytes, dirty_bytes_per_s: rate, ..Measured::default() }.dirty_after(us)
    };
    if after(bytes) / 100 * BOUND_PERCENT <= union {
        return bytes;
    }
    // What is dirty after a time grows with the working set: the smallest that gives as much.
    let (mut low, mut high) = (union, bytes);
    while low < high {
        let middle = low + (high - low) / 2;
        if after(middle) < union {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_working_set_is_found_again() {
        for (rate, set) in [(80 * MIB, 64 * MIB), (80 * MIB, 16 * MIB), (400 * MIB, 300 * MIB)] {
            let truth = Measured {
                bytes: 1024 * MIB,
                working_set_bytes: set,
                dirty_bytes_per_s: rate,
                ..Measured::default()
            };
            let us = 1_500_000;
            let found = working_set(rate, us, truth.dirty_after(us), truth.bytes);
            assert!(found.abs_diff(set) < set / 50, "{rate} {set}: {found}");
        }
    }

    #[test]
    fn what_shows_no_bound_is_all_of_it_and_what_writes_nothing_has_none() {
        assert_eq!(working_set(10 * MIB, 1_000_000, 10 * MIB, 1024 * MIB), 1024 * MIB);
        // Slower than it was at first, as on a machine that others want, and no longer.
        assert_eq!(working_set(270 * MIB, 150_000, 34 * MIB, 1024 * MIB), 1024 * MIB);
        assert_eq!(working_set(0, 1_000_000, 0, 1024 * MIB), 1024 * MIB);
        assert_eq!(working_set(10 * MIB, 1_000_000, 0, 1024 * MIB), 0);
        assert_eq!(rate(&[]), 0);
        let look = |since_us, dirty_bytes| Look { since_us, dirty_bytes };
        assert_eq!(rate(&[look(0, 5), look(100_000, 10 * MIB), look(1_000_000, MIB)]), 100 * MIB);
    }
}
