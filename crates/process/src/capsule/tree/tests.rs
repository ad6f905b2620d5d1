//! Trees there and back, and every attack on the unpacker.

use super::*;
use minicbor::bytes::ByteVec;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

fn there_and_back(from: &Path, to: &Path) -> Totals {
    let mut stream = Vec::new();
    let packed = pack(File::open(from).unwrap(), &mut stream, &Limits::default()).unwrap();
    let unpacked = unpack(File::open(to).unwrap(), &mut &stream[..], &Limits::default()).unwrap();
    assert_eq!(packed, unpacked);
    packed
}

#[test]
fn everything_arrives_as_it_was() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = |name: &str| from.path().join(name);
    fs::create_dir_all(path("a/b")).unwrap();
    fs::write(path("a/b/file"), b"content").unwrap();
    fs::set_permissions(path("a/b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(path("a/b/file"), Some(12), Some(34)).unwrap();
    fs::set_permissions(path("a/b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(path("a/b/file"), path("z-link")).unwrap();
    symlink("/etc/passwd", path("a/symlink")).unwrap();
    let sparse = File::create(path("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 300 << 20).unwrap();
    fs::write(path("empty"), b"").unwrap();
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path(name),
            kind,
            rustix::fs::Mode::from_raw_mode(0o640),
            device,
        )
        .unwrap();
    };
    node("fifo", rustix::fs::FileType::Fifo, 0);
    node("socket", rustix::fs::FileType::Socket, 0);
    node("whiteout", rustix::fs::FileType::CharacterDevice, 0);
    node("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path(name), key, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("a", "trusted.overlay.opaque", b"y");
    set("a/b/file", "user.note", b"hello");
    set("a/b/file", "trusted.overlay.redirect", b"/etc");
    let old = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 1_000_000, tv_nsec: 123_456_789 },
    };
    for name in ["a/b/file", "a/symlink", "a"] {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, path(name), &old, flags).unwrap();
    }

    let totals = there_and_back(from.path(), to.path());
    assert!(totals.bytes < 1 << 20, "holes do not travel: {totals:?}");

    let path = |name: &str| to.path().join(name);
    let look = |name: &str| fs::symlink_metadata(path(name)).unwrap();
    assert_eq!(fs::read(path("a/b/file")).unwrap(), b"content");
    let file = look("a/b/file");
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.nlink()), (0o4751, 12, 34, 2));
    assert_eq!((file.mtime(), file.mtime_nsec()), (1_000_000, 123_456_789));
    assert_eq!(file.ino(), look("z-link").ino());
    assert_eq!(fs::read_link(path("a/symlink")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!((look("a").mtime(), look("a/symlink").mtime()), (1_000_000, 1_000_000));
    let sparse = look("sparse");
    assert_eq!(sparse.len(), 1 << 30);
    assert!(sparse.blocks() * 512 < 1 << 20);
    let mut middle = [0; 13];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(path("sparse")).unwrap(), &mut middle, 300 << 20)
        .unwrap();
    assert_eq!(&middle, b"in the middle");
    assert!(look("fifo").file_type().is_fifo() && look("socket").file_type().is_socket());
    assert!(look("whiteout").file_type().is_char_device() && look("whiteout").rdev() == 0);
    assert_eq!((look("null").rdev(), look("null").mode() & 0o777), (rustix::fs::makedev(1, 3), 0o640));
    let xattr = |name: &str, key: &str| {
        let mut value = [0u8; 64];
        rustix::fs::lgetxattr(path(name), key, &mut value).map(|length| value[..length].to_vec()).ok()
    };
    assert_eq!(xattr("a", "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!(xattr("a/b/file", "user.note").as_deref(), Some(&b"hello"[..]));
    assert_eq!(
        xattr("a/b/file", "trusted.overlay.redirect"),
        None,
        "references into a lower layer stay behind"
    );
    // Once more over what is there: as when the last changes follow a first copy.
    assert_eq!(there_and_back(from.path(), to.path()), totals);
    assert_eq!(look("a/b/file").nlink(), 2);
}

/// An entry that does no harm.
fn plain(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec().into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime_s: 0,
        mtime_ns: 0,
        device: (0, 0),
        link: ByteVec::from(Vec::new()),
        xattrs: Vec::new(),
        size: 0,
        segments: Vec::new(),
    }
}

fn link(path: &str, kind: Kind, target: &str) -> Entry {
    Entry { link: target.as_bytes().to_vec().into(), ..plain(path, kind) }
}

/// A stream of these entries, each followed by `content` and its true hash if it is a file.
fn stream(entries: &[Entry], content: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let mut total = 0u64;
    for entry in entries {
        let description = minicbor::to_vec(entry).unwrap();
        bytes.extend((description.len() as u32).to_le_bytes());
        bytes.extend(description);
        if entry.kind == Kind::File {
            bytes.extend(content);
            total += content.len() as u64;
            bytes.extend(blake3::hash(content).as_bytes());
        }
    }
    bytes.extend(0u32.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    bytes.extend(total.to_le_bytes());
    bytes
}

/// Unpacks into `root/inner`; what is in `root` besides must not change.
fn attack(entries: &[Entry], content: &[u8]) -> Result<Totals, Error> {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("victim"), b"untouched").unwrap();
    fs::create_dir(root.path().join("outside")).unwrap();
    fs::create_dir(root.path().join("inner")).unwrap();
    let result = unpack(
        File::open(root.path().join("inner")).unwrap(),
        &mut &stream(entries, content)[..],
        &Limits::default(),
    );
    assert_eq!(fs::read(root.path().join("victim")).unwrap(), b"untouched");
    assert_eq!(fs::metadata(root.path().join("victim")).unwrap().nlink(), 1);
    assert_eq!(fs::read_dir(root.path().join("outside")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3);
    result
}

fn refused(entries: &[Entry]) {
    match attack(entries, b"") {
        Err(Error::Refused(_)) => {}
        other => panic!("{entries:?} gave {other:?}"),
    }
}

#[test]
fn paths_that_climb_out_are_refused() {
    for path in ["../evil", "a/../../evil", "/evil", "..", ".", "a//b", "./a", "a/", "a/./b", "a\0b"] {
        refused(&[plain("a", Kind::Directory), plain(path, Kind::File)]);
        refused(&[plain("a", Kind::Directory), plain(path, Kind::Directory)]);
    }
    refused(&[plain(&"d/".repeat(300), Kind::Directory)]);
    refused(&[plain(&"n".repeat(256), Kind::File)]);
}

#[test]
fn a_symbolic_link_is_never_walked_through() {
    for target in ["../outside", "/tmp", "/proc/self/root", "."] {
        refused(&[link("door", Kind::Symlink, target), plain("door/evil", Kind::File)]);
        refused(&[link("door", Kind::Symlink, target), plain("door/evil", Kind::Directory)]);
        refused(&[link("door", Kind::Symlink, target), link("door/evil", Kind::Symlink, "x")]);
    }
    // A link with the name of a later file or directory is replaced, not followed.
    for kind in [Kind::File, Kind::Directory, Kind::Fifo] {
        attack(&[link("victim", Kind::Symlink, "../victim"), plain("victim", kind)], b"").unwrap();
        attack(&[link("outside", Kind::Symlink, "../outside"), plain("outside", kind)], b"").unwrap();
    }
}

#[test]
fn hard_links_reach_only_what_is_in_the_tree() {
    for target in ["../victim", "/etc/passwd", "a/../../victim"] {
        refused(&[link("evil", Kind::HardLink, target)]);
    }
    refused(&[link("door", Kind::Symlink, ".."), link("evil", Kind::HardLink, "door/victim")]);
    // A hard link to a symbolic link is one more symbolic link.
    attack(&[link("s", Kind::Symlink, "../victim"), link("h", Kind::HardLink, "s")], b"").unwrap();
}

#[test]
fn altered_cut_and_oversized_streams_are_refused() {
    let entry = Entry { size: 5, segments: vec![(0, 5)], ..plain("f", Kind::File) };
    let good = stream(std::slice::from_ref(&entry), b"hello");
    let run = |bytes: &[u8]| {
        let to = tempfile::tempdir().unwrap();
        unpack(File::open(to.path()).unwrap(), &mut &bytes[..], &Limits::default())
    };
    assert_eq!(run(&good).unwrap(), Totals { entries: 1, bytes: 5 });
    for length in 0..good.len() {
        assert!(matches!(run(&good[..length]), Err(Error::Refused(_))), "cut at {length}");
    }
    let content = good.windows(5).position(|part| part == b"hello").unwrap();
    let mut altered = good.clone();
    altered[content] ^= 1;
    assert!(matches!(run(&altered), Err(Error::Refused(_))));
    for segments in [vec![(0, 6)], vec![(3, 2), (0, 1)], vec![(0, 0)], vec![(u64::MAX, 2)]] {
        refused(&[Entry { segments, ..entry.clone() }]);
    }
    refused(&[Entry { size: u64::MAX, segments: vec![], ..entry.clone() }]);
    refused(&[Entry { mode: 0o100_644, ..entry.clone() }]);
    let huge = [&MAGIC[..], &u32::MAX.to_le_bytes()].concat();
    assert!(matches!(run(&huge), Err(Error::Refused(_))));
    let to = tempfile::tempdir().unwrap();
    let few = Limits { bytes_max: 4, ..Limits::default() };
    assert!(matches!(unpack(File::open(to.path()).unwrap(), &mut &good[..], &few), Err(Error::TooLarge(_))));
    let none = Limits { entries_max: 0, ..Limits::default() };
    assert!(matches!(unpack(File::open(to.path()).unwrap(), &mut &good[..], &none), Err(Error::TooLarge(_))));
}

#[test]
fn attributes_that_steer_an_overlay_are_not_set() {
    let to = tempfile::tempdir().unwrap();
    let xattrs = vec![
        (ByteVec::from(b"trusted.overlay.redirect".to_vec()), ByteVec::from(b"/root".to_vec())),
        (ByteVec::from(b"security.selinux".to_vec()), ByteVec::from(b"x".to_vec())),
        (ByteVec::from(b"user.kept".to_vec()), ByteVec::from(b"y".to_vec())),
    ];
    let bytes = stream(&[Entry { xattrs, mode: 0o755, ..plain("d", Kind::Directory) }], b"");
    unpack(File::open(to.path()).unwrap(), &mut &bytes[..], &Limits::default()).unwrap();
    let mut list = [0u8; 256];
    let length = rustix::fs::llistxattr(to.path().join("d"), &mut list).unwrap();
    assert_eq!(&list[..length], b"user.kept\0");
}
