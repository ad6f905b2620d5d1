//! Pipes and FIFOs, made again and filled.

use super::plain::{open_flags, reopen};
use super::{Error, Restore};
use crate::records::file::{Description, Kind, Pipe};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// Makes every pipe, fills it, and opens its ends.
pub(super) fn create(restore: &mut Restore<'_>) -> Result<(), Error> {
    for (index, record) in restore.files.pipes.iter().enumerate() {
        let ends: Vec<usize> = restore
            .descriptions()
            .filter(|(_, description)| description.kind == Kind::Pipe { pipe: index as u32 })
            .map(|(number, _)| number)
            .collect();
        match &record.path {
            Some(path) => fifo(restore, record, path, &ends)?,
            None => unnamed(restore, record, &ends)?,
        }
    }
    Ok(())
}

fn mode(description: &Description) -> OFlags {
    OFlags::from_bits_retain(description.flags) & OFlags::RWMODE
}

fn unnamed(restore: &mut Restore<'_>, record: &Pipe, ends: &[usize]) -> Result<(), Error> {
    let what = || format!("make pipe:[{}] again", record.inode);
    let flags = if record.packets { PipeFlags::DIRECT | PipeFlags::CLOEXEC } else { PipeFlags::CLOEXEC };
    let (reader, writer) = rustix::pipe::pipe_with(flags).map_err(Error::kernel(what()))?;
    fill(&writer, record).map_err(Error::kernel(format!("fill pipe:[{}]", record.inode)))?;
    let (mut reader, mut writer) = (Some(reader), Some(writer));
    // Each end as often as there are descriptions of it; the first of each is the one that is at hand.
    let extra: Vec<(usize, OwnedFd)> = {
        let mut seen = [false; 2];
        let mut extra = Vec::new();
        for &number in ends {
            let description = &restore.files.descriptions[number];
            let writes = mode(description) != OFlags::RDONLY;
            if std::mem::replace(&mut seen[usize::from(writes)], true) || mode(description) == OFlags::RDWR {
                let from = reader.as_ref().ok_or_else(|| Error::broken("A pipe's end is gone"))?;
                extra.push((number, reopen(restore.own, from, description)?));
            }
        }
        extra
    };
    for &number in ends {
        if extra.iter().any(|(other, _)| *other == number) {
            continue;
        }
        let end = if mode(&restore.files.descriptions[number]) == OFlags::RDONLY {
            &mut reader
        } else {
            &mut writer
        };
        if let Some(end) = end.take() {
            restore.put(number, end);
        }
    }
    for (number, fd) in extra {
        restore.put(number, fd);
    }
    Ok(())
}

fn fifo(restore: &mut Restore<'_>, record: &Pipe, path: &[u8], ends: &[usize]) -> Result<(), Error> {
    let shown = String::from_utf8_lossy(path).into_owned();
    let what = || format!("open the FIFO {shown}");
    // With both ends at hand nobody has to wait for the other side.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let both =
        rustix::fs::open(OsStr::from_bytes(path), flags, Mode::empty()).map_err(Error::kernel(what()))?;
    if !rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&both).map_err(Error::kernel(what()))?.st_mode)
        .is_fifo()
    {
        return Err(Error::broken(format!("{shown} is no FIFO here")));
    }
    let mut made = Vec::new();
    for &number in ends {
        let flags = open_flags(&restore.files.descriptions[number]) | OFlags::NONBLOCK;
        let fd =
            rustix::fs::open(OsStr::from_bytes(path), flags, Mode::empty()).map_err(Error::kernel(what()))?;
        made.push((number, fd));
    }
    fill(&both, record).map_err(Error::kernel(format!("fill the FIFO {shown}")))?;
    for (number, fd) in made {
        restore.put(number, fd);
    }
    Ok(())
}

fn fill(writer: &OwnedFd, record: &Pipe) -> Result<(), rustix::io::Errno> {
    let size = rustix::pipe::fcntl_getpipe_size(writer)?;
    if record.size as usize != size {
        // Above 1 MiB only with CAP_SYS_RESOURCE; then the content must fit at least.
        let done = rustix::pipe::fcntl_setpipe_size(writer, record.size as usize);
        let content: usize = record.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        if let Err(error) = done
            && content > size
        {
            return Err(error);
        }
    }
    let before = rustix::fs::fcntl_getfl(writer)?;
    // A pipe that is too full is an error, not a reason to wait for ever.
    rustix::fs::fcntl_setfl(writer, before | OFlags::NONBLOCK)?;
    for chunk in &record.chunks {
        let mut rest = &chunk.bytes[..];
        while !rest.is_empty() {
            let done = rustix::io::write(writer, rest)?;
            rest = &rest[done..];
        }
    }
    rustix::fs::fcntl_setfl(writer, before)
}
