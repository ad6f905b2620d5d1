//! The kernel's shorter way over page tables: where nothing but [`IS_WRITTEN`] is asked for, it looks at one bit of each entry and takes
//! half as long (0.6 ms for each gigabyte instead of 1.0 to 1.2, Linux 6.18).
//!
//! What it finds is a superset of everything that matters to somebody who tracks: what is not there, is a guard or the zero page was never
//! protected, and counts as written. Which of these it is has to be asked of the few places that were found.

use super::{IS_WRITTEN, PAGE, Pagemap, Query, Region, ScanArguments};
use crate::mapped::Mapped;
use crate::userfaultfd::WriteTracker;
use std::io;
use std::sync::OnceLock;

/// Before Linux 6.10 the short way reads a page's mark from the wrong bit of the entry of one that is swapped out.
const SINCE: (u32, u32) = (6, 10);

/// What one page table covers, bytes.
const TABLE_BYTES: u64 = 2 << 20;

impl Pagemap {
    /// Anonymous memory between `start` and `end` that is not protected, or not there: at least all that [`Self::changed`] tells apart.
    /// None: on this kernel it would not be.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn unprotected(&self, start: u64, end: u64) -> io::Result<Option<Vec<Region>>> {
        if is_superset() { self.written(start, end).map(Some) } else { Ok(None) }
    }

    fn written(&self, start: u64, end: u64) -> io::Result<Vec<Region>> {
        // Exactly these arguments make the kernel take the short way.
        self.walk(ScanArguments {
            start,
            end,
            category_mask: IS_WRITTEN,
            return_mask: IS_WRITTEN,
            ..ScanArguments::default()
        })
    }
}

/// Whether the kernel does what is said above, seen once by what it says of this process.
fn is_superset() -> bool {
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(|| release() >= Some(SINCE) && tells_what_is_not_there().unwrap_or(false))
}

fn release() -> Option<(u32, u32)> {
    let name = rustix::system::uname();
    let mut parts = name.release().to_str().ok()?.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// In tracked memory: a page that was given back, and a page table that never was. In memory that is not: a page.
fn tells_what_is_not_there() -> io::Result<bool> {
    let mut tracked = Mapped::new(3 * TABLE_BYTES as usize)?;
    tracked.huge(false)?;
    let mut plain = Mapped::new(2 * PAGE as usize)?;
    let first = (tracked.as_ptr() as u64).next_multiple_of(TABLE_BYTES);
    let at = (first - tracked.as_ptr() as u64) as usize;
    let page = PAGE as usize;
    tracked[at] = 1;
    tracked[at + page] = 1;
    plain[0] = 1;
    let tracker = WriteTracker::begin(crate::userfaultfd::open()?)?;
    tracker.track(first, 2 * TABLE_BYTES)?;
    let pagemap = Pagemap::open(std::process::id().cast_signed())?;
    pagemap.scan(first, first + 2 * TABLE_BYTES, &Query::WRITTEN_AND_PROTECT)?;
    tracked.discard(at + page, page)?;
    let there = pagemap.written(first, first + 2 * TABLE_BYTES)?;
    let wanted = (first + PAGE, first + 2 * TABLE_BYTES);
    let plain_at = plain.as_ptr() as u64;
    let plain = pagemap.written(plain_at, plain_at + 2 * PAGE)?;
    Ok(there.iter().map(|region| (region.start, region.end)).eq([wanted])
        && plain.first().is_some_and(|region| region.start == plain_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_is_taken_where_it_is_known_to_be_right() {
        assert_eq!(is_superset(), release() >= Some(SINCE) && tells_what_is_not_there().unwrap());
        assert!(release().unwrap() >= (5, 0));
    }
}
