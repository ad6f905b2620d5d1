//! Trees that change while they are sent, and what is sent afterwards.

use ferry_process::capsule::tree::{Index, Limits, Mapped, Parts, Totals, pack_changes, unpack};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One tree here and its copy there, on a disk: a memory file system has rules of its own.
struct Pair {
    place: tempfile::TempDir,
    there: Index,
    /// Content of the streams so far, bytes.
    sent: u64,
}

impl Pair {
    fn on_disk() -> Self {
        Self::within(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").as_path())
    }

    fn within(place: &Path) -> Self {
        let place = tempfile::Builder::new().prefix("ferry-tree-").tempdir_in(place).unwrap();
        fs::create_dir(place.path().join("here")).unwrap();
        fs::create_dir(place.path().join("there")).unwrap();
        Self { place, there: Index::default(), sent: 0 }
    }

    fn here(&self, name: &str) -> PathBuf {
        self.place.path().join("here").join(name)
    }

    fn there(&self, name: &str) -> PathBuf {
        self.place.path().join("there").join(name)
    }

    /// One round; `between` happens after the look and before the reading.
    fn round(&mut self, last: bool, mapped: &Mapped, between: impl FnOnce(&Self)) -> Totals {
        let here = File::open(self.here("")).unwrap();
        let mut now = Index::look(&here, None, &Parts::new(), &Limits::default()).unwrap();
        now.unsettle(mapped);
        let changes = now.since(&self.there, &here, false, last).unwrap();
        between(self);
        let mut stream = Vec::new();
        let packed =
            pack_changes(&here, &changes, &mut now, false, !last, &mut stream, &Limits::default()).unwrap();
        self.there = now;
        let there = File::open(self.there("")).unwrap();
        assert_eq!(unpack(&there, &mut &stream[..], &Limits::default()).unwrap(), packed);
        self.sent += packed.bytes;
        packed
    }

    /// The last round; then both are the same.
    fn last(&mut self) -> Totals {
        let totals = self.round(true, &Mapped::default(), |_| {});
        assert_eq!(listing(&self.there("")), listing(&self.here("")));
        totals
    }
}

/// All that there is to know of a tree, inodes as the first name that they have.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(
        root: &Path,
        at: &Path,
        all: &mut BTreeMap<PathBuf, String>,
        inodes: &mut BTreeMap<u64, PathBuf>,
    ) {
        let mut entries: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
            let content = match meta.file_type() {
                kind if kind.is_file() => blake3::hash(&fs::read(&path).unwrap()).to_string(),
                kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
                _ => String::new(),
            };
            let mut note = [0u8; 64];
            let note = rustix::fs::lgetxattr(&path, "user.note", &mut note).unwrap_or(0);
            let time = (meta.mtime(), meta.mtime_nsec());
            all.insert(name, format!("{:o} {first:?} {content} {note} {time:?}", meta.mode()));
            if meta.is_dir() {
                walk(root, &path, all, inodes);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all, &mut BTreeMap::new());
    all
}

/// So long that a time stamp of before cannot be had again.
fn settle() {
    std::thread::sleep(Duration::from_millis(150));
}

#[test]
fn changes_of_every_kind_follow_and_nothing_else_does() {
    let mut pair = Pair::on_disk();
    let here = |name: &str| pair.here(name);
    for directory in ["d/deep", "moves/in", "goes/all/of/it", "becomes"] {
        fs::create_dir_all(here(directory)).unwrap();
    }
    fs::write(here("big"), vec![7; 3 << 20]).unwrap();
    for name in [
        "changes",
        "same-size",
        "grows",
        "goes/all/of/it/f",
        "moves/in/f",
        "d/deep/f",
        "old-name",
        "becomes/f",
    ] {
        fs::write(here(name), name).unwrap();
    }
    for (from, to) in [("x1", "x2"), ("y1", "y2"), ("y1", "d/y3")] {
        if !here(from).exists() {
            fs::write(here(from), from).unwrap();
        }
        fs::hard_link(here(from), here(to)).unwrap();
    }
    symlink("one", here("link")).unwrap();
    rustix::fs::lsetxattr(here("d"), "user.note", b"n", rustix::fs::XattrFlags::empty()).unwrap();
    settle();
    pair.round(false, &Mapped::default(), |_| {});
    assert_eq!(listing(&pair.there("")), listing(&pair.here("")));

    let here = |name: &str| pair.here(name);
    fs::write(here("changes"), "is longer now").unwrap();
    fs::write(here("same-size"), "SAME-SIZE").unwrap();
    File::options().append(true).open(here("grows")).unwrap().write_all(b" more").unwrap();
    fs::remove_dir_all(here("goes")).unwrap();
    fs::rename(here("moves"), here("moved")).unwrap();
    fs::rename(here("old-name"), here("a-new-name")).unwrap();
    fs::write(here("appears"), "new").unwrap();
    fs::hard_link(here("d/deep/f"), here("another-name-of-f")).unwrap();
    fs::write(here("x2"), "through its other name").unwrap();
    fs::remove_file(here("y1")).unwrap();
    fs::remove_dir_all(here("becomes")).unwrap();
    fs::write(here("becomes"), "a file").unwrap();
    fs::remove_file(here("link")).unwrap();
    fs::create_dir(here("link")).unwrap();
    fs::set_permissions(here("d/deep"), fs::Permissions::from_mode(0o700)).unwrap();
    rustix::fs::lremovexattr(here("d"), "user.note").unwrap();
    let totals = pair.last();
    assert!(totals.bytes < 1 << 20, "what did not change does not travel again: {totals:?}");
    // And once more, when nothing changed at all.
    settle();
    pair.last();
    assert_eq!(pair.last().entries, 0);
}

/// Sets the time of the last change of content back to what it was.
fn set_modified(path: &Path, to: (i64, i64)) {
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times =
        Timestamps { last_access: time(0, rustix::fs::UTIME_OMIT), last_modification: time(to.0, to.1) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

#[test]
fn a_file_that_is_written_again_at_once_is_not_missed() {
    let mut pair = Pair::on_disk();
    let files: Vec<File> = (0..50).map(|n| File::create(pair.here(&format!("f{n}"))).unwrap()).collect();
    // In place, with the same size, as quickly as can be: within one tick of the clock that time stamps are taken from.
    for turn in 0..20u8 {
        for file in &files {
            file.write_all_at(&[turn; 64], 0).unwrap();
        }
        pair.round(false, &Mapped::default(), |pair| {
            // Between the look and the reading, and again after it.
            files[usize::from(turn)].write_all_at(&[turn + 100; 64], 0).unwrap();
            assert!(pair.here("f0").exists());
        });
        for (file, number) in files.iter().zip(0u8..) {
            file.write_all_at(&[turn ^ number; 64], 0).unwrap();
        }
    }
    pair.last();
    // A program that hides its changes by setting the time back.
    let path = pair.here("f7");
    let before = fs::metadata(&path).unwrap();
    settle();
    pair.round(false, &Mapped::default(), |_| {});
    files[7].write_all_at(b"hidden", 0).unwrap();
    set_modified(&path, (before.mtime(), before.mtime_nsec()));
    pair.last();
}

#[test]
fn a_store_through_a_mapping_is_not_missed() {
    for (place, is_disk) in
        [(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), true), ("/dev/shm".into(), false)]
    {
        let mut pair = Pair::within(&place);
        fs::write(pair.here("f"), vec![1; 8192]).unwrap();
        fs::write(pair.here("other"), vec![1; 1 << 20]).unwrap();
        let file = File::options().read(true).write(true).open(pair.here("f")).unwrap();
        let memory = ferry_sys::mapped::SharedFile::new(&file, 8192).unwrap();
        // The page is dirty and may be written, so that no later store is noticed by the kernel.
        memory.store(0, 2);
        settle();
        let mapped = Mapped { paths: [b"f".to_vec()].into(), ..Mapped::default() };
        pair.round(false, &mapped, |_| {});
        memory.store(0, 3);
        drop(memory);
        let totals = pair.last();
        assert_eq!(fs::read(pair.there("f")).unwrap()[0], 3);
        assert_eq!(totals.bytes, 8192, "only what differs, disk: {is_disk}");
    }
}

#[test]
fn what_vanishes_or_shrinks_while_it_is_read_is_made_good() {
    let mut pair = Pair::on_disk();
    fs::create_dir_all(pair.here("gone/with")).unwrap();
    for name in ["gone/with/f", "gone-too", "shrinks", "swapped", "stays"] {
        fs::write(pair.here(name), vec![1; 100_000]).unwrap();
    }
    settle();
    pair.round(false, &Mapped::default(), |pair| {
        fs::remove_dir_all(pair.here("gone")).unwrap();
        fs::remove_file(pair.here("gone-too")).unwrap();
        File::options().write(true).open(pair.here("shrinks")).unwrap().set_len(10).unwrap();
        // Another file stands in its place while it is read ..
        fs::rename(pair.here("swapped"), pair.here("aside")).unwrap();
        fs::write(pair.here("swapped"), "not this one").unwrap();
    });
    // .. and goes again without a trace.
    fs::write(pair.here("shrinks"), "otherwise").unwrap();
    fs::rename(pair.here("aside"), pair.here("swapped")).unwrap();
    fs::write(pair.here("gone"), "comes back as a file").unwrap();
    settle();
    pair.round(false, &Mapped::default(), |pair| {
        // Sent before, changed since, and gone when it is to be sent again.
        fs::remove_file(pair.here("shrinks")).unwrap();
    });
    pair.last();
}

#[test]
fn a_tree_that_is_written_to_all_the_time_is_the_same_in_the_end() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut pair = Pair::on_disk();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let root = pair.here("");
        let stop = &stop;
        let writer = scope.spawn(move || {
            let mut number = 0u32;
            // A small generator: the same changes on every run, at moments that differ.
            while !stop.load(Ordering::Relaxed) {
                number = number.wrapping_mul(1_103_515_245).wrapping_add(12345);
                let name = |n: u32| root.join(format!("d{}", n % 3)).join(format!("f{}", n / 3 % 9));
                let (a, b) = (name(number >> 8), name(number >> 16));
                let _ = fs::create_dir_all(a.parent().unwrap());
                let _ = match number >> 28 {
                    0..6 => fs::write(&a, number.to_string().repeat(50)),
                    6..8 => fs::rename(&a, &b),
                    8..10 => fs::hard_link(&a, &b),
                    10..12 => fs::remove_file(&a),
                    12 => fs::rename(a.parent().unwrap(), root.join("aside")),
                    13 => fs::rename(root.join("aside"), b.parent().unwrap()),
                    14 => fs::remove_dir_all(a.parent().unwrap()),
                    _ => symlink("x", &b),
                };
            }
        });
        for _ in 0..30 {
            pair.round(false, &Mapped::default(), |_| std::thread::sleep(Duration::from_millis(2)));
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    pair.last();
}
