//! Each way to tamper with an image has its own error, and lets nothing of the image through.

mod common;

use common::{Fixture, Memory};
use ferry_image::manifest::Record;
use ferry_image::{Error, HostKey, Manifest, Reader, Trust, Verified, consumed};
use ferry_model::error::{Error as Seen, Kind};
use ferry_model::ids::Hash;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

fn open(fixture: &Fixture) -> Result<Verified, Error> {
    Reader::open(&fixture.dir)?.verify(&fixture.trust)
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn resize(path: &Path, by: i64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let bytes = file.metadata().unwrap().len() as i64;
    file.set_len((bytes + by) as u64).unwrap();
}

/// Writes a manifest of an attacker who holds the host's key: what a reader must refuse even when it is signed.
fn sign_again(fixture: &Fixture, manifest: &[u8]) {
    let signature = ferry_image::fuzzing::sign(manifest, &fixture.key);
    std::fs::write(fixture.dir.join("manifest"), manifest).unwrap();
    std::fs::write(fixture.dir.join("manifest.sig"), signature).unwrap();
}

fn with_manifest(change: impl FnOnce(&mut Manifest)) -> Error {
    let fixture = Fixture::new(false);
    let mut manifest = fixture.manifest.clone();
    change(&mut manifest);
    sign_again(&fixture, &minicbor::to_vec(&manifest).unwrap());
    open(&fixture).unwrap_err()
}

#[test]
fn any_byte_of_the_manifest_altered() {
    let fixture = Fixture::new(false);
    let path = fixture.dir.join("manifest");
    for at in 0..std::fs::metadata(&path).unwrap().len() {
        flip(&path, at);
        assert!(matches!(open(&fixture), Err(Error::ManifestAltered)), "byte {at}");
        flip(&path, at);
    }
    open(&fixture).unwrap();
}

#[test]
fn the_signature_altered_removed_or_of_another_image() {
    let fixture = Fixture::new(false);
    let path = fixture.dir.join("manifest.sig");
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() as u64 {
        flip(&path, at);
        let error = open(&fixture).unwrap_err();
        assert!(matches!(error, Error::ManifestAltered | Error::BadSignatureFile(_)), "byte {at}: {error}");
        flip(&path, at);
    }
    resize(&path, 1);
    assert!(matches!(open(&fixture), Err(Error::BadSignatureFile(_))));
    resize(&path, -20);
    assert!(matches!(open(&fixture), Err(Error::BadSignatureFile(_))));
    std::fs::write(&path, ferry_image::fuzzing::sign(b"something else", &fixture.key)).unwrap();
    assert!(matches!(open(&fixture), Err(Error::ManifestAltered)));
    std::fs::remove_file(&path).unwrap();
    let error = open(&fixture).unwrap_err();
    assert!(matches!(error, Error::Unsigned));
    assert_eq!(Seen::from(error).kind, Kind::Refused);
}

#[test]
fn signed_by_a_stranger() {
    let mut fixture = Fixture::new(false);
    let stranger = tempfile::tempdir().unwrap();
    let key = HostKey::load_or_create(stranger.path()).unwrap();
    let manifest = std::fs::read(fixture.dir.join("manifest")).unwrap();
    std::fs::write(fixture.dir.join("manifest.sig"), ferry_image::fuzzing::sign(&manifest, &key)).unwrap();
    let error = open(&fixture).unwrap_err();
    assert!(matches!(&error, Error::ForeignKey(found) if *found == key.public()));
    let seen = Seen::from(error);
    assert_eq!(seen.kind, Kind::Refused);
    assert!(seen.hints[0].contains("--trust-image"), "{seen:?}");
    // Listed, or trusted for this one time, it is read.
    fixture.trust.any = true;
    open(&fixture).unwrap();
    fixture.trust = Trust { keys: vec![key.public()], any: false };
    open(&fixture).unwrap();
    // Trusting anyone does not mean trusting anything.
    fixture.trust.any = true;
    flip(&fixture.dir.join("manifest"), 9);
    assert!(matches!(open(&fixture), Err(Error::ManifestAltered)));
}

#[test]
fn records_altered_truncated_oversized_missing() {
    let fixture = Fixture::new(false);
    let path = fixture.dir.join("records/tasks.cbor");
    flip(&path, 2);
    assert!(matches!(open(&fixture), Err(Error::Altered(file)) if file == "records/tasks.cbor"));
    flip(&path, 2);
    resize(&path, -1);
    assert!(matches!(open(&fixture), Err(Error::Truncated { found: 4, expected: 5, .. })));
    resize(&path, 2);
    assert!(matches!(open(&fixture), Err(Error::Oversized { found: 6, limit: 5, .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(open(&fixture), Err(Error::Missing(_))));
}

#[test]
fn pages_altered_truncated_oversized() {
    let fixture = Fixture::new(false);
    let path = fixture.dir.join("pages-0");
    let bytes = std::fs::metadata(&path).unwrap().len();
    for at in [0, bytes / 2, bytes - 1] {
        flip(&path, at);
        let image = open(&fixture).unwrap();
        assert!(matches!(image.load(2, &Memory::default()), Err(Error::Altered(file)) if file == "pages-0"));
        flip(&path, at);
    }
    // Cut after it was verified: still no page of it gets in.
    let image = open(&fixture).unwrap();
    resize(&path, -4096);
    assert!(matches!(image.load(1, &Memory::default()), Err(Error::Truncated { .. })));
    assert!(matches!(open(&fixture), Err(Error::Truncated { .. })));
    resize(&path, 8192);
    assert!(matches!(open(&fixture), Err(Error::Oversized { .. })));
}

#[test]
fn a_chunk_that_is_wrong_is_never_written() {
    let fixture = Fixture::new(false);
    flip(&fixture.dir.join("pages-0"), 5000);
    let memory = Memory::default();
    open(&fixture).unwrap().load(1, &memory).unwrap_err();
    assert!(memory.0.lock().unwrap().is_empty(), "the first chunk is the altered one");
}

#[test]
fn streams_altered_and_truncated() {
    let fixture = Fixture::new(false);
    let path = fixture.dir.join("streams/upper");
    flip(&path, 1_200_000);
    let image = open(&fixture).unwrap();
    let mut content = Vec::new();
    let error = image.stream("upper").unwrap().unwrap().read_to_end(&mut content).unwrap_err();
    assert!(error.to_string().contains("altered"), "{error}");
    assert!(content.len() <= 1_200_000);
    resize(&path, -1);
    assert!(matches!(open(&fixture), Err(Error::Truncated { .. })));
    resize(&path, 2);
    assert!(matches!(open(&fixture), Err(Error::Oversized { .. })));
}

#[test]
fn a_newer_version() {
    let error = with_manifest(|manifest| manifest.format = 2);
    assert!(matches!(error, Error::NewerVersion { found: 2, known: 1 }));
    // A later version may have changed everything but the field with the version.
    let fixture = Fixture::new(false);
    let mut later = minicbor::Encoder::new(Vec::new());
    later.map(2).unwrap().u8(0).unwrap().u32(9).unwrap().u8(1).unwrap().str("other").unwrap();
    sign_again(&fixture, &later.into_writer());
    assert!(matches!(open(&fixture), Err(Error::NewerVersion { found: 9, known: 1 })));
}

#[test]
fn fields_of_a_later_minor_version_are_skipped() {
    let fixture = Fixture::new(false);
    let mut bytes = std::fs::read(fixture.dir.join("manifest")).unwrap();
    // A map of 9 fields becomes one of 10, the last of which this version does not know.
    assert_eq!(bytes[0], 0xa9);
    bytes[0] = 0xaa;
    bytes.extend_from_slice(&[0x18, 99, 0x82, 1, 2]);
    sign_again(&fixture, &bytes);
    open(&fixture).unwrap();
}

#[test]
fn names_that_climb_out() {
    for name in ["../../etc/passwd", "/etc/passwd", "a/../../b", ".", "..", ""] {
        let record = Record { name: name.into(), bytes: 5, hash: Hash::of(b"tasks") };
        let error = with_manifest(|manifest| manifest.records.push(record));
        assert!(matches!(&error, Error::Climbing(found) if found == name), "{name:?}: {error}");
        let error = with_manifest(|manifest| manifest.streams[0].name = name.into());
        assert!(matches!(error, Error::Climbing(_)), "{name:?}: {error}");
    }
}

#[test]
fn links_fifos_and_directories_in_place_of_files() {
    let fixture = Fixture::new(false);
    let record = fixture.dir.join("records/tasks.cbor");
    let elsewhere = fixture.root.path().join("elsewhere");
    std::fs::rename(&record, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &record).unwrap();
    assert!(matches!(open(&fixture), Err(Error::NotAFile(_))));
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    assert!(matches!(open(&fixture), Err(Error::NotAFile(_))));
    std::fs::remove_dir(&record).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &record, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    assert!(matches!(open(&fixture), Err(Error::NotAFile(_))));
    // A folder of records that is a link leads out as well.
    std::fs::remove_file(&record).unwrap();
    std::fs::rename(fixture.dir.join("records"), fixture.root.path().join("outside")).unwrap();
    std::os::unix::fs::symlink("../outside", fixture.dir.join("records")).unwrap();
    assert!(matches!(open(&fixture), Err(Error::NotAFile(_))));
}

#[test]
fn lengths_beyond_the_limits() {
    let huge = |name: &str| Record { name: name.into(), bytes: 1 << 40, hash: Hash::of(b"") };
    assert!(matches!(with_manifest(|m| m.records.push(huge("huge"))), Error::Oversized { .. }));
    let many = |m: &mut Manifest| {
        m.records =
            (0..70_000).map(|n| Record { name: format!("r{n}"), bytes: 0, hash: Hash::of(b"") }).collect();
    };
    assert!(matches!(with_manifest(many), Error::Oversized { .. }));
    let parts = |m: &mut Manifest| {
        m.records =
            (0..5).map(|n| Record { name: format!("r{n}"), bytes: 255 << 20, hash: Hash::of(b"") }).collect();
    };
    assert!(matches!(with_manifest(parts), Error::Oversized { .. }));
    assert!(matches!(with_manifest(|m| m.pages = vec![0; 65]), Error::Oversized { .. }));
    assert!(matches!(with_manifest(|m| m.host.kernel = "x".repeat(256)), Error::Oversized { .. }));
    let fixture = Fixture::new(false);
    OpenOptions::new().write(true).open(fixture.dir.join("manifest")).unwrap().set_len(1 << 30).unwrap();
    assert!(matches!(open(&fixture), Err(Error::Oversized { .. })));
}

#[test]
fn relations_that_cannot_be() {
    let twice = |m: &mut Manifest| m.records.push(m.records[0].clone());
    assert!(matches!(with_manifest(twice), Error::Malformed(_)));
    assert!(matches!(with_manifest(|m| m.spaces[0].id = m.spaces[1].id), Error::Malformed(_)));
    assert!(matches!(with_manifest(|m| m.spaces[0].chunk_bytes = 1), Error::Malformed(_)));
    assert!(matches!(with_manifest(|m| m.spaces[0].chunk_bytes = 4096), Error::Malformed(_)));
    assert!(matches!(with_manifest(|m| m.pages[0] -= 4096), Error::Malformed(_)));
    assert!(matches!(with_manifest(|m| m.pages.clear()), Error::Malformed(_)));
    assert!(matches!(with_manifest(|m| m.streams[0].bytes = 1), Error::Malformed(_)));
    assert!(matches!(with_manifest(|m| m.format = 0), Error::Malformed(_)));
    let fixture = Fixture::new(false);
    sign_again(&fixture, b"not CBOR at all");
    assert!(matches!(open(&fixture), Err(Error::Malformed(_))));
}

#[test]
fn something_that_is_no_image() {
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Reader::open(empty.path()), Err(Error::NotAnImage(_))));
    assert!(matches!(Reader::open(&empty.path().join("absent")), Err(Error::Io { .. })));
    let mut file = std::fs::File::create(empty.path().join("file")).unwrap();
    file.write_all(b"x").unwrap();
    assert!(matches!(Reader::open(&empty.path().join("file")), Err(Error::Io { .. })));
}

#[test]
fn an_image_that_ends_its_workload_is_restored_once() {
    let fixture = Fixture::new(true);
    let image = open(&fixture).unwrap();
    image.check_not_consumed().unwrap();
    let mark = consumed::mark(&fixture.dir, "today, here").unwrap();
    assert!(matches!(image.check_not_consumed(), Err(Error::Consumed(note)) if note == "today, here"));
    assert!(matches!(consumed::mark(&fixture.dir, "again"), Err(Error::Consumed(_))));
    // A restore that failed before anything ran takes its mark back.
    mark.undo().unwrap();
    image.check_not_consumed().unwrap();
    let won = std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..8).map(|_| scope.spawn(|| consumed::mark(&fixture.dir, "race").is_ok())).collect();
        all.into_iter().map(|one| one.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
}
