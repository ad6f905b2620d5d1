//! Open file descriptions, each once, and the descriptor tables that name them.
//!
//! A description is what `open` makes: position, flags, owner. A table is what `fork` copies and `CLONE_FILES` shares.
//! What several descriptions have in common (a pipe, a file without a name, a terminal) is a record of its own.
//! Ids are indices into the vectors of [`Files`]. Paths are as seen from the root of the workload's mount namespace.

use super::socket::Socket;
use minicbor::{Decode, Encode};

/// All descriptions and tables of a tree.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Files {
    /// Descriptor tables.
    #[n(0)]
    pub tables: Vec<Table>,
    /// Open file descriptions.
    #[n(1)]
    pub descriptions: Vec<Description>,
    /// Pipes and FIFOs.
    #[n(2)]
    pub pipes: Vec<Pipe>,
    /// Files without a name: memfds and files that were deleted while open.
    #[n(3)]
    pub nameless: Vec<Nameless>,
    /// Pseudo-terminals of which the workload holds an end.
    #[n(4)]
    pub terminals: Vec<Terminal>,
}

/// A descriptor table and who uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Table {
    /// Tasks (thread ids inside of the capsule) that share it, in the order in which they were given to the capture.
    #[n(0)]
    pub tasks: Vec<i32>,
    /// Its descriptors, ascending.
    #[n(1)]
    pub descriptors: Vec<Descriptor>,
    /// POSIX record locks: they belong to the table and the inode, not to a description.
    #[n(2)]
    pub locks: Vec<RecordLock>,
}

/// One descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Descriptor {
    /// Its number.
    #[n(0)]
    pub fd: i32,
    /// `FD_CLOEXEC`.
    #[n(1)]
    pub close_on_exec: bool,
    /// Index into [`Files::descriptions`].
    #[n(2)]
    pub description: u32,
}

/// One open file description.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Description {
    /// Access mode and status flags (`O_*` as `F_GETFL` gives them, plus `O_PATH`).
    #[n(0)]
    pub flags: u32,
    /// Position, bytes. Directories: the file system's own cookie.
    #[n(1)]
    pub position: u64,
    /// What it is.
    #[n(2)]
    pub kind: Kind,
    /// Who gets SIGIO.
    #[n(3)]
    pub owner: Option<Owner>,
    /// `flock` and open-file-description locks.
    #[n(4)]
    pub locks: Vec<Lock>,
    /// Inode at the source, for diagnostics and for references between records.
    #[n(5)]
    pub inode: u64,
}

/// What a description is a description of.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub enum Kind {
    /// Nothing yet: only while records are made.
    #[default]
    #[n(0)]
    None,
    /// A regular file with a name, or anything opened with `O_PATH`.
    #[n(1)]
    File {
        /// Path.
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        path: Vec<u8>,
        /// Size at the capture, bytes. Not checked where `None` (files of /proc and the like).
        #[n(1)]
        size: Option<u64>,
    },
    /// A directory.
    #[n(2)]
    Directory {
        /// Path.
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        path: Vec<u8>,
    },
    /// A character device that every host has (null, zero, full, random, urandom, kmsg is not one).
    #[n(3)]
    Device {
        /// Path.
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        path: Vec<u8>,
        /// Major number.
        #[n(1)]
        major: u32,
        /// Minor number.
        #[n(2)]
        minor: u32,
    },
    /// An end of a pipe or FIFO.
    #[n(4)]
    Pipe {
        /// Index into [`Files::pipes`].
        #[n(0)]
        pipe: u32,
    },
    /// A memfd or a deleted file.
    #[n(5)]
    Nameless {
        /// Index into [`Files::nameless`].
        #[n(0)]
        nameless: u32,
    },
    /// An eventfd.
    #[n(6)]
    Event {
        /// Its counter.
        #[n(0)]
        count: u64,
        /// `EFD_SEMAPHORE`.
        #[n(1)]
        semaphore: bool,
    },
    /// A timerfd.
    #[n(7)]
    Timer(#[n(0)] Timer),
    /// A signalfd.
    #[n(8)]
    Signal {
        /// Signals that it takes, bit 0 is signal 1.
        #[n(0)]
        mask: u64,
    },
    /// An epoll set.
    #[n(9)]
    Epoll {
        /// What it watches.
        #[n(0)]
        targets: Vec<EpollTarget>,
    },
    /// An inotify instance.
    #[n(10)]
    Inotify {
        /// What it watches.
        #[n(0)]
        watches: Vec<Watch>,
    },
    /// The master side of a pseudo-terminal.
    #[n(11)]
    TerminalMaster {
        /// Index into [`Files::terminals`].
        #[n(0)]
        terminal: u32,
    },
    /// The slave side of a pseudo-terminal (or `/dev/tty`, which leads there).
    #[n(12)]
    TerminalSlave {
        /// Index into [`Files::terminals`].
        #[n(0)]
        terminal: u32,
    },
    /// A socket.
    #[n(13)]
    Socket(#[n(0)] Box<Socket>),
    /// The other end belongs to Ferry (log, attached terminal): bound again at the target by this name.
    #[n(14)]
    Furniture {
        /// The name that the shim gave it.
        #[n(0)]
        name: String,
    },
}

/// A pipe or FIFO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Pipe {
    /// Path of a FIFO.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub path: Option<Vec<u8>>,
    /// Inode at the source.
    #[n(1)]
    pub inode: u64,
    /// `F_GETPIPE_SZ`, bytes.
    #[n(2)]
    pub size: u32,
    /// What is in it and not read: one chunk, or one for each packet in packet mode.
    #[n(3)]
    pub chunks: Vec<Chunk>,
    /// Chunks are packets (`O_DIRECT`).
    #[n(4)]
    pub packets: bool,
}

/// Bytes with nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Chunk {
    /// The bytes.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

/// A file without a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Nameless {
    /// What it is.
    #[n(0)]
    pub kind: NamelessKind,
    /// Device at the source: with `inode`, how a `MemoryObject` of the same file is recognised.
    #[n(1)]
    pub device: u64,
    /// Inode at the source.
    #[n(2)]
    pub inode: u64,
    /// A memfd's name, a deleted file's last path.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub name: Vec<u8>,
    /// Permission bits.
    #[n(4)]
    pub mode: u32,
    /// Owner.
    #[n(5)]
    pub uid: u32,
    /// Group.
    #[n(6)]
    pub gid: u32,
    /// `F_GET_SEALS`.
    #[n(7)]
    pub seals: u32,
    /// Size, bytes.
    #[n(8)]
    pub size: u64,
    /// Content between holes. Empty where `in_memory`.
    #[n(9)]
    pub extents: Vec<Extent>,
    /// It is also mapped: content and file come from the `MemoryObject` with the same device and inode.
    #[n(10)]
    pub in_memory: bool,
}

/// What sort of nameless file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum NamelessKind {
    /// Deleted while open.
    #[default]
    #[n(0)]
    Deleted,
    /// Opened with `O_TMPFILE`: may still get a name by `linkat`.
    #[n(1)]
    Temporary,
    /// `memfd_create`.
    #[n(2)]
    Memfd,
}

/// A run of bytes in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Extent {
    /// Where it begins.
    #[n(0)]
    pub offset: u64,
    /// The bytes.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

/// A timerfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Timer {
    /// Clock id (`CLOCK_*`).
    #[n(0)]
    pub clock: i32,
    /// `TFD_TIMER_*` flags of the last `timerfd_settime`.
    #[n(1)]
    pub settime_flags: u32,
    /// Expirations that were not read.
    #[n(2)]
    pub ticks: u64,
    /// Time left to the next expiration, nanoseconds; 0: disarmed.
    #[n(3)]
    pub left_ns: u64,
    /// Period, nanoseconds; 0: once.
    #[n(4)]
    pub interval_ns: u64,
    /// When it expires next on its clock as the workload reads it, nanoseconds; 0: disarmed.
    #[n(5)]
    pub expires_ns: u64,
}

/// An entry of an epoll set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct EpollTarget {
    /// Descriptor number under which it was added. It may be closed by now, the description being alive elsewhere.
    #[n(0)]
    pub fd: i32,
    /// Index into [`Files::descriptions`].
    #[n(1)]
    pub description: u32,
    /// `EPOLL*` events and modes.
    #[n(2)]
    pub events: u32,
    /// The user's datum.
    #[n(3)]
    pub data: u64,
}

/// An inotify watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Watch {
    /// Its number.
    #[n(0)]
    pub wd: i32,
    /// A path that leads to the watched inode.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// `IN_*` mask.
    #[n(2)]
    pub mask: u32,
}

/// Who gets SIGIO for a description (`F_SETOWN_EX`, `F_SETSIG`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Owner {
    /// `F_OWNER_TID` 0, `F_OWNER_PID` 1, `F_OWNER_PGRP` 2.
    #[n(0)]
    pub sort: i32,
    /// Thread, process or group, inside of the capsule; 0: nobody.
    #[n(1)]
    pub id: i32,
    /// Signal instead of SIGIO; 0: SIGIO.
    #[n(2)]
    pub signal: i32,
}

/// A lock that belongs to a description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Lock {
    /// `flock(2)` (whole file) rather than `F_OFD_SETLK`.
    #[n(0)]
    pub whole: bool,
    /// Exclusive rather than shared.
    #[n(1)]
    pub exclusive: bool,
    /// First byte.
    #[n(2)]
    pub start: u64,
    /// Length in bytes; 0: to the end of the file, wherever that is.
    #[n(3)]
    pub len: u64,
}

/// A POSIX record lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RecordLock {
    /// A descriptor of the table that leads to the locked inode.
    #[n(0)]
    pub fd: i32,
    /// Exclusive rather than shared.
    #[n(1)]
    pub exclusive: bool,
    /// First byte.
    #[n(2)]
    pub start: u64,
    /// Length in bytes; 0: to the end of the file, wherever that is.
    #[n(3)]
    pub len: u64,
}

/// A pseudo-terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Terminal {
    /// Its number: `/dev/pts/N`.
    #[n(0)]
    pub index: u32,
    /// Settings, as `TCGETS2` gives them (44 bytes).
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub settings: Vec<u8>,
    /// Rows, columns, width and height in pixels.
    #[n(2)]
    pub size: [u16; 4],
    /// `TIOCSPTLCK`: the slave cannot be opened yet.
    #[n(3)]
    pub locked: bool,
    /// `TIOCEXCL`.
    #[n(4)]
    pub exclusive: bool,
    /// `TIOCPKT` on the master.
    #[n(5)]
    pub packet_mode: bool,
    /// Session (id inside of the capsule) of which this is the controlling terminal; 0: none.
    #[n(6)]
    pub session: i32,
    /// Foreground process group of that session.
    #[n(7)]
    pub foreground: i32,
    /// Name of the furniture that is its master, where Ferry holds that.
    #[n(8)]
    pub furniture: Option<String>,
    /// Typed and not read by the slave's reader.
    #[n(9)]
    #[cbor(with = "minicbor::bytes")]
    pub input: Vec<u8>,
    /// Written by the slave's writers and not read from the master.
    #[n(10)]
    #[cbor(with = "minicbor::bytes")]
    pub output: Vec<u8>,
    /// Permission bits of the slave's node.
    #[n(11)]
    pub mode: u32,
    /// Owner of the slave's node.
    #[n(12)]
    pub uid: u32,
    /// Group of the slave's node.
    #[n(13)]
    pub gid: u32,
}
