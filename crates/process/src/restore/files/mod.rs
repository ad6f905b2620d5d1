//! Descriptors, made again.
//!
//! Every description is opened once, here, by a short-lived thread inside of the workload's mount and network namespace; the
//! tasks then get copies, which they put at their numbers. What only a task itself can do (epoll sets name descriptor numbers,
//! record locks belong to a table, a controlling terminal to a session) is given as remote calls by [`Recreated::late`].
//! Connections stay in repair mode until [`Recreated::release_network`].

pub(in crate::restore) mod early;
mod error;
mod event;
pub mod inject;
mod late;
mod nameless;
pub(crate) mod over;
mod pipe;
mod plain;
mod release;
mod socket;
mod tcp;
mod terminal;
mod udp;
mod unix;

pub use error::Error;
pub use release::release_left;

use super::FileSource;
use crate::records::Files;
use crate::records::file::{Description, Kind, Table};
use ferry_sys::enter::{Place, within};
use ferry_sys::remote::RemoteCall;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::collections::BTreeMap;

/// What the restore needs from others.
#[derive(Debug, Default)]
pub struct RestoreContext<'a> {
    /// A process in the workload's mount, network and time namespaces, as the caller sees it: the capsule's init. `None`: the
    /// caller's own namespaces.
    pub init: Option<i32>,
    /// The workload's end of each piece of furniture, by name. For a terminal: its *master*.
    pub furniture: BTreeMap<String, BorrowedFd<'a>>,
    /// Memory objects by the device and inode that they had at the source, open for reading and writing.
    pub objects: BTreeMap<(u64, u64), BorrowedFd<'a>>,
}

/// All descriptions, open in this process.
#[derive(Debug)]
pub struct Recreated {
    files: Files,
    descriptions: Vec<OwnedFd>,
    nameless: Vec<OwnedFd>,
    connections: Vec<release::Pending>,
    /// The workload's network namespace, where it is not this process's own.
    net: Option<OwnedFd>,
}

/// A restore under way.
pub(crate) struct Restore<'a> {
    pub(crate) files: &'a Files,
    pub(crate) ctx: &'a RestoreContext<'a>,
    /// By index of the description.
    pub(crate) open: Vec<Option<OwnedFd>>,
    pub(crate) nameless: Vec<OwnedFd>,
    pub(crate) connections: Vec<release::Pending>,
    /// This process's own `/proc/self/fd`, opened outside: the workload's /proc does not show it.
    pub(crate) own: &'a OwnedFd,
    ahead: event::Ahead,
}

impl Recreated {
    /// Opens every description of `files` and fills its queues.
    ///
    /// # Errors
    /// [`Error`] with the description that could not be made again; everything opened so far is closed.
    pub fn create(files: &Files, ctx: &RestoreContext<'_>) -> Result<Self, Error> {
        check(files)?;
        let [mount, net] = ["mnt", "net"].map(|kind| other_namespace(ctx.init, kind));
        let (mount, net) = (mount?, net?);
        let place = Place { mount: mount.as_ref().map(AsFd::as_fd), net: net.as_ref().map(AsFd::as_fd) };
        let own = rustix::fs::open("/proc/self/fd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::kernel("open /proc/self/fd"))?;
        let ahead = event::Ahead::of(ctx.init);
        let made = within(place, || {
            let mut restore = Restore {
                files,
                ctx,
                open: files.descriptions.iter().map(|_| None).collect(),
                nameless: Vec::new(),
                connections: Vec::new(),
                own: &own,
                ahead,
            };
            restore.run()?;
            let descriptions: Option<Vec<OwnedFd>> = restore.open.into_iter().collect();
            let descriptions = descriptions.ok_or_else(|| Error::broken("a description was not made"))?;
            Ok(Self {
                files: files.clone(),
                descriptions,
                nameless: restore.nameless,
                connections: restore.connections,
                net: None,
            })
        });
        let made = made.map_err(Error::kernel("enter the workload's namespaces"))??;
        Ok(Self { net, ..made })
    }

    /// The descriptor tables.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        &self.files.tables
    }

    /// The table that `task` (thread id inside of the capsule) uses.
    #[must_use]
    pub fn table_of(&self, task: i32) -> Option<&Table> {
        self.files.tables.iter().find(|table| table.tasks.contains(&task))
    }

    /// An open description, by its index in the records.
    #[must_use]
    pub fn descriptor(&self, description: u32) -> Option<BorrowedFd<'_>> {
        self.descriptions.get(description as usize).map(AsFd::as_fd)
    }

    /// A deleted file or memfd by the device and inode that it had at the source: for mappings of it.
    #[must_use]
    pub fn nameless(&self, device: u64, inode: u64) -> Option<BorrowedFd<'_>> {
        let at = self.files.nameless.iter().position(|one| (one.device, one.inode) == (device, inode))?;
        self.nameless.get(at).map(AsFd::as_fd)
    }

    /// What `task` must do itself once its descriptors are in place. To be run in that very task, in this order. Tasks that
    /// share a table have their shares told apart.
    #[must_use]
    pub fn late(&self, task: i32) -> Vec<RemoteCall> {
        late::calls(self, task)
    }

    /// Seals memfds that are memory objects: when their content is in.
    ///
    /// # Errors
    /// When a seal is refused.
    pub fn seal(&self) -> Result<(), Error> {
        for (file, record) in self.nameless.iter().zip(&self.files.nameless) {
            if record.in_memory {
                nameless::seal(file, record)?;
            }
        }
        Ok(())
    }

    /// What connections are still to be given by [`Self::release_network`], for [`release_left`] to do in its stead. To be written down
    /// before anybody counts on the workload. None: there are no connections.
    ///
    /// # Errors
    /// When a connection cannot be looked at.
    pub fn unreleased(&self) -> Result<Option<Vec<u8>>, Error> {
        release::write_down(&self.connections, &self.descriptions)
    }

    /// Takes the connections out of repair mode: only when the network is right, so that no reset escapes, and before the
    /// tasks run. What was never sent is sent now. May be repeated.
    ///
    /// # Errors
    /// The first connection that refuses; the others are released all the same.
    pub fn release_network(&mut self) -> Result<(), Error> {
        let mut connections = std::mem::take(&mut self.connections);
        let (net, descriptions) = (self.net.as_ref(), &self.descriptions);
        let released = release::release_all(&mut connections, net, |pending| {
            let fd = descriptions.get(pending.number as usize).map(OwnedFd::try_clone);
            fd.transpose().map_err(Error::kernel("copy a connection's descriptor"))
        });
        self.connections = connections;
        released
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl FileSource for Recreated {
    fn table(&self, pid: i32) -> Result<Vec<(i32, bool, BorrowedFd<'_>)>, Failure> {
        let Some(table) = self.files.tables.iter().find(|table| table.tasks.first() == Some(&pid)) else {
            return Ok(Vec::new());
        };
        let place = |own: &crate::records::file::Descriptor| {
            let fd = self.descriptions[own.description as usize].as_fd();
            (own.fd, own.close_on_exec, fd)
        };
        Ok(table.descriptors.iter().map(place).collect())
    }

    fn late(&self, pid: i32) -> Result<Vec<RemoteCall>, Failure> {
        Ok(self.late(pid))
    }
}

impl Restore<'_> {
    fn run(&mut self) -> Result<(), Error> {
        nameless::create(self)?;
        pipe::create(self)?;
        terminal::create(self)?;
        for number in 0..self.files.descriptions.len() {
            let description = &self.files.descriptions[number];
            let made = match &description.kind {
                Kind::File { .. } | Kind::Directory { .. } | Kind::Device { .. } => plain::open(description)?,
                Kind::Event { .. }
                | Kind::Timer(_)
                | Kind::Signal { .. }
                | Kind::Epoll { .. }
                | Kind::Inotify { .. } => event::create(description, self.ahead)?,
                Kind::Furniture { name } => self.furniture(name)?,
                // Made by the calls before and after this loop.
                _ => continue,
            };
            self.open[number] = Some(made);
        }
        socket::create(self)?;
        for number in 0..self.files.descriptions.len() {
            self.settle(number)?;
        }
        Ok(())
    }

    fn furniture(&self, name: &str) -> Result<OwnedFd, Error> {
        let what = || format!("bind {name:?} again");
        let fd = self
            .ctx
            .furniture
            .get(name)
            .ok_or_else(|| Error::broken(format!("Nothing here is named {name:?}")))?;
        fd.try_clone_to_owned().map_err(Error::kernel(what()))
    }

    /// Status flags that `open` could not set, and locks.
    fn settle(&self, number: usize) -> Result<(), Error> {
        let description = &self.files.descriptions[number];
        let Some(fd) = &self.open[number] else { return Ok(()) };
        let what = || format!("set flags of description {number}");
        const SETTABLE: u32 = (libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_NOATIME) as u32;
        let path_only = description.flags & OFlags::PATH.bits() != 0;
        if !path_only && !matches!(description.kind, Kind::Furniture { .. }) {
            let now = rustix::fs::fcntl_getfl(fd).map_err(Error::kernel(what()))?.bits();
            if (now ^ description.flags) & SETTABLE != 0 {
                let wanted = now & !SETTABLE | description.flags & SETTABLE;
                ferry_sys::ioctl::set_status_flags(fd, wanted).map_err(Error::kernel(what()))?;
            }
        }
        for lock in &description.locks {
            let what = || format!("take the lock on description {number} again");
            if lock.whole {
                let how = if lock.exclusive {
                    FlockOperation::NonBlockingLockExclusive
                } else {
                    FlockOperation::NonBlockingLockShared
                };
                rustix::fs::flock(fd, how).map_err(Error::kernel(what()))?;
            } else {
                ferry_sys::ioctl::lock_description(fd, lock.exclusive, lock.start, lock.len)
                    .map_err(Error::kernel(what()))?;
            }
        }
        Ok(())
    }

    /// Puts the descriptor for description `number` in its place.
    pub(crate) fn put(&mut self, number: usize, fd: OwnedFd) {
        self.open[number] = Some(fd);
    }

    /// Descriptions, with their numbers.
    pub(crate) fn descriptions(&self) -> impl Iterator<Item = (usize, &Description)> + use<'_> {
        self.files.descriptions.iter().enumerate()
    }
}

/// A namespace of `init`, unless it is the caller's own.
fn other_namespace(init: Option<i32>, kind: &str) -> Result<Option<OwnedFd>, Error> {
    let Some(init) = init else { return Ok(None) };
    let what = || format!("open the {kind} namespace of pid {init}");
    let open = |path: String| {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::kernel(what()))
    };
    let theirs = open(format!("/proc/{init}/ns/{kind}"))?;
    let ours = open(format!("/proc/self/ns/{kind}"))?;
    let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| stat.st_ino).map_err(Error::kernel(what()));
    Ok(if inode(&theirs)? == inode(&ours)? { None } else { Some(theirs) })
}

/// Every index in the records is within bounds, whoever wrote them.
fn check(files: &Files) -> Result<(), Error> {
    let count = |len: usize| len as u32;
    let descriptions = count(files.descriptions.len());
    let wrong = |what: &str| Err(Error::broken(format!("The records name {what} that they do not have")));
    for own in files.tables.iter().flat_map(|table| &table.descriptors) {
        if own.description >= descriptions || own.fd < 0 {
            return wrong("a description");
        }
    }
    for description in &files.descriptions {
        let good = match &description.kind {
            Kind::None => false,
            Kind::Pipe { pipe } => *pipe < count(files.pipes.len()),
            Kind::Nameless { nameless } => *nameless < count(files.nameless.len()),
            Kind::TerminalMaster { terminal } | Kind::TerminalSlave { terminal } => {
                *terminal < count(files.terminals.len())
            }
            Kind::Epoll { targets } => {
                targets.iter().all(|target| target.description < descriptions && target.fd >= 0)
            }
            _ => true,
        };
        if !good {
            return wrong("an object");
        }
    }
    Ok(())
}
