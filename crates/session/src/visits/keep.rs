//! Writing down what is in a memory that nobody needs any more.

use super::{NAMES, PAGES};
use ferry_sys::pagemap::{Pagemap, Query};
use ferry_transfer::access::{SpaceAccess, Via};
use ferry_transfer::engine::is_zero;
use ferry_transfer::linux::LinuxSource;
use ferry_transfer::space::{PAGE_SIZE, PageSource, Range};
use ferry_transfer::wire::rounds::PageName;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes that are read at once.
const READ_BYTES: u64 = 1 << 20;

/// Where addresses of programs end.
const TOP: u64 = 0x7fff_ffff_f000;

/// What these spaces have of their own: of a task whatever is private to it now, of an object what was found when it was captured.
pub(super) fn contents(spaces: &[SpaceAccess]) -> io::Result<LinuxSource> {
    let content = |space: &SpaceAccess| {
        let Via::Task { pid } = &space.via else { return Ok(space.clone()) };
        let found = Pagemap::open(*pid)?.scan(0, TOP, &Query::PRIVATE_CONTENT)?;
        let ranges = found.iter().map(|part| Range { start: part.start, len: part.end - part.start });
        Ok(SpaceAccess { ranges: ranges.collect(), ..space.clone() })
    };
    LinuxSource::open(spaces.iter().map(content).collect::<io::Result<_>>()?)
}

/// How much that is.
pub(super) fn bytes(source: &LinuxSource) -> u64 {
    source.ranges().iter().flat_map(|(_, ranges)| ranges).map(|range| range.len).sum()
}

/// Writes at most `pages_max` pages of it into the directory `place`; zeros are left out. The files, and how many pages they have.
pub(super) fn write(place: &Path, source: &LinuxSource, pages_max: u64) -> io::Result<([File; 2], u64)> {
    let create = |name: &str| {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(place.join(name)).map(BufWriter::new)
    };
    let (mut pages, mut names) = (create(PAGES)?, create(NAMES)?);
    let mut buffer = Vec::new();
    let mut count = 0;
    'all: for (space, ranges) in source.ranges() {
        for range in ranges {
            for start in (range.start..range.end()).step_by(READ_BYTES as usize) {
                buffer.resize((range.end() - start).min(READ_BYTES) as usize, 0);
                source.read(*space, start, &mut buffer)?;
                for page in buffer.chunks(PAGE_SIZE as usize).filter(|page| !is_zero(page)) {
                    if count == pages_max {
                        break 'all;
                    }
                    pages.write_all(page)?;
                    names.write_all(&PageName::of(page).0)?;
                    count += 1;
                }
            }
        }
    }
    let finished = |file: BufWriter<File>| file.into_inner().map_err(io::IntoInnerError::into_error);
    Ok(([finished(pages)?, finished(names)?], count))
}
