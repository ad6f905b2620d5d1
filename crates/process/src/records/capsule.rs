//! What is captured of a capsule itself: names, clocks, mounts, limits, System V objects.
//!
//! Contents of file systems and segments travel as a stream of their own (`capsule::contents`): they may be large.

use minicbor::{Decode, Encode};

/// A capsule without the contents of its file systems.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Capsule {
    /// Host name in its uts namespace.
    #[n(0)]
    pub hostname: String,
    /// NIS domain name in its uts namespace.
    #[n(1)]
    pub domainname: String,
    /// What its clocks showed when it was captured.
    #[n(2)]
    pub clocks: Clocks,
    /// Whether it has a network namespace of its own.
    #[n(3)]
    pub own_network: bool,
    /// What it may use.
    #[n(4)]
    pub limits: Limits,
    /// Host paths that it was given by `--with`.
    #[n(5)]
    pub with: Vec<With>,
    /// Mounts that the workload made, in the order in which they are made again.
    #[n(6)]
    pub mounts: Vec<Mount>,
    /// Mount points of all tmpfs whose contents travel, those made by Ferry included.
    #[n(7)]
    pub tmpfs: Vec<String>,
    /// System V objects.
    #[n(8)]
    pub ipc: Ipc,
    /// Settings of its namespaces that differ from what a new one has: file beneath /proc/sys, and value.
    #[n(9)]
    pub settings: Vec<Setting>,
}

/// Values of the clocks inside, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Clocks {
    /// CLOCK_MONOTONIC.
    #[n(0)]
    pub monotonic_ns: u64,
    /// CLOCK_BOOTTIME.
    #[n(1)]
    pub boottime_ns: u64,
}

/// What a capsule may use; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Limits {
    /// Memory, bytes.
    #[n(0)]
    pub memory_bytes: Option<u64>,
    /// Processor time, thousandths of one processor.
    #[n(1)]
    pub cpu_millis: Option<u32>,
}

/// A path of the host's that is visible in the capsule.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct With {
    /// Where the capsule sees it.
    #[n(0)]
    pub path: String,
    /// Where the host has it.
    #[n(1)]
    pub host: String,
    /// Binding as the user gave it (`identifier`, `value`, `type`), if any.
    #[n(2)]
    pub binding: Option<String>,
    /// Whether the capsule cannot write to it.
    #[n(3)]
    pub read_only: bool,
}

/// A mount that the workload made.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mount {
    /// Where it stands.
    #[n(0)]
    pub point: String,
    /// Type of file system; `bind` where it is a part of one that is mounted elsewhere in the capsule.
    #[n(1)]
    pub kind: String,
    /// For `bind`: the path that was bound. Else what the file system was given as source.
    #[n(2)]
    pub source: String,
    /// Options of the mount: `ro`, `nosuid` ..
    #[n(3)]
    pub options: String,
    /// Options of the file system.
    #[n(4)]
    pub super_options: String,
}

/// System V objects of an ipc namespace. The contents of segments travel apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Ipc {
    /// Shared memory segments.
    #[n(0)]
    pub segments: Vec<Segment>,
    /// Sets of semaphores.
    #[n(1)]
    pub semaphores: Vec<Semaphores>,
    /// Message queues.
    #[n(2)]
    pub queues: Vec<Queue>,
}

/// Identity and permissions of a System V object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct IpcPermissions {
    /// Identifier.
    #[n(0)]
    pub id: i32,
    /// Key; 0 is private.
    #[n(1)]
    pub key: i32,
    /// Owner.
    #[n(2)]
    pub uid: u32,
    /// Owner's group.
    #[n(3)]
    pub gid: u32,
    /// Permission bits.
    #[n(4)]
    pub mode: u32,
}

/// A System V shared memory segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Segment {
    /// Who may use it.
    #[n(0)]
    pub permissions: IpcPermissions,
    /// Size in bytes.
    #[n(1)]
    pub size: u64,
    /// Removed already, goes when the last task detaches.
    #[n(2)]
    pub removed: bool,
}

/// A System V set of semaphores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Semaphores {
    /// Who may use it.
    #[n(0)]
    pub permissions: IpcPermissions,
    /// Value of each.
    #[n(1)]
    pub values: Vec<u16>,
}

/// A System V message queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Queue {
    /// Who may use it.
    #[n(0)]
    pub permissions: IpcPermissions,
    /// Most bytes that it may hold.
    #[n(1)]
    pub bytes_max: u64,
    /// Waiting messages, oldest first.
    #[n(2)]
    pub messages: Vec<Message>,
}

/// A message in a System V queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Message {
    /// Its type, as the sender gave it.
    #[n(0)]
    pub kind: i64,
    /// Content.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

/// A setting of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Setting {
    /// File beneath /proc/sys.
    #[n(0)]
    pub file: String,
    /// Content, without the line end.
    #[n(1)]
    pub value: String,
}
