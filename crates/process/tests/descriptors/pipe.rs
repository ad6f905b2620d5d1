//! Pipes and FIFOs.

use crate::holder::{Holder, number, read};
use ferry_process::capture::files::Error;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

#[test]
fn content_and_size_move_and_nothing_is_taken() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 1 << 17).unwrap();
    let content: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
    rustix::io::write(&writer, &content).unwrap();
    let (r, w) = (number(&reader), number(&writer));
    let holder = Holder::with(vec![reader.try_clone().unwrap(), writer.try_clone().unwrap(), reader, writer]);
    // Twice: the first capture must leave everything as it was.
    holder.capture().unwrap();
    let moved = holder.move_here();
    assert_eq!(rustix::pipe::fcntl_getpipe_size(moved.fd(w)).unwrap(), 1 << 17);
    let mut back = Vec::new();
    while back.len() < content.len() {
        back.extend(read(moved.fd(r), 65536));
    }
    assert_eq!(back, content);
    rustix::io::write(moved.fd(w), b"more").unwrap();
    assert_eq!(read(moved.fd(r), 10), b"more");
}

#[test]
fn packets_stay_packets() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
    rustix::io::write(&writer, b"one").unwrap();
    rustix::io::write(&writer, b"three").unwrap();
    let r = number(&reader);
    let moved = Holder::with(vec![reader, writer]).move_here();
    assert_eq!(read(moved.fd(r), 100), b"one");
    assert_eq!(read(moved.fd(r), 100), b"three");
}

#[test]
fn a_half_closed_pipe_gives_its_rest_and_then_the_end() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    rustix::io::write(&writer, b"last words").unwrap();
    drop(writer);
    let r = number(&reader);
    let moved = Holder::with(vec![reader]).move_here();
    assert_eq!(read(moved.fd(r), 100), b"last words");
    assert_eq!(read(moved.fd(r), 100), b"");
}

#[test]
fn a_pipe_to_somebody_outside_is_refused_by_name() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let w = number(&writer);
    let holder = Holder::with(vec![writer]);
    let error = holder.capture().unwrap_err();
    let Error::Unsupported(blockers) = error else { panic!("{error}") };
    assert!(
        blockers[0].what.contains(&format!("pid {}, descriptor {w}", holder.task.ns_pid)),
        "{blockers:?}"
    );
    assert!(blockers[0].what.contains("reading end is held outside"), "{blockers:?}");
    drop(reader);
    assert!(holder.capture().is_ok(), "nobody reads it any more");
}

#[test]
fn furniture_is_bound_again_by_name() {
    use ferry_process::capture::files::{FilesContext, Furniture, FurnitureKind, capture};
    use ferry_process::restore::files::{Recreated, RestoreContext};
    use rustix::fd::AsFd;
    let (log, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let inode = rustix::fs::fstat(&log).unwrap().st_ino;
    let w = number(&writer);
    let holder = Holder::with(vec![writer]);
    let furniture = [Furniture { name: "log".into(), what: FurnitureKind::Pipe(inode) }];
    let ctx = FilesContext { furniture: &furniture, ..FilesContext::default() };
    let files = capture(&[holder.task], &ctx).unwrap().files;
    let (new_log, new_writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut target = RestoreContext::default();
    target.furniture.insert("log".into(), new_writer.as_fd());
    let made = Recreated::create(&files, &target).unwrap();
    let description = files.tables[0].descriptors.iter().find(|own| own.fd == w).unwrap().description;
    rustix::io::write(made.descriptor(description).unwrap(), b"line").unwrap();
    assert_eq!(read(new_log, 10), b"line");
    assert!(Recreated::create(&files, &RestoreContext::default()).is_err());
}

#[test]
fn a_fifo_keeps_both_ends_and_its_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .unwrap();
    let open = |flags| rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let reader = open(OFlags::RDONLY | OFlags::NONBLOCK);
    let writer = open(OFlags::WRONLY);
    rustix::io::write(&writer, b"through the name").unwrap();
    let (r, w) = (number(&reader), number(&writer));
    let moved = Holder::with(vec![reader, writer]).move_here();
    assert_eq!(read(moved.fd(r), 100), b"through the name");
    assert!(!rustix::fs::fcntl_getfl(moved.fd(w)).unwrap().contains(OFlags::NONBLOCK));
    let fd = moved.fd(w);
    let mut state = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    rustix::event::poll(&mut state, None).unwrap();
    assert_eq!(state[0].revents(), PollFlags::OUT);
}
