//! How processes are related, from what `/proc` shows of each: used by a capture, whose tasks stand still, and by a draft, whose tasks run.

use super::seize::TaskRef;
use crate::records::task::{Life, Task};
use ferry_sys::kcmp::{self, What};
use ferry_sys::proc::{
    self,
    stat::Stat,
    status::{self, Status},
};
use std::cmp::Ordering;
use std::collections::HashMap;

/// One process, as far as its relations go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kin<'a> {
    /// Its ids.
    pub(crate) ids: TaskRef,
    /// `/proc/PID/stat`.
    pub(crate) stat: &'a Stat,
    /// `/proc/PID/status` of the leader.
    pub(crate) status: &'a Status,
    /// Not a zombie.
    pub(crate) alive: bool,
    /// The signal of the group stop that it is in.
    pub(crate) stopped: Option<i32>,
}

/// Indices of the processes, parents before their children.
pub(crate) fn parents_first(all: &[Kin<'_>]) -> Vec<usize> {
    let by_pid: HashMap<i32, usize> =
        all.iter().enumerate().map(|(at, kin)| (kin.ids.host_pid, at)).collect();
    let depth = |mut at: usize| {
        let mut depth = 0;
        while let Some(parent) = by_pid.get(&all[at].stat.parent).filter(|_| depth < all.len()) {
            at = *parent;
            depth += 1;
        }
        depth
    };
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|at| (depth(*at), all[*at].ids.ns_pid));
    order
}

/// Who a process is among the others, and what `/proc` alone tells of it.
pub(crate) fn task(all: &[Kin<'_>], at: usize) -> Task {
    let own = &all[at];
    let parent = all.iter().find(|kin| kin.ids.host_pid == own.stat.parent);
    let innermost = |ids: &[i32]| ids.last().copied().unwrap_or(0);
    let pid = own.ids.host_pid;
    Task {
        pid: own.ids.ns_pid,
        parent: parent.map_or(0, |parent| parent.ids.ns_pid),
        group: leader(all, own.stat.group, innermost(&own.status.ns_group)),
        session: leader(all, own.stat.session, innermost(&own.status.ns_session)),
        life: match own.stopped {
            _ if !own.alive => Life::Zombie { status: own.stat.exit_code },
            Some(signal) => Life::Stopped { signal, uncollected: own.stat.exit_code != 0 },
            None => Life::Running,
        },
        exit_signal: own.stat.exit_signal,
        limits: proc::read(pid, "limits")
            .ok()
            .and_then(|text| status::parse_limits(&text).ok())
            .unwrap_or_default(),
        umask: own.status.umask,
        cwd: proc::link(pid, "cwd").unwrap_or_default(),
        root: proc::link(pid, "root").unwrap_or_default(),
        oom_score_adj: number(pid, "oom_score_adj"),
        comm: own.stat.comm.clone(),
        shares_files_with: parent
            .filter(|parent| share(own, parent, What::Files))
            .map(|parent| parent.ids.ns_pid),
        ..Task::default()
    }
}

/// A group's or session's number: 0 when its leader lives outside of the tree. A dead leader's number stays.
fn leader(all: &[Kin<'_>], host_pid: i32, ns_pid: i32) -> i32 {
    let inside = all.iter().any(|kin| kin.ids.host_pid == host_pid);
    let outside = host_pid <= 0 || std::fs::exists(format!("/proc/{host_pid}")).unwrap_or(false);
    if !inside && outside { 0 } else { ns_pid }
}

/// Whether two processes share a kernel object.
pub(crate) fn share(one: &Kin<'_>, other: &Kin<'_>, what: What) -> bool {
    let alive = one.alive && other.alive;
    alive && kcmp::compare(one.ids.host_pid, other.ids.host_pid, what).is_ok_and(Ordering::is_eq)
}

fn number(pid: i32, name: &str) -> i32 {
    let text = proc::read(pid, name).unwrap_or_default();
    proc::text::signed(&text).map_or(0, |value| value as i32)
}
