//! Files with and without names, positions, flags, locks, sharing.

use crate::holder::{Holder, number, read};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};
use rustix::io::Errno;
use std::path::Path;

fn open(path: &Path, flags: OFlags) -> OwnedFd {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o640)).unwrap()
}

#[test]
fn position_flags_and_append_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::write(&path, b"0123456789").unwrap();
    let reader = open(&path, OFlags::RDONLY);
    rustix::fs::seek(&reader, SeekFrom::Start(4)).unwrap();
    let writer = open(&path, OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK);
    let by_path = open(&path, OFlags::PATH);
    let place = open(directory.path(), OFlags::RDONLY | OFlags::DIRECTORY);
    let (r, w, p, d) = (number(&reader), number(&writer), number(&by_path), number(&place));
    let moved = Holder::with(vec![reader, writer, by_path, place]).move_here();
    assert_eq!(read(moved.fd(r), 3), b"456");
    rustix::io::write(moved.fd(w), b"!").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"0123456789!");
    let flags = rustix::fs::fcntl_getfl(moved.fd(w)).unwrap();
    assert!(flags.contains(OFlags::APPEND | OFlags::NONBLOCK));
    assert!(rustix::fs::fcntl_getfl(moved.fd(p)).unwrap().contains(OFlags::PATH));
    assert!(rustix::fs::statat(moved.fd(d), "log", rustix::fs::AtFlags::empty()).is_ok());
}

#[test]
fn a_file_that_changed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    std::fs::write(&path, b"as it was").unwrap();
    let holder = Holder::with(vec![open(&path, OFlags::RDONLY)]);
    let files = holder.capture().unwrap().files;
    std::fs::write(&path, b"something else").unwrap();
    let error = ferry_process::restore::files::Recreated::create(&files, &Default::default()).unwrap_err();
    assert!(error.to_string().contains("bytes here"), "{error}");
}

#[test]
fn a_deleted_file_keeps_its_content_and_is_shared() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gone");
    std::fs::write(&path, b"still here").unwrap();
    let writer = open(&path, OFlags::RDWR);
    let reader = open(&path, OFlags::RDONLY);
    rustix::fs::ftruncate(&writer, 1 << 20).unwrap();
    rustix::io::pwrite(&writer, b"end", (1 << 20) - 3).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (w, r) = (number(&writer), number(&reader));
    let moved = Holder::with(vec![writer, reader]).move_here();
    assert_eq!(read(moved.fd(r), 10), b"still here");
    rustix::io::pwrite(moved.fd(w), b"together", 0).unwrap();
    let mut buffer = [0; 8];
    rustix::io::pread(moved.fd(r), &mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"together");
    let stat = rustix::fs::fstat(moved.fd(w)).unwrap();
    assert_eq!((stat.st_size, stat.st_nlink, stat.st_mode & 0o777), (1 << 20, 0, 0o644));
    assert!(stat.st_blocks * 512 < 1 << 20, "the hole is filled");
    let mut end = [0; 3];
    rustix::io::pread(moved.fd(r), &mut end, (1 << 20) - 3).unwrap();
    assert_eq!(&end, b"end");
    assert!(!path.exists(), "the name came back");
}

#[test]
fn a_temporary_file_can_still_get_a_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = match rustix::fs::open(
        directory.path(),
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::RUSR,
    ) {
        Ok(file) => file,
        Err(error) => panic!("this file system has no O_TMPFILE: {error}"),
    };
    rustix::io::write(&file, b"draft").unwrap();
    let fd = number(&file);
    let moved = Holder::with(vec![file]).move_here();
    let from = format!("/proc/self/fd/{}", number(moved.fd(fd)));
    let to = directory.path().join("named");
    rustix::fs::linkat(rustix::fs::CWD, from, rustix::fs::CWD, &to, rustix::fs::AtFlags::SYMLINK_FOLLOW)
        .unwrap();
    assert_eq!(std::fs::read(to).unwrap(), b"draft");
}

#[test]
fn a_renamed_over_file_is_found_by_its_other_name() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("a"), directory.path().join("b"));
    std::fs::write(&path, b"first").unwrap();
    std::fs::hard_link(&path, &other).unwrap();
    let file = open(&path, OFlags::RDONLY);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"other").unwrap();
    let fd = number(&file);
    let moved = Holder::with(vec![file]).move_here();
    assert_eq!(read(moved.fd(fd), 10), b"first");
}

#[test]
fn a_memfd_keeps_name_content_and_seals() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("secret", flags).unwrap();
    rustix::io::write(&file, b"sealed").unwrap();
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW).unwrap();
    let plain = rustix::fs::memfd_create("plain", MemfdFlags::CLOEXEC).unwrap();
    let (fd, plain_fd) = (number(&file), number(&plain));
    let moved = Holder::with(vec![file, plain]).move_here();
    let mut buffer = [0; 6];
    rustix::io::pread(moved.fd(fd), &mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"sealed");
    assert_eq!(rustix::io::pwrite(moved.fd(fd), b"x", 0).unwrap_err(), Errno::PERM);
    assert_eq!(rustix::fs::fcntl_get_seals(moved.fd(fd)).unwrap(), SealFlags::WRITE | SealFlags::GROW);
    assert_eq!(rustix::fs::fcntl_get_seals(moved.fd(plain_fd)).unwrap(), SealFlags::SEAL);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", number(moved.fd(fd)))).unwrap();
    assert_eq!(link.to_str().unwrap(), "/memfd:secret (deleted)");
    assert_eq!(moved.description(fd).position, 6);
}

#[test]
fn shared_descriptions_stay_shared() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shared");
    std::fs::write(&path, b"0123456789").unwrap();
    let one = open(&path, OFlags::RDONLY);
    let duplicate = one.try_clone().unwrap();
    let alone = open(&path, OFlags::RDONLY);
    let (a, b, c) = (number(&one), number(&duplicate), number(&alone));
    let first = Holder::with(vec![
        one.try_clone().unwrap(),
        duplicate.try_clone().unwrap(),
        alone.try_clone().unwrap(),
    ]);
    let second = Holder::with(vec![one, duplicate, alone]);
    let tasks = [first.task, second.task];
    let captured = ferry_process::capture::files::capture(&tasks, &Default::default()).unwrap();
    let files = captured.files;
    assert_eq!(files.tables.len(), 2);
    let at = |table: usize, fd: i32| {
        files.tables[table].descriptors.iter().find(|own| own.fd == fd).map(|own| own.description)
    };
    // The second holder has the originals under their numbers; the first got duplicates of all three under others.
    assert_eq!(at(1, a), at(1, b));
    assert_ne!(at(1, a), at(1, c));
    let shared = files.tables[0].descriptors.iter().filter(|own| Some(own.description) == at(1, a)).count();
    assert_eq!(shared, 2, "both names of it");
}

#[test]
fn whole_file_and_description_locks_are_held_again() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    std::fs::write(&one, b"0123456789").unwrap();
    std::fs::write(&two, b"0123456789").unwrap();
    let whole = open(&one, OFlags::RDWR);
    rustix::fs::flock(&whole, FlockOperation::NonBlockingLockExclusive).unwrap();
    let range = open(&two, OFlags::RDWR);
    ferry_sys::ioctl::lock_description(&range, true, 2, 3).unwrap();
    let moved = Holder::with(vec![whole, range]).move_here();
    let other = open(&one, OFlags::RDWR);
    let refused = rustix::fs::flock(&other, FlockOperation::NonBlockingLockShared).unwrap_err();
    assert_eq!(refused, Errno::WOULDBLOCK);
    let other = open(&two, OFlags::RDWR);
    assert!(ferry_sys::ioctl::lock_description(&other, true, 4, 1).is_err());
    assert!(ferry_sys::ioctl::lock_description(&other, true, 5, 1).is_ok());
    drop(moved);
}

#[test]
fn thousands_of_descriptors_are_quick() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("many");
    std::fs::write(&path, b"x").unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
    let count = (limit.min(4000) as usize - 100) / 3;
    // All alike: the worst case for telling them apart.
    let fds: Vec<OwnedFd> = (0..count).map(|_| open(&path, OFlags::RDONLY)).collect();
    let events: Vec<OwnedFd> = (0..count)
        .map(|_| rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap())
        .collect();
    let holder = Holder::with(fds.into_iter().chain(events).collect());
    // Time on the processor: the machine may be busy with other tests.
    let now = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        std::time::Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let start = now();
    let captured = holder.capture().unwrap();
    let took = now() - start;
    assert!(captured.files.descriptions.len() > 2 * count);
    assert!(took.as_millis() < 2000, "{took:?} for {} descriptors", 2 * count);
}
