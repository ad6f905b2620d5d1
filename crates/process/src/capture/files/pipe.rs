//! Pipes and FIFOs: who holds which end, and what is in them. The content is duplicated by `tee(2)`, never taken.

use super::class::{Class, refuse};
use super::survey::{Look, Survey};
use super::{Capture, Error};
use crate::records::file::{Chunk, Kind, Pipe};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, SpliceFlags};

/// Refuses a pipe of which somebody outside of the tree holds the other end.
pub(super) fn classify(survey: &Survey<'_>, look: &Look) -> Result<Class, Error> {
    let named = !look.link.starts_with(b"pipe:");
    let class = if named { Class::Fifo } else { Class::Pipe };
    let (mut reader, mut writer) = (false, false);
    for other in survey.looks.iter().filter(|other| other.key() == look.key()) {
        let mode = other.info.flags & OFlags::RWMODE.bits();
        reader |= mode != OFlags::WRONLY.bits();
        writer |= mode != OFlags::RDONLY.bits();
    }
    if named && look.stat.st_nlink == 0 {
        return Ok(refuse(
            look,
            &format!("the deleted FIFO {}", look.name()),
            "Close it before the move, or give it a name again",
        ));
    }
    if reader && writer {
        return Ok(class);
    }
    let Ok(fd) = survey.take(look) else { return Ok(class) };
    let mut state = [PollFd::new(&fd, PollFlags::IN | PollFlags::OUT)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut state, Some(&now)).map_err(Error::kernel(format!("look at {}", look.place())))?;
    // Without a writer the reader sees a hang-up, without a reader the writer an error. A FIFO that never had a writer shows
    // none, as does a pipe whose other end is held elsewhere.
    let alone = state[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
    if alone || (named && !held_elsewhere(survey, look)) {
        return Ok(class);
    }
    let end = if reader { "writing" } else { "reading" };
    Ok(refuse(
        look,
        &format!("{}, whose {end} end is held outside of the workload", look.name()),
        "Run both ends in one workload (`ferry run -- sh -c 'a | b'`), or redirect it to a file",
    ))
}

/// Whether a process that is not of the workload has the FIFO open.
fn held_elsewhere(survey: &Survey<'_>, look: &Look) -> bool {
    let Ok(all) = std::fs::read_dir("/proc") else { return true };
    for entry in all.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if survey.tasks.iter().any(|task| task.host_pid == pid) || pid == std::process::id() as i32 {
            continue;
        }
        let Ok(fds) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        for fd in fds.flatten() {
            let stat = rustix::fs::stat(fd.path());
            if stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == look.key()) {
                return true;
            }
        }
    }
    false
}

/// Captures the pipe behind `look`, once for all its ends.
pub(super) fn capture(capture: &mut Capture<'_>, look: &Look) -> Result<Kind, Error> {
    if let Some(&pipe) = capture.pipes.get(&look.key()) {
        return Ok(Kind::Pipe { pipe });
    }
    let what = || format!("read what is in {} ({})", look.name(), look.place());
    let survey = capture.survey;
    let ends = || survey.looks.iter().filter(|other| other.key() == look.key());
    let packets = ends().any(|end| end.has(OFlags::DIRECT) && end.info.flags & OFlags::RWMODE.bits() != 0);
    // Only when there is a reader can something be in it. A description of our own spares the workload's flags.
    let reader = ends().find(|end| end.info.flags & OFlags::RWMODE.bits() != OFlags::WRONLY.bits());
    let end = capture.take(look)?;
    let size = rustix::pipe::fcntl_getpipe_size(&end).map_err(Error::kernel(what()))?;
    let chunks = match reader {
        Some(reader) => contents(&capture.take(reader)?, size, packets).map_err(Error::kernel(what()))?,
        None => Vec::new(),
    };
    capture.carry(look, chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum())?;
    let pipe = capture.files.pipes.len() as u32;
    capture.files.pipes.push(Pipe {
        path: (!look.link.starts_with(b"pipe:")).then(|| look.link.clone()),
        inode: look.stat.st_ino,
        size: size as u32,
        chunks,
        packets,
    });
    capture.pipes.insert(look.key(), pipe);
    Ok(Kind::Pipe { pipe })
}

/// What is in the pipe behind `reader`.
fn contents(reader: &OwnedFd, size: usize, packets: bool) -> Result<Vec<Chunk>, rustix::io::Errno> {
    if rustix::io::ioctl_fionread(reader)? == 0 {
        return Ok(Vec::new());
    }
    let (copy, sink) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    rustix::pipe::fcntl_setpipe_size(&sink, size)?;
    match rustix::pipe::tee(reader, &sink, size, SpliceFlags::NONBLOCK) {
        Ok(_) => {}
        Err(rustix::io::Errno::AGAIN) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    drop(sink);
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut buffer = vec![0; size.max(4096)];
    loop {
        match rustix::io::read(&copy, &mut buffer) {
            Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(chunks),
            Ok(len) if packets || chunks.is_empty() => chunks.push(Chunk { bytes: buffer[..len].to_vec() }),
            Ok(len) => chunks[0].bytes.extend(&buffer[..len]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
