//! Descriptors: received over a socket pair, then put into their places.
//!
//! Everything else is closed, so what is received gets the numbers 0, 1, 2 ..; going from the highest to the lowest, no `dup3`
//! ever hits one that is still needed.

use super::passing;
use super::{Error, grow::Family};
use ferry_sys::remote::{Program, RemoteCall};
use rustix::fd::BorrowedFd;

/// One descriptor of a table: its number, whether it is closed at exec, and what it is a descriptor of.
pub type Place<'a> = (i32, bool, BorrowedFd<'a>);

/// What makes the descriptors of a tree. `pid` is a process, or a thread with a table of its own, as it sees itself.
pub trait FileSource {
    /// The table of a process: number, close-on-exec, description; numbers ascending. Empty if the process shares the table of
    /// one that has been asked for before.
    ///
    /// # Errors
    /// Whatever kept a description from being made.
    fn table(&self, pid: i32) -> Result<Vec<Place<'_>>, Box<dyn std::error::Error + Send + Sync>>;

    /// What only the process itself can do once its descriptors are in place.
    ///
    /// # Errors
    /// Whatever keeps the calls from being made up.
    fn late(&self, pid: i32) -> Result<Vec<RemoteCall>, Box<dyn std::error::Error + Send + Sync>>;
}

/// No descriptors at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFiles;

impl FileSource for NoFiles {
    fn table(&self, _: i32) -> Result<Vec<Place<'_>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Vec::new())
    }

    fn late(&self, _: i32) -> Result<Vec<RemoteCall>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Vec::new())
    }
}

/// Gives one puppet (or a thread of it, by its number) its table. Everything that it has open is closed.
pub(super) fn give(family: &mut Family, pid: i32, files: &dyn FileSource) -> Result<(), Error> {
    let failed = |source| Error::Files { pid, source };
    let table = files.table(pid).map_err(failed)?;
    if table.is_empty() {
        // It shares another's table, but its terminal is its own affair.
        let late = files.late(pid).map_err(failed)?;
        if late.is_empty() {
            return Ok(());
        }
        let mut program = Program::new(family.layout());
        for call in late {
            program.remote(&call);
        }
        family.run(pid, &mut program)?;
        return Ok(program.check(0..program.len())?);
    }
    if table.windows(2).any(|pair| pair[0].0 >= pair[1].0) || table[0].0 < 0 {
        return Err(Error::Damaged(format!("the descriptors of process {pid} are not in order")));
    }
    let mut program = Program::new(family.layout());
    let pair = program.room(8);
    let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u64;
    program.call("make a socket pair", libc::SYS_socketpair, &[libc::AF_UNIX as u64, kind, 0, pair]);
    family.run(pid, &mut program)?;
    program.check(0..program.len())?;
    let numbers = program.word(pair);
    let (theirs, ours) = (numbers as u32 as u64, numbers >> 32);
    let host_pid = family.actor(pid)?.0.tid;
    let socket = passing::take(host_pid, ours as i32)?;

    let count = table.len() as u64;
    // Above what is received, and not one of the wanted: it must stay until all are in place.
    let aside = (count..).find(|number| table.iter().all(|(fd, ..)| *fd as u64 != *number)).unwrap_or(count);
    let mut program = Program::new(family.layout());
    program.call("close a socket", libc::SYS_close, &[ours]);
    if theirs != aside {
        program.call("put the socket aside", libc::SYS_dup3, &[theirs, aside, libc::O_CLOEXEC as u64]);
        program.call("close a socket", libc::SYS_close, &[theirs]);
    }
    let all: Vec<BorrowedFd<'_>> = table.iter().map(|(.., fd)| *fd).collect();
    // One message at a time: a socket's queue may be shorter than the table.
    let mut received = 0;
    for part in all.chunks(passing::PER_MESSAGE) {
        passing::send(&socket, part)?;
        passing::receive(&mut program, aside);
        received += part.len();
        if received < all.len() {
            family.run(pid, &mut program)?;
            program.check(0..program.len())?;
            program = Program::new(family.layout());
        }
    }
    for (index, (fd, close_on_exec, _)) in table.iter().enumerate().rev() {
        let (index, fd) = (index as u64, *fd as u64);
        if index != fd {
            let flags = if *close_on_exec { libc::O_CLOEXEC } else { 0 };
            let what = format!("put descriptor {fd} into its place");
            program.call(what, libc::SYS_dup3, &[index, fd, flags as u64]);
            program.call("close a received descriptor", libc::SYS_close, &[index]);
        } else if *close_on_exec {
            let args = [fd, libc::F_SETFD as u64, libc::FD_CLOEXEC as u64];
            program.call("set close-on-exec", libc::SYS_fcntl, &args);
        }
    }
    program.call("close the socket", libc::SYS_close, &[aside]);
    for call in files.late(pid).map_err(failed)? {
        program.remote(&call);
    }
    family.run(pid, &mut program)?;
    Ok(program.check(0..program.len())?)
}
