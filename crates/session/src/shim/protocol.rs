//! What is said on a shim's socket: one request, one answer, each a CBOR value behind its length (`u32`, little-endian).
//!
//! Fields are numbered by hand, so that a node and a shim of different versions understand each other: a shim outlives the
//! node that started it, and meets the next version of it. After [`Request::Attach`] and [`Request::Exec`] have been
//! answered with [`Answer::Stream`] the connection carries [`crate::shim::stream`] frames.

mod framing;
mod pager;

pub use framing::{decode, length, receive, send, send_with};
pub use pager::{PagerStatus, STREAMS_MAX};

use super::spec::{ExecSpec, Size, Spec, With};
use ferry_model::error::Error;
use ferry_model::plan::Resource;
use ferry_transfer::access::{Missing, SpaceAccess};
use ferry_transfer::space::SpaceId;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// Longest message, bytes: the records of a workload whose sockets and pipes are full. Memory never passes here.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// What is asked of a shim.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Request {
    /// Makes the capsule and starts the program.
    #[n(0)]
    Start {
        /// What.
        #[n(0)]
        spec: Spec,
    },
    /// Makes a workload of a tree that already runs. The program stays where it is; only its cgroup changes.
    #[n(1)]
    Adopt {
        /// Identity and name; the rest is found.
        #[n(0)]
        spec: Spec,
        /// Root of the tree, a pid of this host.
        #[n(1)]
        pid: i32,
    },
    /// What it has: answered by [`Answer::Status`].
    #[n(2)]
    Status,
    /// Answered when the first program has ended.
    #[n(3)]
    Wait,
    /// Sends a signal to the first program; SIGKILL to all.
    #[n(4)]
    Signal {
        /// Number.
        #[n(0)]
        signal: i32,
    },
    /// Starts another program inside; the connection becomes its standard streams.
    #[n(5)]
    Exec {
        /// What.
        #[n(0)]
        spec: ExecSpec,
    },
    /// The connection becomes the workload's terminal, or follows its output.
    #[n(6)]
    Attach {
        /// Size of the terminal that attaches.
        #[n(0)]
        size: Option<Size>,
    },
    /// Reads what the workload holds; stops nothing.
    #[n(7)]
    Inspect {
        /// Paths that count as named beside those that were.
        #[cbor(n(0), default)]
        with: Vec<With>,
    },
    /// Looks at the running tasks for the capture that is to come: at what is dear to read. To be asked directly before
    /// [`Request::Freeze`], which does it itself where it was not asked.
    #[n(30)]
    Look,
    /// Freezes all tasks and locks the network, when connections that the workload has closed have told their peers everything.
    #[n(8)]
    Freeze {
        /// The workload goes on here afterwards, and they have time then.
        #[n(0)]
        stays: Option<bool>,
    },
    /// Captures the execution state of the frozen tasks. They stay frozen, with no tracer attached.
    #[n(9)]
    Capture {
        /// Spaces whose private content is known to whoever asks, who has tracked them: their ranges are not looked for.
        #[n(0)]
        tracked: Option<Vec<SpaceId>>,
        /// Whoever asks sends what is in memory file systems.
        #[n(1)]
        staged: Option<bool>,
        /// Whoever asks knows the guard pages of tracked spaces, too, and writes them into the state.
        #[n(2)]
        guards_known: Option<bool>,
    },
    /// Gives up: network unlocked, tasks run again. Harmless when they do.
    #[n(10)]
    Thaw,
    /// Makes the puppets that will become the workload, with the capsule if [`Request::Ground`] has not made one; nothing of them
    /// can run.
    #[n(11)]
    Prepare {
        /// What the workload was asked to be.
        #[n(0)]
        spec: Spec,
        /// The captured state, as it came from [`Answer::Captured`].
        #[n(1)]
        state: ByteVec,
        /// The workload becomes a remote clone: connections are reset, listeners stay.
        #[n(2)]
        as_clone: bool,
    },
    /// Memory is in: descriptors, threads, registers. Afterwards the workload is whole and frozen, with no tracer.
    #[n(12)]
    Finish {
        /// Pages that are not in: who touches one waits for the pager, which begins with this. None, or empty: all are in.
        #[n(0)]
        missing: Option<Vec<Missing>>,
    },
    /// Network up, thawed, announced. Repeatable.
    #[n(13)]
    Resume,
    /// Kills what there is, removes the capsule, ends the shim. Repeatable.
    #[n(14)]
    Destroy,
    /// Changes the size of the workload's terminal.
    #[n(15)]
    Resize {
        /// The new size.
        #[n(0)]
        size: Size,
    },
    /// Lets go of an adopted tree: it runs on in the cgroups that it came from, and the shim has nothing any more.
    #[n(16)]
    Release,
    /// The next capture leaves out connections whose other end is not the workload's own; once the workload is destroyed here, their
    /// peers get a reset. A thaw takes it back.
    #[n(17)]
    EndConnections,
    /// What was sent to the frozen workload since this was last asked: it is another host's now. Answered by [`Answer::Held`].
    #[n(40)]
    Held,
    /// Frames that another host has kept for this workload, which runs here by now.
    #[n(41)]
    Deliver {
        /// As they were kept.
        #[n(0)]
        frames: Vec<ByteVec>,
    },
    /// Names paths that the workload needs, beside those that were named when it began.
    #[n(50)]
    Declare {
        /// Which; of one that was named before, the binding is this from now on.
        #[n(0)]
        with: Vec<With>,
    },
    /// Makes what a workload that will arrive needs and what is known before it is captured: cgroup, namespaces, clocks, network
    /// device (down). [`Request::Prepare`] of the same workload follows.
    #[n(24)]
    Ground {
        /// What the workload was asked to be.
        #[n(0)]
        spec: Spec,
        /// What its clocks show, and when.
        #[n(1)]
        clocks: Option<ClocksAt>,
    },
    /// Looks at the running workload, for a live move: a draft of its state, and userfaultfds of the processes that are new. Repeatable;
    /// what was handed out is remembered until [`Request::Untrack`], a thaw, or the end of the connection that asked.
    #[n(32)]
    Track,
    /// Forgets the tracking. Harmless when there is none.
    #[n(33)]
    Untrack,
    /// Lets the workload run for this share of the time only, percent; 100 ends it, and so does everything that ends the tracking.
    #[n(34)]
    Throttle {
        /// From 1 to 100.
        #[n(0)]
        share_percent: u32,
    },
    /// Ways to the source of missing pages, instead of those that there were: connections that carry
    /// [`ferry_transfer::wire::demand`], passed with this message (`SCM_RIGHTS`). The first is for what somebody waits for, the others
    /// are for the rest. None: the way is lost, and the pager waits for another.
    #[n(60)]
    Pages {
        /// How many descriptors come along.
        #[n(0)]
        streams: u32,
    },
    /// How far the pager is: answered by [`Answer::Pager`].
    #[n(61)]
    Pager,
    /// Pages of a draft's puppets that were filled, and will be missing: their memory is given back. After a failure nothing is left.
    #[n(63)]
    GiveBack {
        /// Which.
        #[n(0)]
        missing: Vec<Missing>,
    },
    /// The missing pages will never come: the workload is frozen for good, with all that it has.
    #[n(62)]
    Hold,
    /// Makes puppets of a draft of the workload, which still runs at its source, or makes those that are there the puppets of this one:
    /// what stays of their memory is what `ferry_process::layout::kept` says. After [`Request::Ground`], and repeatable until
    /// [`Request::Prepare`]. Answered by [`Answer::Prepared`]; after a failure nothing is left.
    #[n(52)]
    Draft {
        /// What the workload was asked to be.
        #[n(0)]
        spec: Spec,
        /// The draft: an envelope.
        #[n(1)]
        draft: ByteVec,
        /// The workload becomes a remote clone, as in [`Request::Prepare`].
        #[n(2)]
        as_clone: Option<bool>,
        /// Pages may follow after the resume: what that takes is opened early.
        #[n(3)]
        may_follow: Option<bool>,
    },
}

impl Request {
    /// Whether a workload stands still until it is answered or soon afterwards, as a rule, and nothing is begun by it that stays.
    pub(super) fn is_in_pause(&self) -> bool {
        use Request::{Capture, Finish, Freeze, Look, Prepare, Resume};
        match self {
            Look | Freeze { .. } | Capture { .. } | Prepare { .. } | Resume => true,
            // A pager that is begun then would go before others for as long as pages are missing.
            Finish { missing } => missing.as_ref().is_none_or(Vec::is_empty),
            _ => false,
        }
    }
}

/// An address space whose writes can be tracked, in [`Answer::Tracked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TrackedSpace {
    /// Its number, as in the draft and in the state that a capture gives later.
    #[n(0)]
    pub space: SpaceId,
    /// Its process, as this host sees it.
    #[n(1)]
    pub pid: i32,
    /// Its userfaultfd is passed behind the answer.
    #[n(2)]
    pub fresh: bool,
}

/// A process whose writes cannot be tracked, in [`Answer::Tracked`]: its memory goes in the pause.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Untracked {
    /// Its pid as it sees itself.
    #[n(0)]
    pub pid: i32,
    /// Why, in words.
    #[n(1)]
    pub why: String,
}

/// What the clocks of a workload show at a moment of the host that reads this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClocksAt {
    /// CLOCK_MONOTONIC inside, nanoseconds.
    #[n(0)]
    pub monotonic_ns: u64,
    /// CLOCK_BOOTTIME inside, nanoseconds.
    #[n(1)]
    pub boottime_ns: u64,
    /// This host's CLOCK_MONOTONIC at that moment, nanoseconds.
    #[n(2)]
    pub at_ns: u64,
}

/// What a shim answers.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Answer {
    /// Done; nothing to say.
    #[n(0)]
    Done,
    /// It failed, and what there was before is there again.
    #[n(1)]
    Failed {
        /// Why.
        #[n(0)]
        error: Error,
    },
    /// Answer to [`Request::Status`] and [`Request::Start`].
    #[n(2)]
    Status {
        /// What there is.
        #[n(0)]
        status: Status,
    },
    /// Answer to [`Request::Wait`].
    #[n(3)]
    Exited {
        /// How the first program ended.
        #[n(0)]
        exit: Exit,
    },
    /// Answer to [`Request::Inspect`].
    #[n(4)]
    Inventory {
        /// What the workload holds.
        #[n(0)]
        resources: Vec<Resource>,
    },
    /// Answer to [`Request::Capture`].
    #[n(5)]
    Captured {
        /// The state, to be handed to [`Request::Prepare`].
        #[n(0)]
        state: ByteVec,
        /// Where the memory is.
        #[n(1)]
        spaces: Vec<SpaceAccess>,
    },
    /// Answer to [`Request::Draft`] and [`Request::Prepare`].
    #[n(6)]
    Prepared {
        /// Where the memory goes.
        #[n(0)]
        spaces: Vec<SpaceAccess>,
    },
    /// The connection is a stream of [`crate::shim::stream`] frames from here.
    #[n(7)]
    Stream,
    /// Answer to [`Request::Held`].
    #[n(40)]
    Held {
        /// Frames with what the kernel says about each ([`ferry_network::hold`]).
        #[n(0)]
        frames: Vec<ByteVec>,
    },
    /// Answer to [`Request::Pager`].
    #[n(61)]
    Pager {
        /// How far it is.
        #[n(0)]
        status: PagerStatus,
    },
    /// Answer to [`Request::Track`]. The userfaultfds of all spaces that are fresh follow, in their order: messages of one byte with at
    /// most [`ferry_sys::scm::DESCRIPTORS_MAX`] descriptors each.
    #[n(16)]
    Tracked {
        /// The draft: an envelope, of which only the state and the first program are filled in.
        #[n(0)]
        draft: ByteVec,
        /// Address spaces whose writes can be tracked.
        #[n(1)]
        spaces: Vec<TrackedSpace>,
        /// Where the memory objects of the draft are. Their ranges are not filled in.
        #[n(2)]
        objects: Vec<SpaceAccess>,
        /// Processes whose writes cannot be tracked.
        #[n(3)]
        untracked: Vec<Untracked>,
    },
}

/// Where a shim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Phase {
    /// Nothing was asked of it yet.
    #[n(0)]
    Empty,
    /// The workload runs.
    #[n(1)]
    Running,
    /// All its tasks are frozen.
    #[n(2)]
    Frozen,
    /// Puppets are being made and filled.
    #[n(3)]
    Building,
    /// It arrived, is whole and frozen.
    #[n(4)]
    Prepared,
    /// Its first program ended.
    #[n(5)]
    Exited,
    /// What it had is lost: the capsule's init died, or a build was cut short.
    #[n(6)]
    Lost,
    /// Pages that it needs will never come: frozen for good.
    #[n(7)]
    Held,
}

/// What a shim has.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Status {
    /// Where it stands.
    #[n(0)]
    pub phase: Phase,
    /// What it was asked for.
    #[n(1)]
    pub spec: Option<Spec>,
    /// Host pid of the first program, while there is one.
    #[n(2)]
    pub pid: Option<i32>,
    /// How the first program ended.
    #[n(3)]
    pub exit: Option<Exit>,
    /// Whether it was adopted.
    #[n(4)]
    pub adopted: bool,
    /// The shim's own pid.
    #[n(5)]
    pub shim_pid: i32,
    /// Path of the log file.
    #[n(6)]
    pub log: String,
    /// Host pid of the capsule's init, where there is a capsule.
    #[n(7)]
    pub init: Option<i32>,
    /// Prepared: whether every process that is to run is there. None: an older shim, which does not say.
    #[n(8)]
    pub whole: Option<bool>,
}

impl Status {
    /// Whether what was prepared is there, whole, and can be resumed; if not, why.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn can_start(&self) -> Result<(), String> {
        match (self.phase, self.whole) {
            (Phase::Prepared, Some(false)) => {
                Err("A part of the prepared copy was killed while it was frozen".into())
            }
            // An older shim does not say whether it is whole.
            (Phase::Prepared, _) => Ok(()),
            (phase, _) => Err(format!("The prepared copy is {phase:?} and cannot start")),
        }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Exit {
    /// It exited with this code.
    #[n(0)]
    Code(#[n(0)] i32),
    /// This signal ended it.
    #[n(1)]
    Signal(#[n(0)] i32),
}

impl From<Exit> for ferry_model::api::Exit {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self::Code(code),
            Exit::Signal(signal) => Self::Signal(signal),
        }
    }
}

impl Exit {
    /// From what wait(2) reports.
    #[must_use]
    pub fn from_wait(status: i32) -> Self {
        if status & 0x7f == 0 { Self::Code((status >> 8) & 0xff) } else { Self::Signal(status & 0x7f) }
    }
}

#[cfg(test)]
mod tests;
