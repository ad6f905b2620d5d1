//! Files without a name, made again: memfds, `O_TMPFILE`, and files that were deleted while open.

use super::plain::reopen;
use super::{Error, Restore};
use crate::records::file::{Kind, Nameless, NamelessKind};
use rustix::fd::OwnedFd;
use rustix::fs::{Gid, MemfdFlags, Mode, OFlags, SealFlags, Uid};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Makes every nameless file, fills it, and opens its descriptions.
pub(super) fn create(restore: &mut Restore<'_>) -> Result<(), Error> {
    for record in &restore.files.nameless {
        let file = match restore.ctx.objects.get(&(record.device, record.inode)) {
            Some(object) if record.in_memory => {
                object.try_clone_to_owned().map_err(Error::kernel("take a memory object"))?
            }
            _ if record.in_memory => {
                return Err(Error::broken(format!("The memory object of {} is not here", shown(record))));
            }
            _ => make(record)?,
        };
        restore.nameless.push(file);
    }
    for number in 0..restore.files.descriptions.len() {
        let description = &restore.files.descriptions[number];
        if let Kind::Nameless { nameless } = description.kind {
            let fd = reopen(restore.own, &restore.nameless[nameless as usize], description)?;
            restore.put(number, fd);
        }
    }
    // After the descriptions: a sealed file cannot be opened for writing any more by some kernels' rules.
    for (file, record) in restore.nameless.iter().zip(&restore.files.nameless) {
        if !record.in_memory {
            seal(file, record)?;
        }
    }
    Ok(())
}

fn shown(record: &Nameless) -> String {
    String::from_utf8_lossy(&record.name).into_owned()
}

fn make(record: &Nameless) -> Result<OwnedFd, Error> {
    let what = || format!("make the nameless file {} again", shown(record));
    let file = match record.kind {
        NamelessKind::Memfd => {
            let name =
                std::ffi::CString::new(record.name.clone()).map_err(|_| Error::broken("A bad memfd name"))?;
            // F_SEAL_SEAL is what a memfd has that was made without sealing.
            let mut flags = MemfdFlags::CLOEXEC;
            flags.set(MemfdFlags::ALLOW_SEALING, record.seals != SealFlags::SEAL.bits());
            rustix::fs::memfd_create(&name, flags).map_err(Error::kernel(what()))?
        }
        NamelessKind::Temporary => {
            let directory = Path::new(OsStr::from_bytes(&record.name)).parent().unwrap_or(Path::new("/"));
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600)).map_err(Error::kernel(what()))?
        }
        NamelessKind::Deleted => deleted(record).map_err(Error::kernel(what()))?,
    };
    rustix::fs::ftruncate(&file, record.size).map_err(Error::kernel(what()))?;
    for extent in &record.extents {
        let mut done = 0;
        while done < extent.bytes.len() {
            done += rustix::io::pwrite(&file, &extent.bytes[done..], extent.offset + done as u64)
                .map_err(Error::kernel(what()))?;
        }
    }
    rustix::fs::fchown(&file, Some(Uid::from_raw(record.uid)), Some(Gid::from_raw(record.gid)))
        .map_err(Error::kernel(what()))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(record.mode)).map_err(Error::kernel(what()))?;
    Ok(file)
}

/// Makes a file and deletes it: at its old path if that is free, so that it shows as before.
fn deleted(record: &Nameless) -> rustix::io::Result<OwnedFd> {
    let wanted = PathBuf::from(OsStr::from_bytes(&record.name));
    let directory = wanted.parent().filter(|directory| directory.is_dir()).unwrap_or(Path::new("/tmp"));
    let spare = (0..100).map(|number| {
        directory.join(format!(".{}.{number}", wanted.file_name().unwrap_or_default().to_string_lossy()))
    });
    let mut last = rustix::io::Errno::EXIST;
    for path in
        std::iter::once(directory.join(wanted.file_name().unwrap_or(OsStr::new("deleted")))).chain(spare)
    {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => {
                rustix::fs::unlink(&path)?;
                return Ok(file);
            }
            Err(error) => last = error,
        }
        if last != rustix::io::Errno::EXIST {
            break;
        }
    }
    Err(last)
}

/// Adds the seals that the file had.
pub(super) fn seal(file: &OwnedFd, record: &Nameless) -> Result<(), Error> {
    if record.kind != NamelessKind::Memfd || record.seals == 0 {
        return Ok(());
    }
    let now = rustix::fs::fcntl_get_seals(file).map_or(0, |seals| seals.bits());
    if now == record.seals {
        return Ok(());
    }
    rustix::fs::fcntl_add_seals(file, SealFlags::from_bits_retain(record.seals))
        .map_err(Error::kernel(format!("seal the memfd {}", shown(record))))
}
