//! Descriptors: found from outside, each open file description once, with what waits in it.
//!
//! `survey` finds what there is and says what it is (`class`); nothing is changed by it, and the plan's inventory is made from
//! the same survey. Then each description is captured by the file for its kind. Nothing is taken out of a queue that the
//! workload could miss; the one thing that changes is that TCP connections enter repair mode, which [`Held`] takes back.

pub(crate) mod class;
pub mod endpoints;
mod epoll;
pub mod error;
mod event;
mod find;
pub(crate) mod inotify;
mod locks;
mod multicast;
mod nameless;
mod options;
mod owner;
pub(crate) mod pipe;
mod plain;
pub(crate) mod survey;
mod tcp;
pub(crate) mod terminal;
mod udp;
pub(crate) mod unix;

pub use crate::capture::TaskRef;
pub use error::Error;
pub(crate) use tcp::state as tcp_state;
pub use tcp::{Held, end_repair};

use crate::records::Files;
use crate::records::file::{Description, Kind, Table};
use class::Class;
use rustix::fd::OwnedFd;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use survey::Survey;

/// Bytes of queues and nameless files that are carried in the records at most, for one workload.
pub const CARRIED_BYTES_MAX: u64 = 256 << 20;

/// The far end of something that the workload holds and Ferry has in its hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Furniture {
    /// Under this name it is bound again at the target.
    pub name: String,
    /// What the workload's descriptor looks like.
    pub what: FurnitureKind,
}

/// How a workload's descriptor is recognised as furniture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FurnitureKind {
    /// An end of the pipe with this inode (from `fstat` of Ferry's end).
    Pipe(u64),
    /// The slave of the terminal with this number (from `TIOCGPTN` of Ferry's master).
    Terminal(u32),
    /// A socket with this inode.
    Socket(u64),
    /// A character device or file with this device and inode (`st_dev`, `st_ino`).
    File(u64, u64),
}

/// What the capture needs to know from others.
#[derive(Debug, Default)]
pub struct FilesContext<'a> {
    /// What Ferry holds the far end of.
    pub furniture: &'a [Furniture],
    /// Master sides that Ferry holds, by the number of the terminal: with them it is seen what was typed and not read yet.
    pub masters: BTreeMap<u32, &'a OwnedFd>,
    /// Memory objects that are captured with their content elsewhere, by device and inode (`st_dev`, `st_ino`).
    pub objects: BTreeSet<(u64, u64)>,
}

/// What a capture gives.
#[derive(Debug)]
pub struct Captured {
    /// The records.
    pub files: Files,
    /// The connections that are in repair mode now. Dropping it leaves them so.
    pub held: Held,
}

/// Captures the descriptors of `tasks`, which must all be stopped.
///
/// # Errors
/// [`Error::Unsupported`] with everything that cannot be moved; [`Error::Busy`] for what may pass if the workload runs on
/// for a moment. Connections are out of repair mode again then.
pub fn capture(tasks: &[TaskRef], ctx: &FilesContext<'_>) -> Result<Captured, Error> {
    let survey = Survey::make(tasks, ctx)?;
    let blockers = survey.blockers();
    if !blockers.is_empty() {
        return Err(Error::Unsupported(blockers));
    }
    let mut capture = Capture {
        survey: &survey,
        files: Files::default(),
        held: Held::default(),
        carried: 0,
        pipes: HashMap::new(),
        nameless: HashMap::new(),
        terminals: HashMap::new(),
    };
    match capture.run() {
        Ok(()) => Ok(Captured { files: capture.files, held: capture.held }),
        Err(error) => {
            capture.held.resume();
            Err(error)
        }
    }
}

/// A capture under way.
pub(crate) struct Capture<'a> {
    pub(crate) survey: &'a Survey<'a>,
    pub(crate) files: Files,
    pub(crate) held: Held,
    carried: u64,
    /// Pipes by device and inode.
    pub(crate) pipes: HashMap<(u64, u64), u32>,
    /// Nameless files by device and inode.
    pub(crate) nameless: HashMap<(u64, u64), u32>,
    /// Terminals by number.
    pub(crate) terminals: HashMap<u32, u32>,
}

impl Capture<'_> {
    fn run(&mut self) -> Result<(), Error> {
        tcp::hold(self)?;
        for number in 0..self.survey.looks.len() {
            let description = self.describe(number)?;
            self.files.descriptions.push(description);
        }
        for table in &self.survey.tables {
            let locks = locks::of_table(self.survey, table)?;
            self.files.tables.push(Table {
                tasks: table.tasks.iter().map(|task| task.ns_pid).collect(),
                descriptors: table.descriptors.clone(),
                locks,
            });
        }
        Ok(())
    }

    fn describe(&mut self, number: usize) -> Result<Description, Error> {
        let survey = self.survey;
        let look = &survey.looks[number];
        let kind = match &look.class {
            Class::Furniture(name) => Kind::Furniture { name: name.clone() },
            Class::File | Class::Elsewhere(_) | Class::Directory | Class::Device(..) => plain::capture(look)?,
            Class::Nameless(kind) => nameless::capture(self, look, *kind)?,
            Class::Pipe | Class::Fifo => pipe::capture(self, look)?,
            Class::Event | Class::Timer | Class::Signal => event::capture(self, look)?,
            Class::Epoll => epoll::capture(self, number)?,
            Class::Inotify => inotify::capture(self, look)?,
            Class::TerminalMaster(index) => {
                Kind::TerminalMaster { terminal: terminal::capture(self, look, *index)? }
            }
            Class::TerminalSlave(index) => {
                Kind::TerminalSlave { terminal: terminal::capture(self, look, *index)? }
            }
            Class::Unix | Class::Tcp | Class::Udp | Class::Netlink => options::capture(self, look)?,
            Class::Unsupported(blocker) => return Err(Error::Unsupported(vec![blocker.clone()])),
        };
        Ok(Description {
            flags: look.info.flags & !(rustix::fs::OFlags::CLOEXEC.bits()),
            position: look.info.position,
            kind,
            owner: owner::capture(self, look)?,
            locks: locks::of_description(look)?,
            inode: look.stat.st_ino,
        })
    }

    /// Counts bytes that go into the records.
    pub(crate) fn carry(&mut self, look: &survey::Look, bytes: u64) -> Result<(), Error> {
        self.carried += bytes;
        if self.carried > CARRIED_BYTES_MAX {
            let what = format!(
                "{}: queues and deleted files hold more than {} MiB in all",
                look.place(),
                CARRIED_BYTES_MAX >> 20
            );
            return Err(Error::busy(what));
        }
        Ok(())
    }

    /// A copy of the descriptor behind `look`.
    pub(crate) fn take(&self, look: &survey::Look) -> Result<OwnedFd, Error> {
        self.survey.take(look)
    }
}
