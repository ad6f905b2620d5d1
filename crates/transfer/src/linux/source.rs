//! Memory of stopped tasks, to be read.

use super::opened::Opened;
use crate::access::SpaceAccess;
use crate::space::{PageSource, Range, SpaceId};
use std::collections::HashMap;
use std::io;

/// A [`PageSource`] over processes and shared objects of this host.
pub struct LinuxSource {
    opened: HashMap<SpaceId, Opened>,
    ranges: Vec<(SpaceId, Vec<Range>)>,
}

impl LinuxSource {
    /// Opens every space. Fails when a task is gone or this process may not read it.
    pub fn open(spaces: Vec<SpaceAccess>) -> io::Result<Self> {
        let mut source = Self { opened: HashMap::new(), ranges: Vec::with_capacity(spaces.len()) };
        for access in spaces {
            source.opened.insert(access.space, Opened::open(&access.via, false)?);
            source.ranges.push((access.space, access.ranges));
        }
        Ok(source)
    }
}

impl PageSource for LinuxSource {
    fn ranges(&self) -> &[(SpaceId, Vec<Range>)] {
        &self.ranges
    }

    fn read(&self, space: SpaceId, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.opened.get(&space) {
            Some(opened) => opened.read(address, buffer),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("No space {}", space.0))),
        }
    }

    fn read_ranges(&self, space: SpaceId, ranges: &[Range], buffer: &mut [u8]) -> io::Result<()> {
        match self.opened.get(&space) {
            Some(opened) => opened.read_ranges(ranges, buffer),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("No space {}", space.0))),
        }
    }
}
