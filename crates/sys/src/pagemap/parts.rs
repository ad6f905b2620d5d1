//! A scan of an address space in parts: to tell a file's page from a private one the kernel has to look at what it knows of each single
//! page, which takes some fifty times as long as the page tables alone (12 ms instead of 0.3 for 256 MiB). Where only anonymous memory is
//! mapped there is nothing to tell apart.

use super::{IS_FILE, Pagemap, Query, Region};
use std::io;

/// A run of anonymous mappings that is shorter goes with its neighbours: a scan has its own price.
const ANONYMOUS_BYTES_MIN: u64 = 1 << 20;

/// A part of an address space, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// All that is mapped in it is private and anonymous.
    pub anonymous: bool,
}

/// Cuts an address space into parts. `mappings` ascend: start, end, and whether it is private and anonymous.
pub fn parts(mappings: impl IntoIterator<Item = (u64, u64, bool)>) -> Vec<Part> {
    // Runs of one kind first, with the bytes that are mapped in them.
    let mut runs: Vec<(Part, u64)> = Vec::new();
    for (start, end, anonymous) in mappings {
        match runs.last_mut() {
            Some((run, bytes)) if run.anonymous == anonymous => {
                run.end = end;
                *bytes += end - start;
            }
            _ => runs.push((Part { start, end, anonymous }, end - start)),
        }
    }
    let mut parts: Vec<Part> = Vec::new();
    for (run, bytes) in runs {
        let anonymous = run.anonymous && bytes >= ANONYMOUS_BYTES_MIN;
        match parts.last_mut() {
            Some(last) if last.anonymous == anonymous => last.end = run.end,
            _ => parts.push(Part { anonymous, ..run }),
        }
    }
    parts
}

impl Pagemap {
    /// As [`Pagemap::scan`] over each of these parts, and fast where there is nothing but anonymous memory.
    ///
    /// # Errors
    /// As [`Pagemap::scan`].
    pub fn scan_parts(&self, parts: &[Part], query: &Query) -> io::Result<Vec<Region>> {
        let mut all = Vec::new();
        for part in parts {
            let refused = if part.anonymous { query.refused & !IS_FILE } else { query.refused };
            all.append(&mut self.scan(part.start, part.end, &Query { refused, ..*query })?);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_runs_of_anonymous_memory_go_with_their_neighbours() {
        const MIB: u64 = 1 << 20;
        let mappings = [
            (0, MIB, false),
            (MIB, MIB + 4096, true),
            (2 * MIB, 3 * MIB, false),
            (4 * MIB, 5 * MIB, true),
            (6 * MIB, 8 * MIB, true),
            (8 * MIB, 9 * MIB, false),
        ];
        let found: Vec<_> =
            parts(mappings).iter().map(|part| (part.start / MIB, part.end / MIB, part.anonymous)).collect();
        assert_eq!(found, [(0, 3, false), (4, 8, true), (8, 9, false)]);
    }
}
