//! Files without a name: deleted while open, `O_TMPFILE`, memfds. Their content is carried, unless it is a memory object
//! (mapped somewhere), which is carried as memory.

use super::survey::Look;
use super::{Capture, Error};
use crate::records::file::{Extent, Kind, Nameless, NamelessKind};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

/// Captures the file behind `look`, once for all its descriptions.
pub(super) fn capture(capture: &mut Capture<'_>, look: &Look, kind: NamelessKind) -> Result<Kind, Error> {
    if let Some(&nameless) = capture.nameless.get(&look.key()) {
        return Ok(Kind::Nameless { nameless });
    }
    let what = || format!("read the deleted file {} ({})", look.name(), look.place());
    // A description of our own: the workload's position stays where it is, and it may not be open for reading.
    let path = format!("/proc/{}/fd/{}", look.task.host_pid, look.fd);
    let own = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOATIME, Mode::empty())
        .or_else(|_| rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
        .map_err(Error::kernel(what()))?;
    let in_memory = capture.survey.objects.contains(&look.key());
    let size = look.stat.st_size as u64;
    let extents = if in_memory {
        Vec::new()
    } else {
        capture.carry(look, u64::try_from(look.stat.st_blocks).unwrap_or(0).saturating_mul(512).min(size))?;
        read_extents(&own, size).map_err(Error::kernel(what()))?
    };
    let name = look.link.strip_suffix(b" (deleted)").unwrap_or(&look.link);
    let name = if kind == NamelessKind::Memfd { name.strip_prefix(b"/memfd:").unwrap_or(name) } else { name };
    let seals = rustix::fs::fcntl_get_seals(&own).map_or(0, |seals| seals.bits());
    let nameless = capture.files.nameless.len() as u32;
    capture.files.nameless.push(Nameless {
        kind,
        device: look.stat.st_dev,
        inode: look.stat.st_ino,
        name: name.to_vec(),
        mode: look.stat.st_mode & 0o7777,
        uid: look.stat.st_uid,
        gid: look.stat.st_gid,
        seals,
        size,
        extents,
        in_memory,
    });
    capture.nameless.insert(look.key(), nameless);
    Ok(Kind::Nameless { nameless })
}

/// What lies between the holes.
fn read_extents(file: &OwnedFd, size: u64) -> Result<Vec<Extent>, Errno> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // A file system without holes.
            Err(Errno::INVAL) => at,
            Err(error) => return Err(error),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        if start >= end {
            break;
        }
        let mut bytes = vec![0; (end - start) as usize];
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pread(file, &mut bytes[done..], start + done as u64)? {
                0 => break,
                more => done += more,
            }
        }
        bytes.truncate(done);
        extents.push(Extent { offset: start, bytes });
        at = end;
    }
    Ok(extents)
}
