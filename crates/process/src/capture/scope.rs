//! Who belongs to a tree: one look at the processes of a scope, with their threads and children.

use super::Error;
use ferry_sys::proc::{self, stat};
use rustix::process::Pid;
use std::collections::HashSet;
use std::path::PathBuf;

/// Which processes belong to the tree.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Those in this cgroup's directory (not in those beneath it).
    Cgroup(PathBuf),
    /// This process, all its descendants, and orphans that are in a session of one of them.
    Tree(i32),
    /// This process alone.
    Process(i32),
}

/// The processes of the scope as they are now, parents before children where that is known.
pub(crate) fn members(scope: &Scope) -> Result<Vec<i32>, Error> {
    Ok(scan(scope)?.into_iter().map(|member| member.pid).collect())
}

/// A process of the scope with its threads, and its children, whether they belong to the scope or not.
pub(crate) struct Member {
    pub(crate) pid: i32,
    pub(crate) threads: Vec<i32>,
    pub(crate) children: Vec<i32>,
}

impl Member {
    fn look(pid: i32) -> Self {
        let threads = proc::numbers(&format!("/proc/{pid}/task")).unwrap_or_default();
        let children = threads.iter().flat_map(|tid| children(pid, *tid)).collect();
        Self { pid, threads, children }
    }
}

/// The children of one thread.
fn children(pid: i32, tid: i32) -> Vec<i32> {
    let text = proc::read_path(&format!("/proc/{pid}/task/{tid}/children")).unwrap_or_default();
    let words = text.split(u8::is_ascii_whitespace).filter_map(|word| std::str::from_utf8(word).ok());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// One look at the whole scope.
pub(crate) fn scan(scope: &Scope) -> Result<Vec<Member>, Error> {
    match scope {
        Scope::Cgroup(directory) => {
            let text = std::fs::read_to_string(directory.join("cgroup.procs"))
                .map_err(Error::read("cgroup.procs", 0))?;
            let mut pids: Vec<i32> =
                text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
            pids.sort_unstable();
            pids.dedup();
            Ok(pids.into_iter().map(Member::look).collect())
        }
        Scope::Tree(root) => {
            let mut all = vec![Member::look(*root)];
            let mut at = 0;
            descend(&mut all, &mut at);
            all.extend(orphans(*root, &all));
            descend(&mut all, &mut at);
            Ok(all)
        }
        Scope::Process(pid) => Ok(vec![Member::look(*pid)]),
    }
}

fn descend(all: &mut Vec<Member>, at: &mut usize) {
    while *at < all.len() {
        let children: Vec<_> = all[*at].children.iter().map(|pid| Member::look(*pid)).collect();
        all.extend(children);
        *at += 1;
    }
}

/// Processes whose parents have ended: whoever collects orphans is above the root. Of its children those belong to the tree that
/// are in a session that a process of the tree leads.
fn orphans(root: i32, all: &[Member]) -> Vec<Member> {
    let known: HashSet<i32> = all.iter().map(|member| member.pid).collect();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let session = |pid: i32| rustix::process::getsid(Pid::from_raw(pid)).map_or(0, Pid::as_raw_pid);
    let mut found = Vec::new();
    let mut ancestor = parent(root);
    while let Some(above) = ancestor {
        // The kernel gives orphans to the first thread of whoever collects them that is alive.
        let first_ended = is_zombie(above, above);
        let children = if first_ended { Member::look(above).children } else { children(above, above) };
        let children = children.into_iter();
        let belongs = |pid: &i32| *pid != own && !known.contains(pid) && known.contains(&session(*pid));
        found.extend(children.filter(belongs).map(Member::look));
        ancestor = parent(above).filter(|_| above != 1);
    }
    found
}

fn parent(pid: i32) -> Option<i32> {
    stat::read(pid).ok().map(|stat| stat.parent).filter(|parent| *parent > 0)
}

/// A cgroup does not list its zombies; their parents do.
pub(crate) fn with_zombies(found: &[Member]) -> Vec<i32> {
    let mut pids: Vec<i32> = found.iter().map(|member| member.pid).collect();
    for child in found.iter().flat_map(|member| &member.children) {
        if !pids.contains(child) && is_zombie(*child, *child) {
            pids.push(*child);
        }
    }
    pids
}

pub(crate) fn is_zombie(pid: i32, tid: i32) -> bool {
    proc::read_path(&format!("/proc/{pid}/task/{tid}/stat"))
        .ok()
        .and_then(|line| stat::parse(&line).ok())
        .is_none_or(|stat| matches!(stat.state, b'Z' | b'X'))
}
