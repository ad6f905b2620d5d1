//! What was written is what is read, and a writer that fails leaves nothing.

mod common;

use common::{Fixture, Memory, header, ranges};
use ferry_image::{Error, Piece, ReadMemory, Reader, SpaceRanges, Writer};
use proptest::prelude::*;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

#[test]
fn an_image_reads_back_whole() {
    let fixture = Fixture::new(false);
    assert_eq!(std::fs::metadata(&fixture.dir).unwrap().mode() & 0o777, 0o700);
    let image = Reader::open(&fixture.dir).unwrap().verify(&fixture.trust).unwrap();
    assert_eq!(image.manifest(), &fixture.manifest);
    assert_eq!(image.hash(), fixture.manifest.hash());
    assert_eq!(image.signer(), fixture.key.public());
    assert_eq!(image.record("tasks.cbor"), Some(&b"tasks"[..]));
    assert_eq!(image.record("files/fd.cbor"), Some(&b"descriptors"[..]));
    assert_eq!(image.record("nothing"), None);
    let mut content = Vec::new();
    image.stream("upper").unwrap().unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(content, vec![5; 1_300_000]);
    let loaded = Memory::default();
    image.load(2, &loaded).unwrap();
    assert_eq!(*loaded.0.lock().unwrap(), *fixture.memory.0.lock().unwrap());
    assert!(!fixture.root.path().join("image.tmp").exists());
}

#[test]
fn zero_memory_is_not_stored_and_comes_back_as_zeros() {
    let fixture = Fixture::new(false);
    let dir = fixture.root.path().join("zeros");
    let pages: Vec<SpaceRanges> =
        vec![SpaceRanges { space: 0, ranges: vec![Piece { address: 1 << 20, bytes: 8 << 20 }] }];
    let memory = Memory::noise(&pages);
    for (_, page) in memory.0.lock().unwrap().iter_mut().take(1024) {
        page.fill(0);
    }
    let mut writer = Writer::create(&dir).unwrap();
    let report = writer.memory(&pages, 2, &memory).unwrap();
    assert_eq!((report.bytes, report.zero_bytes), (8 << 20, 4 << 20));
    writer.finish(header(false), &fixture.key).unwrap();
    let stored: u64 =
        (0..report.threads).map(|n| std::fs::metadata(dir.join(format!("pages-{n}"))).unwrap().len()).sum();
    assert_eq!(stored, 4 << 20);
    let loaded = Memory::default();
    Reader::open(&dir).unwrap().verify(&fixture.trust).unwrap().load(2, &loaded).unwrap();
    assert_eq!(*loaded.0.lock().unwrap(), *memory.0.lock().unwrap());
}

struct Failing;

impl ReadMemory for Failing {
    fn read(&self, _: u32, pieces: &[Piece], _: &mut [u8]) -> io::Result<()> {
        if pieces[0].address > 0x64000 { Err(io::Error::other("gone")) } else { Ok(()) }
    }
}

#[test]
fn a_writer_that_fails_leaves_nothing() {
    let fixture = Fixture::new(false);
    let dir = fixture.root.path().join("second");
    let mut writer = Writer::create(&dir).unwrap();
    assert!(matches!(Writer::create(&dir), Err(Error::Busy(_))));
    assert!(matches!(writer.memory(&ranges(), 2, &Failing), Err(Error::Source { space: 3, .. })));
    drop(writer);
    assert!(!dir.exists() && !fixture.root.path().join("second.tmp").exists());
    assert!(matches!(Writer::create(&fixture.dir), Err(Error::Exists(_))));
}

#[test]
fn what_a_killed_writer_left_is_removed_by_the_next() {
    let fixture = Fixture::new(false);
    let left = fixture.root.path().join("third.tmp");
    std::fs::create_dir_all(left.join("records")).unwrap();
    std::fs::write(left.join("records/tasks.cbor"), b"half").unwrap();
    let dir = fixture.root.path().join("third");
    common::write(&dir, &fixture.key, &fixture.memory, false);
    let image = Reader::open(&dir).unwrap().verify(&fixture.trust).unwrap();
    assert_eq!(image.record("tasks.cbor"), Some(&b"tasks"[..]));
    assert!(!left.exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_layout_of_memory_reads_back(gaps in prop::collection::vec((0_u64..6, 1_u64..200), 0..30), threads in 1_usize..5) {
        let fixture = Fixture::new(false);
        let mut address = 4096;
        let mut pieces = Vec::new();
        for (gap, pages) in gaps {
            address += gap * 4096;
            pieces.push(Piece { address, bytes: pages * 4096 });
            address += pages * 4096;
        }
        let spaces = vec![SpaceRanges { space: 1, ranges: pieces }];
        let memory = Memory::noise(&spaces);
        let dir = fixture.root.path().join("any");
        let mut writer = Writer::create(&dir).unwrap();
        writer.memory(&spaces, threads, &memory).unwrap();
        writer.finish(header(false), &fixture.key).unwrap();
        let loaded = Memory::default();
        Reader::open(&dir).unwrap().verify(&fixture.trust).unwrap().load(threads, &loaded).unwrap();
        prop_assert_eq!(&*loaded.0.lock().unwrap(), &*memory.0.lock().unwrap());
    }
}
