//! Memory of puppets, to be filled: only inside of the ranges that were prepared.

use super::opened::Opened;
use crate::access::SpaceAccess;
use crate::engine::Filler;
use crate::space::{self, PageSink, Range, SpaceId};
use std::collections::HashMap;
use std::io;

/// A [`PageSink`] over puppets and shared objects of this host.
pub struct LinuxSink {
    opened: HashMap<SpaceId, (Opened, Vec<Range>)>,
}

impl LinuxSink {
    /// Opens every space. Fails when a puppet is gone or this process may not write it.
    pub fn open(spaces: Vec<SpaceAccess>) -> io::Result<Self> {
        let mut opened = HashMap::new();
        for access in spaces {
            opened.insert(access.space, (Opened::open(&access.via, true)?, access.ranges));
        }
        Ok(Self { opened })
    }
}

impl LinuxSink {
    /// The space, if all of `ranges` were prepared for.
    fn prepared(&self, space: SpaceId, ranges: &[Range]) -> io::Result<&Opened> {
        let opened = self.opened.get(&space);
        let there = |range: &&Range| {
            opened.is_some_and(|(_, prepared)| space::covers(prepared, range.start, range.len))
        };
        match (opened, ranges.iter().find(|range| !there(range))) {
            (Some((opened, _)), None) => Ok(opened),
            (_, wrong) => {
                let Range { start, len } = wrong.copied().unwrap_or(Range { start: 0, len: 0 });
                let what =
                    format!("{len} bytes of memory at {start:#x} of space {} were not prepared for", space.0);
                Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
            }
        }
    }
}

impl PageSink for LinuxSink {
    fn write(&self, space: SpaceId, address: u64, bytes: &[u8]) -> io::Result<()> {
        let range = Range { start: address, len: bytes.len() as u64 };
        self.prepared(space, &[range])?.write(address, bytes)
    }

    fn write_ranges(&self, space: SpaceId, ranges: &[Range], bytes: &[u8]) -> io::Result<()> {
        self.prepared(space, ranges)?.write_ranges(ranges, bytes)
    }
}

impl Filler for LinuxSink {
    /// Looks before it writes. Most of what is told to be zero was never anything else, and reading memory that nobody has touched takes
    /// neither pages nor the time to clear them. What the last writer left, and whether a file shines through, need not be known for that.
    fn zero(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        static ZEROS: [u8; LOOK_BYTES] = [0; LOOK_BYTES];
        let opened = self.prepared(space, ranges)?;
        let mut there = vec![0; LOOK_BYTES];
        for range in ranges {
            let mut at = range.start;
            while at < range.end() {
                let len = (range.end() - at).min(LOOK_BYTES as u64) as usize;
                let there = &mut there[..len];
                if opened.read(at, there).is_err() || *there != ZEROS[..len] {
                    opened.write(at, &ZEROS[..len])?;
                }
                at += len as u64;
            }
        }
        Ok(())
    }
}

/// How much is looked at at once, bytes. If there is anything in it, all of it is written: few pages, so that little is touched in vain.
const LOOK_BYTES: usize = 64 << 10;
