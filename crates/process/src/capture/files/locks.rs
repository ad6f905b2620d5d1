//! File locks: `flock` and open-file-description locks belong to a description, POSIX record locks to a table.

use super::Error;
use super::survey::{Look, Survey, TableLook};
use crate::records::file::{Lock, RecordLock};
use ferry_sys::fdinfo::{self, LockLine};
use rustix::fs::OFlags;
use std::collections::HashSet;

fn len(line: &LockLine) -> u64 {
    line.end.map_or(0, |end| end.saturating_sub(line.start) + 1)
}

/// Locks that belong to the description behind `look`.
pub(super) fn of_description(look: &Look) -> Result<Vec<Lock>, Error> {
    let own = |line: &&LockLine| matches!(&*line.sort, "FLOCK" | "OFDLCK");
    Ok(look
        .info
        .locks
        .iter()
        .filter(own)
        .map(|line| Lock {
            whole: line.sort == "FLOCK",
            exclusive: line.exclusive,
            start: line.start,
            len: len(line),
        })
        .collect())
}

/// POSIX locks of a table, each once: the kernel lists them under every descriptor that leads to the inode.
pub(super) fn of_table(survey: &Survey<'_>, table: &TableLook) -> Result<Vec<RecordLock>, Error> {
    let mut seen = HashSet::new();
    let mut locks = Vec::new();
    for own in &table.descriptors {
        let look = &survey.looks[own.description as usize];
        let first = look.task == table.tasks[0] && look.fd == own.fd;
        // Another table's locks are listed only under its own descriptors.
        let lines = if first {
            look.info.locks.clone()
        } else {
            let regular = rustix::fs::FileType::from_raw_mode(look.stat.st_mode).is_file();
            if !regular {
                continue;
            }
            let path = format!("/proc/{}/fdinfo/{}", table.tasks[0].host_pid, own.fd);
            let text = std::fs::read_to_string(&path).map_err(Error::kernel(format!("read {path}")))?;
            fdinfo::parse(&text).locks
        };
        let mode = look.info.flags & OFlags::RWMODE.bits();
        for line in lines.iter().filter(|line| line.sort == "POSIX") {
            // A write lock needs a descriptor for writing, a read lock one for reading.
            let unfit = if line.exclusive { OFlags::RDONLY.bits() } else { OFlags::WRONLY.bits() };
            if mode != unfit && seen.insert((look.key(), line.start, line.end, line.exclusive)) {
                locks.push(RecordLock {
                    fd: own.fd,
                    exclusive: line.exclusive,
                    start: line.start,
                    len: len(line),
                });
            }
        }
    }
    Ok(locks)
}
