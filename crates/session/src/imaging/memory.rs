//! Between the image's idea of memory (spaces and pieces) and that of the transfer crate (spaces and ranges).

use ferry_image::{FillMemory, Piece, ReadMemory, SpaceRanges};
use ferry_process::records::{Backing, State};
use ferry_transfer::space::{PageSink, PageSource, Range, SpaceId};
use std::collections::HashMap;
use std::io;

/// Stopped tasks, as what an image is written from.
pub struct Source<'a>(pub &'a dyn PageSource);

impl Source<'_> {
    /// What is to be written.
    #[must_use]
    pub fn spaces(&self) -> Vec<SpaceRanges> {
        let space = |(id, ranges): &(SpaceId, Vec<Range>)| SpaceRanges {
            space: id.0,
            ranges: ranges.iter().map(|range| Piece { address: range.start, bytes: range.len }).collect(),
        };
        self.0.ranges().iter().map(space).collect()
    }
}

impl ReadMemory for Source<'_> {
    fn read(&self, space: u32, pieces: &[Piece], buffer: &mut [u8]) -> io::Result<()> {
        match pieces {
            [piece] => self.0.read(SpaceId(space), piece.address, buffer),
            pieces => self.0.read_ranges(SpaceId(space), &ranges(pieces), buffer),
        }
    }
}

/// Puppets, as what an image is loaded into.
pub struct Sink<'a> {
    sink: &'a dyn PageSink,
    /// For each space, the mappings that are backed by a file: their new pages do not read as zeros.
    backed: HashMap<u32, Vec<(u64, u64)>>,
}

/// Zeros to write over pages that do not read as zeros by themselves.
const ZEROS: [u8; 4096] = [0; 4096];

impl<'a> Sink<'a> {
    /// A sink for the spaces of `state`, all of them new.
    #[must_use]
    pub fn new(sink: &'a dyn PageSink, state: &State) -> Self {
        let backed = |space: &ferry_process::records::Space| {
            let vmas = space.vmas.iter().filter(|vma| vma.backing != Backing::Anonymous);
            (space.id, vmas.map(|vma| (vma.start, vma.end)).collect())
        };
        Self { sink, backed: state.spaces.iter().map(backed).collect() }
    }
}

impl FillMemory for Sink<'_> {
    fn write(&self, space: u32, pieces: &[Piece], bytes: &[u8]) -> io::Result<()> {
        match pieces {
            [piece] => self.sink.write(SpaceId(space), piece.address, bytes),
            pieces => self.sink.write_ranges(SpaceId(space), &ranges(pieces), bytes),
        }
    }

    fn zero(&self, space: u32, pieces: &[Piece]) -> io::Result<()> {
        // A shared object is new and empty: it reads as zeros.
        let Some(backed) = self.backed.get(&space) else { return Ok(()) };
        for piece in pieces {
            for address in (piece.address..piece.address + piece.bytes).step_by(ZEROS.len()) {
                let next = backed.partition_point(|(_, end)| *end <= address);
                if backed.get(next).is_some_and(|(start, _)| *start <= address) {
                    self.sink.write(SpaceId(space), address, &ZEROS)?;
                }
            }
        }
        Ok(())
    }
}

fn ranges(pieces: &[Piece]) -> Vec<Range> {
    pieces.iter().map(|piece| Range { start: piece.address, len: piece.bytes }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_process::records::{Space, Vma};
    use std::sync::Mutex;

    struct Recorder(Mutex<Vec<u64>>);

    impl PageSink for Recorder {
        fn write(&self, _: SpaceId, address: u64, _: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().push(address);
            Ok(())
        }
    }

    #[test]
    fn zeros_are_written_only_over_pages_of_files() {
        let vma = |start, end, backing| Vma { start, end, backing, ..Vma::default() };
        let file = Backing::File { path: b"/lib/x".to_vec(), offset: 0, inode: 1 };
        let vmas = vec![vma(0x1000, 0x3000, Backing::Anonymous), vma(0x3000, 0x5000, file)];
        let state = State { spaces: vec![Space { id: 0, vmas, ..Space::default() }], ..State::default() };
        let recorder = Recorder(Mutex::new(vec![]));
        let sink = Sink::new(&recorder, &state);
        sink.zero(0, &[Piece { address: 0x2000, bytes: 0x2000 }, Piece { address: 0x4000, bytes: 0x1000 }])
            .unwrap();
        sink.zero(1, &[Piece { address: 0x3000, bytes: 0x1000 }]).unwrap();
        assert_eq!(*recorder.0.lock().unwrap(), [0x3000, 0x4000]);
    }
}
