//! Address spaces: mappings, the objects behind shared ones, and the fields that the kernel keeps per space.

use minicbor::{Decode, Encode};

/// One address space.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Space {
    /// Its number (`SpaceId`).
    #[n(0)]
    pub id: u32,
    /// Mappings, ascending.
    #[n(1)]
    pub vmas: Vec<Vma>,
    /// What `PR_SET_MM_MAP` takes: start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_start,
    /// arg_end, env_start, env_end.
    #[n(2)]
    pub layout: [u64; 11],
    /// The auxiliary vector as the kernel keeps it.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    pub auxv: Vec<u8>,
    /// Path of the executable, as seen inside of the capsule.
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    pub exe: Vec<u8>,
    /// BLAKE3 of the vDSO's code, all zero where the space has none.
    #[n(5)]
    #[cbor(with = "minicbor::bytes")]
    pub vdso_hash: [u8; 32],
    /// `PR_GET_DUMPABLE`: 0, 1, or 2.
    #[n(6)]
    pub dumpable: u32,
    /// `PR_GET_THP_DISABLE`.
    #[n(7)]
    pub thp_disabled: bool,
    /// `/proc/PID/coredump_filter`.
    #[n(8)]
    pub coredump_filter: u32,
    /// `PR_GET_MDWE` flags: W^X enforced from here on.
    #[n(9)]
    pub mdwe: u32,
    /// `mlockall(MCL_FUTURE)` flags cannot be read; this is kept for when they can.
    #[n(10)]
    pub lock_future: bool,
    /// `PR_GET_MEMORY_MERGE`.
    #[n(11)]
    pub merge_any: bool,
    /// Guards (MADV_GUARD_INSTALL), each first byte and bytes: no content, and whoever touches them gets SIGSEGV.
    #[cbor(n(12), default)]
    pub guards: Vec<(u64, u64)>,
}

/// What a mapping is a mapping of.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub enum Backing {
    /// Nothing: private anonymous memory.
    #[default]
    #[n(0)]
    Anonymous,
    /// A file with a path.
    #[n(1)]
    File {
        /// The path, as seen inside of the capsule.
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        path: Vec<u8>,
        /// First byte, a multiple of the page size.
        #[n(1)]
        offset: u64,
        /// Inode number at the source, to tell files apart that had the same path.
        #[n(2)]
        inode: u64,
    },
    /// A [`MemoryObject`] of this state.
    #[n(2)]
    Object {
        /// Its number.
        #[n(0)]
        id: u32,
        /// First byte, a multiple of the page size.
        #[n(1)]
        offset: u64,
    },
    /// The kernel's own pages: vvar, vvar_vclock, vdso. Mapped by the kernel at the target; the name tells which.
    #[n(3)]
    Kernel {
        /// `[vvar]`, `[vvar_vclock]`, `[vdso]`.
        #[n(0)]
        name: String,
    },
}

/// One mapping.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Vma {
    /// First byte.
    #[n(0)]
    pub start: u64,
    /// First byte after it.
    #[n(1)]
    pub end: u64,
    /// `PROT_*`.
    #[n(2)]
    pub prot: u32,
    /// `vma::*` flags below.
    #[n(3)]
    pub flags: u32,
    /// What stands behind it.
    #[n(4)]
    pub backing: Backing,
    /// Protection key, 0 for none.
    #[n(5)]
    pub pkey: u32,
}

/// Flags of [`Vma::flags`], from `VmFlags` of `/proc/PID/smaps`.
pub mod vma {
    /// Shared mapping.
    pub const SHARED: u32 = 1;
    /// Grows down.
    pub const GROWSDOWN: u32 = 1 << 1;
    /// Locked in memory.
    pub const LOCKED: u32 = 1 << 2;
    /// MAP_NORESERVE.
    pub const NORESERVE: u32 = 1 << 3;
    /// MADV_HUGEPAGE.
    pub const HUGEPAGE: u32 = 1 << 4;
    /// MADV_NOHUGEPAGE.
    pub const NOHUGEPAGE: u32 = 1 << 5;
    /// MADV_DONTFORK.
    pub const DONTFORK: u32 = 1 << 6;
    /// MADV_WIPEONFORK.
    pub const WIPEONFORK: u32 = 1 << 7;
    /// MADV_DONTDUMP.
    pub const DONTDUMP: u32 = 1 << 8;
    /// MADV_MERGEABLE.
    pub const MERGEABLE: u32 = 1 << 9;
    /// MADV_SEQUENTIAL.
    pub const SEQUENTIAL: u32 = 1 << 10;
    /// MADV_RANDOM.
    pub const RANDOM: u32 = 1 << 11;
    /// MLOCK_ONFAULT (with [`LOCKED`]).
    pub const LOCK_ON_FAULT: u32 = 1 << 12;
    /// A shared mapping whose description was opened for writing (`mw` in VmFlags): may be made writable.
    pub const MAY_WRITE: u32 = 1 << 13;
    /// Counted against the limit of committed memory (`ac`): it was writable once.
    pub const ACCOUNTED: u32 = 1 << 14;
    /// MAP_SYNC or another thing that cannot be kept: named by the inventory.
    pub const UNKNOWN: u32 = 1 << 31;
}

/// Memory that several mappings share or that has no path of its own.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct MemoryObject {
    /// Its number (`SpaceId`).
    #[n(0)]
    pub id: u32,
    /// What it is.
    #[n(1)]
    pub kind: ObjectKind,
    /// Size in bytes. Not always a multiple of the page size.
    #[n(2)]
    pub size: u64,
    /// Device at the source: with `inode`, how descriptors of the same object are recognised.
    #[n(3)]
    pub device: u64,
    /// Inode at the source.
    #[n(4)]
    pub inode: u64,
    /// A memfd's name, a deleted file's last path.
    #[n(5)]
    #[cbor(with = "minicbor::bytes")]
    pub name: Vec<u8>,
    /// `F_GET_SEALS` of a memfd.
    #[n(6)]
    pub seals: u32,
    /// Permission bits.
    #[n(7)]
    pub mode: u32,
    /// Owner.
    #[n(8)]
    pub uid: u32,
    /// Group.
    #[n(9)]
    pub gid: u32,
}

/// What a [`MemoryObject`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum ObjectKind {
    /// `mmap(MAP_SHARED | MAP_ANONYMOUS)`.
    #[default]
    #[n(0)]
    Anonymous,
    /// `memfd_create`.
    #[n(1)]
    Memfd,
    /// A file without a name any more (`/dev/shm` after `shm_unlink`, a deleted file).
    #[n(2)]
    Deleted,
}
