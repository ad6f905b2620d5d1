//! Who gives birth to whom, and who begins a session when: a pure function of the tree's relations.
//!
//! A process inherits session and group at its birth. A leader's children that are older than its session must be born before
//! it calls setsid; orphans must be born within their session by somebody who then ends; a session or group whose leader has
//! ended needs a stand-in with the leader's number. Stand-ins are killed when everybody is born and in place.
//!
//! [`plan`] is for a new tree, [`succession`] for one that is to become a later one: the same rules, with some already there.

mod change;
mod planner;
mod play;

pub use change::{Succession, succession};

use crate::records::task::Task;
use planner::Planner;
use std::collections::BTreeMap;

/// The number by which init is named here.
pub const INIT: i32 = 0;

/// One step of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Gives birth to a process of the tree.
    Bear(i32),
    /// Gives birth to a stand-in with this number.
    BearStandIn(i32),
    /// Begins a session.
    BeginSession,
}

/// All births, in an order in which they are possible, and who joins which group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Births {
    /// For each process that does anything: its number ([`INIT`] first) and its acts in order. A process comes after the one
    /// that bears it.
    pub acts: Vec<(i32, Vec<Act>)>,
    /// Processes that begin a group of their own (not leaders of sessions, which have one).
    pub group_leaders: Vec<i32>,
    /// Processes that join a group, after all groups have begun.
    pub joins: Vec<(i32, i32)>,
    /// Stand-ins with who has borne them: to be killed and collected at the end, later ones first.
    pub stand_ins: Vec<(i32, i32)>,
}

/// Why a tree cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// Sessions of a parent and its children do not fit any order of births.
    #[error("Process {pid} is in session {session}, which its parent {parent} never was in")]
    Session {
        /// Process.
        pid: i32,
        /// Its session.
        session: i32,
        /// Its parent.
        parent: i32,
    },
    /// Two processes with one number, or a number that is none.
    #[error("Process {0} appears twice, or its number is none")]
    Number(i32),
    /// No number is left for a stand-in.
    #[error("No process id is left for helpers")]
    Full,
}

/// Largest process id of 64-bit Linux.
const PID_MAX: i32 = 4 << 20;

/// Plans all births of a new tree.
///
/// # Errors
/// [`Impossible`] for relations that no order of births gives.
pub fn plan(tasks: &[Task]) -> Result<Births, Impossible> {
    Planner::new(&BTreeMap::new(), tasks)?.plan(tasks)
}

#[cfg(test)]
mod tests;
