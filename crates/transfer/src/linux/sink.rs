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
        match self.opened.get(&space) {
            Some((opened, prepared))
                if ranges.iter().all(|range| space::covers(prepared, range.start, range.len)) =>
            {
                Ok(opened)
            }
            _ => {
                let first = ranges.first().map_or(0, |range| range.start);
                let what = format!("memory at {first:#x} of space {} was not prepared for", space.0);
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
    fn zero(&self, space: SpaceId, ranges: &[Range]) -> io::Result<()> {
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        let opened = self.prepared(space, ranges)?;
        for range in ranges {
            let mut at = range.start;
            while at < range.end() {
                let len = (range.end() - at).min(ZEROS.len() as u64);
                opened.write(at, &ZEROS[..len as usize])?;
                at += len;
            }
        }
        Ok(())
    }
}
