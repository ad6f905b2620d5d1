//! Memory of puppets, to be filled: only inside of the ranges that were prepared.

use super::opened::Opened;
use crate::access::SpaceAccess;
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

impl PageSink for LinuxSink {
    fn write(&self, space: SpaceId, address: u64, bytes: &[u8]) -> io::Result<()> {
        match self.opened.get(&space) {
            Some((opened, ranges)) if space::covers(ranges, address, bytes.len() as u64) => {
                opened.write(address, bytes)
            }
            _ => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} bytes at {address:#x} of space {} were not prepared for", bytes.len(), space.0),
            )),
        }
    }

    fn write_ranges(&self, space: SpaceId, ranges: &[Range], bytes: &[u8]) -> io::Result<()> {
        match self.opened.get(&space) {
            Some((opened, prepared))
                if ranges.iter().all(|range| space::covers(prepared, range.start, range.len)) =>
            {
                opened.write_ranges(ranges, bytes)
            }
            _ => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} bytes of space {} were not prepared for", bytes.len(), space.0),
            )),
        }
    }
}
