//! Limits on everything that an image may ask of its reader, each with its reason.
//!
//! A reader meets lengths before it can know whether they are honest. Each is compared with one of these first, so
//! that an image of a few bytes cannot make its reader allocate gigabytes or loop for hours. Raising one is a
//! compatible change; lowering one is not.

/// Version of the format that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The manifest: 48 bytes for each chunk of memory dominate it. 256 MiB are enough for 2.5 TiB of memory.
pub const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// One record file. Records describe kernel objects (a mapping takes about 100 bytes, so two million of them fit);
/// content goes to streams and pages.
pub const RECORD_BYTES_MAX: u64 = 256 << 20;

/// Record files. There is one for each kind of kernel object, and perhaps one for each task.
pub const RECORDS_MAX: usize = 65_536;

/// All records together: they are held in memory at the same time.
pub const RECORDS_BYTES_MAX: u64 = 1 << 30;

/// Streams: one for each file tree and each file carried along.
pub const STREAMS_MAX: usize = 65_536;

/// Address spaces and shared memory objects: one for each process, and as many objects as it may map.
pub const SPACES_MAX: usize = 65_536;

/// Ranges of memory of one space: the kernel allows 65,530 mappings by default and 2^31 at most; touched pages may
/// alternate with untouched ones, so 2^24 covers 128 GiB of the worst pattern.
pub const RANGES_MAX: usize = 1 << 24;

/// Largest chunk: two of them (one for each thread) should fit the caches; more than 4 MiB fits no one's.
pub const CHUNK_BYTES_MAX: u32 = 4 << 20;

/// Smallest chunk: a page. Less would make the table larger than the pages.
pub const CHUNK_BYTES_MIN: u32 = 4096;

/// The chunk that is written: measured best between 256 KiB and 1 MiB here (see `docs/bench.md`); with the kernel's copy
/// of it, it stays within a second-level cache of 1 MiB.
pub const CHUNK_BYTES: u32 = 512 << 10;

/// Files of pages: one for each thread that writes. More threads than this never helped anyone write memory.
pub const PAGES_FILES_MAX: usize = 64;

/// Length of one file of pages or one stream, and of the memory of one space: 2^47 bytes is the largest address space of a process.
pub const CONTENT_BYTES_MAX: u64 = 1 << 47;

/// Length of a record's or a stream's name: that of a file name in Linux.
pub const NAME_BYTES_MAX: usize = 255;

/// Depth of a record's or a stream's name, in components.
pub const NAME_DEPTH_MAX: usize = 4;

/// Length of the name of a workload or of a processor feature.
pub const TEXT_BYTES_MAX: usize = 255;

/// Processor features that an image names: x86 has about 400.
pub const FEATURES_MAX: usize = 4096;

/// A mark (`consumed`): a few lines of text.
pub const MARK_BYTES_MAX: u64 = 4096;

/// The list of trusted keys: 64 digits and a comment for each.
pub const KEYS_BYTES_MAX: u64 = 1 << 20;

/// Multiple of which every range of memory begins and ends, bytes. Fixed by the format, not by the host.
pub const PAGE_BYTES: u64 = 4096;
