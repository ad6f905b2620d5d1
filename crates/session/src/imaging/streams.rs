//! Standard streams that lead out of the tree: a terminal, a pipe or a socket whose other end somebody else holds.
//!
//! They are bound by type: a tree that read from a terminal and wrote into a pipe goes on with whatever the command that
//! restores it has for its own standard streams, or with `/dev/null` if that does not wait.

use ferry_model::error::{Error, Kind, Result};
use ferry_process::capture::TaskRef;
use ferry_process::capture::files::{Furniture, FurnitureKind};
use ferry_sys::proc;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};

/// Names of the streams, by descriptor.
const NAMES: [&str; 3] = ["stdin", "stdout", "stderr"];

/// What the first task's standard streams are that the tree shares with others.
#[must_use]
pub fn outside(tasks: &[TaskRef]) -> Vec<Furniture> {
    let Some(root) = tasks.first() else { return Vec::new() };
    let mut found: Vec<Furniture> = Vec::new();
    // Last to first: a terminal that is all three of them goes by the name of the one that is written to.
    for (fd, name) in NAMES.iter().enumerate().rev() {
        let path = format!("/proc/{}/fd/{fd}", root.host_pid);
        let Ok(stat) = rustix::fs::stat(&*path) else { continue };
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Fifo if !both_ends_inside(tasks, stat.st_ino) => FurnitureKind::Pipe(stat.st_ino),
            FileType::Socket => FurnitureKind::Socket(stat.st_ino),
            FileType::CharacterDevice if is_terminal(stat.st_rdev) && !has_master(tasks) => {
                FurnitureKind::File(stat.st_dev, stat.st_ino)
            }
            _ => continue,
        };
        let named_pipe = matches!(what, FurnitureKind::Pipe(_)) && !anonymous(&path);
        let internal = matches!(what, FurnitureKind::Socket(_)) && !is_unix_stream(root.host_pid, fd);
        if !named_pipe && !internal && !found.iter().any(|piece| piece.what == what) {
            found.push(Furniture { name: (*name).to_owned(), what });
        }
    }
    found
}

/// Terminals of all sorts: virtual consoles, serial lines, pseudo-terminals.
fn is_terminal(device: u64) -> bool {
    matches!(rustix::fs::major(device), 4 | 5 | 136..=143)
}

fn anonymous(path: &str) -> bool {
    std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().starts_with("pipe:["))
}

/// A socket on a standard stream is furniture only if it came there as inetd or a supervisor put it: as a Unix socket.
fn is_unix_stream(pid: i32, fd: usize) -> bool {
    let Ok(link) = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")) else { return false };
    let link = link.to_string_lossy().into_owned();
    let inode = link.trim_start_matches("socket:[").trim_end_matches(']');
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    table.lines().any(|line| line.split_whitespace().nth(6) == Some(inode))
}

/// The access modes in which the tree holds the pipe with this inode: it is its own if somebody reads and somebody writes.
fn both_ends_inside(tasks: &[TaskRef], inode: u64) -> bool {
    let link = format!("pipe:[{inode}]");
    let mut modes = BTreeSet::new();
    for_each_descriptor(tasks, |pid, fd, target| {
        if target == link
            && let Ok(text) = proc::read(pid, &format!("fdinfo/{fd}"))
        {
            let text = String::from_utf8_lossy(&text).into_owned();
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
            modes.extend(flags.and_then(|flags| u32::from_str_radix(flags, 8).ok()).map(|flags| flags & 3));
        }
    });
    modes.contains(&2) || (modes.contains(&0) && modes.contains(&1))
}

/// Whether the tree holds a terminal's master: then its terminals are its own.
fn has_master(tasks: &[TaskRef]) -> bool {
    let mut has = false;
    for_each_descriptor(tasks, |_, _, target| has |= target.ends_with("/ptmx"));
    has
}

fn for_each_descriptor(tasks: &[TaskRef], mut look: impl FnMut(i32, i32, &str)) {
    for task in tasks {
        let folder = format!("/proc/{}/fd", task.host_pid);
        for fd in proc::numbers(&folder).unwrap_or_default() {
            if let Ok(target) = std::fs::read_link(format!("{folder}/{fd}")) {
                look(task.host_pid, fd, &target.to_string_lossy());
            }
        }
    }
}

/// What the streams are bound to at a restore.
pub struct Bound {
    null: Option<OwnedFd>,
}

impl Bound {
    /// This process's own streams, or `/dev/null` for a tree that is not waited for.
    pub fn new(detach: bool) -> Result<Self> {
        if !detach {
            return Ok(Self { null: None });
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let null = null.map_err(|e| {
            Error::from_source(Kind::Unable, &std::io::Error::from(e)).context("Cannot open /dev/null")
        })?;
        Ok(Self { null: Some(null) })
    }

    /// By name, as the restore of descriptors wants them.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, BorrowedFd<'_>> {
        let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let fd = |own| self.null.as_ref().map_or(own, |null| null.as_fd());
        NAMES.iter().zip(own).map(|(name, own)| ((*name).to_owned(), fd(own))).collect()
    }
}
