//! A small image in a temporary directory, and a memory of bytes to read it from and load it into.
#![allow(dead_code)]

use ferry_image::{
    FillMemory, Header, HostFacts, HostKey, Manifest, Piece, ReadMemory, SpaceRanges, Trust, Workload, Writer,
};
use ferry_model::ids::{Epoch, WorkloadId};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;

/// Pages by space and address.
#[derive(Default)]
pub struct Memory(pub Mutex<BTreeMap<(u32, u64), Vec<u8>>>);

impl ReadMemory for Memory {
    fn read(&self, space: u32, pieces: &[Piece], mut buffer: &mut [u8]) -> io::Result<()> {
        let pages = self.0.lock().unwrap();
        for address in pieces.iter().flat_map(|p| (p.address..p.address + p.bytes).step_by(4096)) {
            let page = pages.get(&(space, address)).ok_or_else(|| io::Error::other("no such page"))?;
            let (head, tail) = buffer.split_at_mut(4096);
            head.copy_from_slice(page);
            buffer = tail;
        }
        Ok(())
    }
}

impl FillMemory for Memory {
    fn write(&self, space: u32, pieces: &[Piece], mut bytes: &[u8]) -> io::Result<()> {
        let mut pages = self.0.lock().unwrap();
        for address in pieces.iter().flat_map(|p| (p.address..p.address + p.bytes).step_by(4096)) {
            let (head, tail) = bytes.split_at(4096);
            pages.insert((space, address), head.to_vec());
            bytes = tail;
        }
        Ok(())
    }

    fn zero(&self, space: u32, pieces: &[Piece]) -> io::Result<()> {
        let bytes: u64 = pieces.iter().map(|p| p.bytes).sum();
        self.write(space, pieces, &vec![0; bytes as usize])
    }
}

impl Memory {
    /// `pages` pages of noise from each of the addresses, in space `space`; page 0 of each is zeros.
    pub fn noise(ranges: &[SpaceRanges]) -> Self {
        let memory = Self::default();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for space in ranges {
            for range in &space.ranges {
                for address in (range.address..range.address + range.bytes).step_by(4096) {
                    let page = (0..512).flat_map(|_| {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        state.to_le_bytes()
                    });
                    memory.0.lock().unwrap().insert((space.space, address), page.collect());
                }
            }
        }
        memory
    }
}

pub fn ranges() -> Vec<SpaceRanges> {
    let piece = |address: u64, pages: u64| Piece { address: address << 12, bytes: pages << 12 };
    vec![
        SpaceRanges { space: 3, ranges: vec![piece(16, 3), piece(100, 300), piece(500, 1), piece(502, 1)] },
        SpaceRanges { space: 4, ranges: vec![piece(0, 2)] },
        SpaceRanges { space: 9, ranges: vec![] },
    ]
}

pub fn header(ends: bool) -> Header {
    Header {
        workload: Workload {
            id: WorkloadId([1; 16]),
            name: "test".into(),
            epoch: Epoch(7),
            kind: "process".into(),
        },
        host: HostFacts { cpu_features: vec!["fpu".into()], page_bytes: 4096, ..HostFacts::default() },
        ends,
    }
}

/// An image in a directory that goes away with the value.
pub struct Fixture {
    pub root: tempfile::TempDir,
    pub dir: PathBuf,
    pub key: HostKey,
    pub trust: Trust,
    pub memory: Memory,
    pub manifest: Manifest,
}

impl Fixture {
    pub fn new(ends: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        let key = HostKey::load_or_create(&state).unwrap();
        let dir = root.path().join("image");
        let memory = Memory::noise(&ranges());
        let manifest = write(&dir, &key, &memory, ends);
        let trust = Trust::load(&state, false).unwrap();
        Self { root, dir, key, trust, memory, manifest }
    }
}

/// Writes the same image to `dir`.
pub fn write(dir: &std::path::Path, key: &HostKey, memory: &Memory, ends: bool) -> Manifest {
    let mut writer = Writer::create(dir).unwrap();
    writer.record("tasks.cbor", b"tasks").unwrap();
    writer.record("files/fd.cbor", b"descriptors").unwrap();
    let mut stream = writer.stream("upper").unwrap();
    stream.write_all(&vec![5; 1_300_000]).unwrap();
    writer.end_stream(stream).unwrap();
    writer.memory(&ranges(), 2, memory).unwrap();
    writer.finish(header(ends), key).unwrap()
}
