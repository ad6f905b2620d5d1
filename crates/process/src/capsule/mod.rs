//! The capsule: what a workload runs in, so that all of it can be found, stopped and moved.
//!
//! Own pid, mount, ipc, uts, time and cgroup namespace, on request a network namespace; a root of its own; a cgroup
//! that can be frozen. Process 1 is Ferry's own (`init`). A [`Capsule`] value is a handle: dropping it ends nothing, so
//! that a workload outlives a shim that is replaced; [`Capsule::open`] finds it again by what was written to disk.
//! [`Capsule::destroy`] and [`sweep`] leave nothing behind.

pub mod contents;
mod create;
pub mod error;
mod furnish;
pub(crate) mod group;
mod init;
mod ipc;
mod keep;
mod line;
mod mapped;
mod mounts;
pub mod namespace;
pub(crate) mod note;
mod root;
mod run;
pub mod spec;
pub mod tree;
mod within;

pub use contents::{pack_upper, unpack_upper};
pub use error::{Error, Result};
pub use ferry_sys::cgroup::Cgroup;
pub use mapped::mapped;
pub use note::{Leftover, sweep};
pub(crate) use run::inner_pid;
pub use run::{Ended, Started};
pub use spec::{Clocks, Command, Limits, Spec, User, With};

use crate::records;
use error::Doing;
use ferry_sys::timens;
use group::Groups;
use note::Note;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the kernel may take to end a killed workload.
pub(crate) const END_MAX: Duration = Duration::from_secs(20);

/// A handle on a capsule that exists.
#[derive(Debug)]
pub struct Capsule {
    directory: PathBuf,
    note: Note,
    init: OwnedFd,
    groups: Groups,
    root: OwnedFd,
    line: OwnedFd,
    ended: VecDeque<Ended>,
}

/// Removes what a capsule named `name` has left whose maker was killed before it was made: its cgroups and all that is in them. Does
/// nothing where there is nothing. A capsule that was made is ended by [`Capsule::destroy`].
pub fn remove_unfinished(name: &str) -> Result<()> {
    group::remove_unfinished(name).doing(|| format!("remove what is left of the capsule {name}"))
}

impl Capsule {
    /// Makes a capsule with nothing in it but its init. To be called by a process with one thread.
    ///
    /// # Errors
    /// What this host lacks, by name; then nothing is left of the attempt.
    pub fn create(spec: &Spec) -> Result<Self> {
        create::create(spec)
    }

    /// Finds the capsule again that was made in `directory`, after the process that made it has gone.
    ///
    /// # Errors
    /// [`Error::Gone`] when it does not exist any more; then [`sweep`] cleans up.
    pub fn open(directory: &Path) -> Result<Self> {
        let note = Note::read(directory)?;
        let init = note.living_init().ok_or_else(|| Error::Gone(directory.display().to_string()))?;
        Self::from_parts(directory, note, init)
    }

    fn from_parts(directory: &Path, note: Note, init: OwnedFd) -> Result<Self> {
        let groups = Groups::open(Path::new(&note.cgroup))?;
        // Without an inside init's root is the host's, which nobody shall take for the capsule's.
        let root = match note.own_mounts.is_empty() {
            true => directory.join("root"),
            false => PathBuf::from(format!("/proc/{}/root", note.init)),
        };
        let root =
            rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .doing(|| "open the capsule's root".into())?;
        let line = line::connected(directory)?;
        Ok(Self { directory: directory.to_owned(), note, init, groups, root, line, ended: VecDeque::new() })
    }

    /// Process id of its init, in this process' pid namespace.
    #[must_use]
    pub fn init_pid(&self) -> i32 {
        self.note.init
    }

    /// A pidfd of its init: readable when the capsule has ended; also what `setns` takes.
    #[must_use]
    pub fn init_pidfd(&self) -> BorrowedFd<'_> {
        self.init.as_fd()
    }

    /// The cgroup of the workload: what is frozen, and what restored tasks are put into.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.groups.work
    }

    /// Its root directory, for openat2 with RESOLVE_IN_ROOT or RESOLVE_BENEATH.
    #[must_use]
    pub fn root_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The workload's directory on this host.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory that holds what the workload wrote to its root.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    /// Whether it has a network namespace of its own.
    #[must_use]
    pub fn own_network(&self) -> bool {
        self.note.own_network
    }

    /// What it may use, as it was made.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.note.limits
    }

    /// Opens one of its namespaces: `net`, `mnt`, `pid`, `ipc`, `uts`, `time`, `cgroup`.
    ///
    /// # Errors
    /// When the capsule is gone.
    pub fn namespace(&self, kind: &str) -> Result<OwnedFd> {
        let path = format!("/proc/{}/ns/{kind}", self.note.init);
        rustix::fs::openat(CWD, &*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open the capsule's {kind} namespace"))
    }

    /// Describes it, without the contents of its file systems and segments. To be called while it is frozen, by a
    /// process with one thread. Refused by name: mounts, queues and objects that could not be made again.
    ///
    /// # Errors
    /// [`Error::Refused`] with the first thing that stands in the way; [`Self::inspect`] lists all.
    pub fn capture(&self) -> Result<records::capsule::Capsule> {
        let found = self.compare_mounts()?;
        if let Some(blocker) = found.blockers.into_iter().chain(self.inspect_queues()).next() {
            return Err(blocker);
        }
        let proc = PathBuf::from(format!("/proc/{}", self.note.init));
        let clocks = timens::Clocks::now_in(&proc).doing(|| "read the capsule's clocks".into())?;
        let not_negative = |nanos: i128| u64::try_from(nanos).unwrap_or_default();
        let (hostname, domainname, ipc, settings) = namespace::read(self)?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Ok(records::capsule::Capsule {
            hostname,
            domainname,
            clocks: Clocks {
                monotonic_ns: not_negative(clocks.monotonic_ns),
                boottime_ns: not_negative(clocks.boottime_ns),
            },
            own_network: self.note.own_network,
            limits: self.note.limits,
            with: self.note.with.clone(),
            mounts: found.mounts,
            tmpfs: found.tmpfs.into_iter().map(text).collect(),
            ipc,
            settings,
        })
    }

    /// Everything that stands in the way of a capture of the capsule itself.
    ///
    /// # Errors
    /// When the capsule is gone.
    pub fn inspect(&self) -> Result<Vec<Error>> {
        let mut blockers = self.compare_mounts()?.blockers;
        blockers.extend(self.inspect_queues());
        Ok(blockers)
    }

    /// POSIX message queues, which stand in the way.
    pub(crate) fn inspect_queues(&self) -> Vec<Error> {
        let refuse = |queue: String| Error::Refused {
            what: format!("The workload has a POSIX message queue, /{queue}"),
            lifted_by: format!("let it unlink /{queue}"),
        };
        mounts::message_queues(self.root.as_fd()).into_iter().map(refuse).collect()
    }

    /// Mounts that the workload has made, all memory file systems, and what cannot be made again.
    pub(crate) fn mount_table(&self) -> Result<(Vec<records::capsule::Mount>, Vec<PathBuf>, Vec<Error>)> {
        let found = self.compare_mounts()?;
        Ok((found.mounts, found.tmpfs, found.blockers))
    }

    /// Bytes in use in the file system at `point`, inside.
    pub(crate) fn file_system_bytes(&self, point: &Path) -> std::io::Result<u64> {
        let opened = within::open(self.root.as_fd(), point, OFlags::PATH | OFlags::DIRECTORY)?;
        let state = rustix::fs::fstatvfs(&opened)?;
        Ok(state.f_blocks.saturating_sub(state.f_bfree) * state.f_frsize)
    }

    /// Its System V objects.
    pub(crate) fn system_v(&self) -> Result<records::capsule::Ipc> {
        ipc::capture(self)
    }

    /// Host paths that it was given.
    #[must_use]
    pub fn with(&self) -> &[With] {
        &self.note.with
    }

    fn compare_mounts(&self) -> Result<mounts::Found> {
        let table = ferry_sys::mountinfo::read(Path::new(&format!("/proc/{}", self.note.init)))
            .doing(|| "read the capsule's mount table".into())?;
        Ok(mounts::compare(&table, &self.note.own_mounts.iter().map(PathBuf::from).collect()))
    }

    /// Ends everything in it and removes it with all that the workload wrote. Nothing is left.
    ///
    /// # Errors
    /// When a task does not end or something cannot be removed; it can be called again through [`sweep`].
    pub fn destroy(self) -> Result<()> {
        let Self { directory, note, .. } = self;
        note::remove(&directory, &note, true).map(drop)
    }
}
