//! Address spaces: mappings with their flags, the objects behind shared ones, and which pages hold content.

use super::Error;
use super::advice::{self, Advice};
use super::numbers::Numbers;
use crate::records::memory::{Backing, MemoryObject, ObjectKind, Space, Vma, vma};
use ferry_sys::pagemap::{self, Pagemap, Region};
use ferry_sys::proc;
use ferry_sys::proc::maps::{self, Mapping};
use ferry_sys::proc::smaps::{self, Flags};
use ferry_transfer::access::{SpaceAccess, Via};
use ferry_transfer::linux::guards;
use ferry_transfer::space::{Range, SpaceId};
use rustix::fs::SeekFrom;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::thread::JoinHandle;

/// Spaces with fewer mappings and less memory than this are asked for their flags while they stand still: it costs little.
const MAPPINGS_ASKED_LATE_MAX: usize = 200;
const RESIDENT_ASKED_LATE_MAX: u64 = 32 << 20;

/// Reads the flags of all mappings of a running process.
pub(crate) fn observe(pid: i32) -> Option<Advice> {
    let text = proc::read(pid, "smaps").ok()?;
    let entries = smaps::parse(&text).ok()?;
    Some(entries.into_iter().map(|entry| ((entry.start, entry.end), (entry.flags, entry.key))).collect())
}

/// The flags of processes that stand still, as far as that costs little: read beside the rest of the capture. It starts and joins
/// within it, so that whoever forks afterwards has one thread.
#[derive(Debug)]
pub(super) struct LateAdvice(JoinHandle<HashMap<i32, Advice>>);

impl LateAdvice {
    /// Begins to read those of `pids` that are small, by what was seen of them while they ran.
    pub(super) fn begin(pids: &[i32], early: &HashMap<i32, Advice>) -> std::io::Result<Self> {
        let few = |pid: &i32| early.get(pid).is_none_or(|advice| advice.len() < MAPPINGS_ASKED_LATE_MAX);
        let pids: Vec<i32> = pids.iter().copied().filter(few).collect();
        let read = move || {
            let small = pids.into_iter().filter(|pid| resident(*pid) < RESIDENT_ASKED_LATE_MAX);
            small.filter_map(|pid| Some((pid, observe(pid)?))).collect()
        };
        std::thread::Builder::new().name("flags".into()).spawn(read).map(Self)
    }

    /// Waits for them.
    pub(super) fn end(self) -> HashMap<i32, Advice> {
        self.0.join().unwrap_or_default()
    }
}

/// Resident memory of a process, bytes.
fn resident(pid: i32) -> u64 {
    let text = proc::read(pid, "statm").unwrap_or_default();
    let pages =
        text.split(|byte| *byte == b' ').nth(1).and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    pages.map_or(0, |pages: u64| pages.saturating_mul(4096))
}

/// A place of `len` bytes that is free in all of `spaces`.
#[must_use]
pub fn hole(spaces: &[&[Mapping]], len: u64) -> Option<u64> {
    const FIRST: u64 = 0x100_0000_0000;
    const STEP: u64 = 0x100_0000;
    const LAST: u64 = 0x7000_0000_0000;
    let mut at = FIRST;
    'next: while at < LAST {
        for space in spaces {
            // A gap on both sides keeps stacks and neighbours away.
            let first = space.partition_point(|mapping| mapping.end + (1 << 20) <= at);
            if let Some(mapping) = space.get(first).filter(|mapping| mapping.start < at + len + (1 << 20)) {
                at = (mapping.end + (2 << 20)).next_multiple_of(STEP);
                continue 'next;
            }
        }
        return Some(at);
    }
    None
}

/// Reads the mappings of a process.
pub(crate) fn mappings(pid: i32) -> Result<Vec<Mapping>, Error> {
    let text = proc::read(pid, "maps").map_err(Error::read("the mappings", pid))?;
    let mut all = maps::parse(&text).map_err(|bad| Error::read("the mappings", pid)(bad.into()))?;
    all.retain(|mapping| mapping.name != b"[vsyscall]");
    Ok(all)
}

/// All objects found so far.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) numbers: Numbers,
    pub(crate) found: Vec<MemoryObject>,
    pub(crate) access: Vec<SpaceAccess>,
    with_content: bool,
}

impl Objects {
    /// None yet. `with_content`: their content is looked for, else `access` has no ranges.
    pub(crate) fn new(numbers: Numbers, with_content: bool) -> Self {
        Self { numbers, found: Vec::new(), access: Vec::new(), with_content }
    }

    fn of(&mut self, pid: i32, ns_pid: i32, mapping: &Mapping, kind: ObjectKind) -> Result<u32, Error> {
        let id = self.numbers.object((mapping.device, mapping.inode));
        if self.found.iter().any(|object| object.id == id) {
            return Ok(id);
        }
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
        let what = || format!("the object mapped at {:#x}", mapping.start);
        let file = File::open(&path).map_err(Error::read(what(), pid))?;
        let metadata = file.metadata().map_err(Error::read(what(), pid))?;
        if !metadata.is_file() {
            let name = String::from_utf8_lossy(&mapping.name).into_owned();
            return Err(Error::unsupported(ns_pid, format!("a mapping of {name}")));
        }
        let seals = if kind == ObjectKind::Memfd {
            rustix::fs::fcntl_get_seals(&file).map_or(0, |seals| seals.bits())
        } else {
            0
        };
        let name = mapping.name.strip_suffix(b" (deleted)").unwrap_or(&mapping.name);
        self.found.push(MemoryObject {
            id,
            kind,
            size: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            name: name.strip_prefix(b"/memfd:").unwrap_or(name).to_vec(),
            seals,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        });
        let ranges = match self.with_content {
            true => file_content(&file, metadata.len()).map_err(Error::read(what(), pid))?,
            false => Vec::new(),
        };
        self.access.push(SpaceAccess { space: SpaceId(id), via: Via::File { path }, ranges });
        Ok(id)
    }
}

/// Where a file has data. The last range ends with its last page.
fn file_content(file: &File, size: u64) -> std::io::Result<Vec<Range>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start & !(pagemap::PAGE - 1),
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.next_multiple_of(pagemap::PAGE);
        ranges.push(Range { start, len: end - start });
        at = end;
    }
    Ok(ranges)
}

/// Turns the mappings of process `pid` (as this host sees it, and as it sees itself) into a record.
pub(crate) fn describe(
    (pid, ns_pid): (i32, i32),
    maps: &[Mapping],
    observed: Option<&Advice>,
    objects: &mut Objects,
) -> Result<Space, Error> {
    let known = observed.and_then(|advice| advice::of(advice, maps));
    let asked;
    let advice = match &known {
        Some(advice) => advice,
        None => {
            asked = observe(pid).ok_or_else(|| {
                Error::read("the flags of the mappings", pid)(std::io::Error::other("smaps is not readable"))
            })?;
            &asked
        }
    };
    let mut space = Space { id: objects.numbers.space(pid), ..Space::default() };
    let watched = objects.numbers.watches(pid);
    for mapping in maps {
        let (flags, key) = advice.get(&(mapping.start, mapping.end)).copied().unwrap_or_default();
        let backing = backing(pid, ns_pid, mapping, flags, objects)?;
        if key != 0 {
            return Err(Error::unsupported(
                ns_pid,
                format!("memory with a protection key at {:#x}", mapping.start),
            ));
        }
        // The kernel may seal its own ([vdso], [vvar]).
        if let Some(what) = obstacle(flags, watched).filter(|_| !mapping.name.starts_with(b"[v")) {
            let place =
                format!("{what} at {:#x} ({})", mapping.start, String::from_utf8_lossy(&mapping.name));
            return Err(Error::unsupported(ns_pid, place));
        }
        space.vmas.push(Vma {
            start: mapping.start,
            end: mapping.end,
            prot: mapping.prot,
            flags: flag_bits(mapping, flags),
            backing,
            pkey: key,
        });
    }
    Ok(space)
}

/// What whoever asks for a capture knows of a space by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    /// Which private pages hold content.
    Content,
    /// That, and which pages are guards.
    All,
}

/// Finds the private pages of a process that hold content, and notes its guard pages, as far as they are not `known` elsewhere.
pub(super) fn content(space: &mut Space, pid: i32, known: Known) -> Result<SpaceAccess, Error> {
    let failed = || Error::read("which pages hold content", pid);
    let private = space
        .vmas
        .iter()
        .filter(|vma| vma.flags & vma::SHARED == 0 && !matches!(vma.backing, Backing::Kernel { .. }));
    let maps: Vec<(u64, u64, bool)> =
        private.map(|vma| (vma.start, vma.end, matches!(vma.backing, Backing::Anonymous))).collect();
    let private: Vec<(u64, u64)> = maps.iter().map(|(start, end, _)| (*start, *end)).collect();
    let (regions, guards) = match known {
        Known::All => (Vec::new(), Vec::new()),
        Known::Content => {
            let mapped = space.vmas.iter().map(|vma| Range { start: vma.start, len: vma.end - vma.start });
            let found = Pagemap::open(pid).and_then(|pagemap| guards(&pagemap, &mapped.collect()));
            let found = found.map_err(failed())?;
            let region = |range: &Range| Region { start: range.start, end: range.end(), categories: 0 };
            (Vec::new(), found.ranges().iter().map(region).collect())
        }
        Known::Nothing => pagemap::private_content(pid, &maps).map_err(failed())?,
    };
    let ranges = intersect(&regions, &private);
    let mapped: Vec<(u64, u64)> = space.vmas.iter().map(|vma| (vma.start, vma.end)).collect();
    space.guards = intersect(&guards, &mapped).iter().map(|range| (range.start, range.len)).collect();
    Ok(SpaceAccess { space: SpaceId(space.id), via: Via::Task { pid }, ranges })
}

/// The parts of `regions` that are in one of `within`; both ascend.
fn intersect(regions: &[pagemap::Region], within: &[(u64, u64)]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::with_capacity(regions.len());
    let mut next = 0;
    for region in regions {
        while next < within.len() && within[next].1 <= region.start {
            next += 1;
        }
        for &(start, end) in within[next..].iter().take_while(|(start, _)| *start < region.end) {
            let (start, end) = (start.max(region.start), end.min(region.end));
            match ranges.last_mut() {
                Some(last) if last.end() == start => last.len += end - start,
                _ => ranges.push(Range { start, len: end - start }),
            }
        }
    }
    ranges
}

fn backing(
    pid: i32,
    ns_pid: i32,
    mapping: &Mapping,
    flags: Flags,
    objects: &mut Objects,
) -> Result<Backing, Error> {
    let name = mapping.name.as_slice();
    if name == b"[vdso]" || name.starts_with(b"[vvar") {
        return Ok(Backing::Kernel { name: String::from_utf8_lossy(name).into_owned() });
    }
    if name == b"[uprobes]" || flags.has(b"io") || flags.has(b"pf") {
        let name = String::from_utf8_lossy(name).into_owned();
        return Err(Error::unsupported(ns_pid, format!("memory of a device or of the kernel: {name}")));
    }
    if mapping.inode == 0 && !name.starts_with(b"/") {
        return Ok(Backing::Anonymous);
    }
    let kind = if name.starts_with(b"/memfd:") {
        ObjectKind::Memfd
    } else if name == b"/dev/zero (deleted)" || name.starts_with(b"[anon_shmem:") {
        ObjectKind::Anonymous
    } else if name.starts_with(b"/SYSV") {
        return Err(Error::unsupported(ns_pid, "System V shared memory"));
    } else if name.starts_with(b"anon_inode:") || !name.starts_with(b"/") {
        let name = String::from_utf8_lossy(name).into_owned();
        return Err(Error::unsupported(ns_pid, format!("a mapping of {name}")));
    } else if mapping.deleted() {
        ObjectKind::Deleted
    } else {
        return Ok(Backing::File { path: name.to_vec(), offset: mapping.offset, inode: mapping.inode });
    };
    let id = objects.of(pid, ns_pid, mapping, kind)?;
    Ok(Backing::Object { id, offset: mapping.offset })
}

/// What about a mapping cannot be moved by this version, by its flags. `watched`: Ferry itself tracks what the process writes.
pub(crate) fn obstacle(flags: Flags, watched: bool) -> Option<&'static str> {
    [
        (b"ht", "huge pages of hugetlbfs"),
        (b"um", "memory watched by a userfaultfd"),
        (b"uw", "memory watched by a userfaultfd"),
        (b"ui", "memory watched by a userfaultfd"),
        (b"ss", "a shadow stack"),
        (b"mm", "a mixed mapping of a device"),
        (b"dp", "droppable memory"),
        (b"sl", "sealed memory (mseal)"),
    ]
    .into_iter()
    .find(|(word, _)| flags.has(word) && !(watched && *word == b"uw"))
    .map(|(_, what)| what)
}

fn flag_bits(mapping: &Mapping, flags: Flags) -> u32 {
    let table: [(&[u8; 2], u32); 14] = [
        (b"ac", vma::ACCOUNTED),
        (b"gd", vma::GROWSDOWN),
        (b"lo", vma::LOCKED),
        (b"nr", vma::NORESERVE),
        (b"hg", vma::HUGEPAGE),
        (b"nh", vma::NOHUGEPAGE),
        (b"dc", vma::DONTFORK),
        (b"wf", vma::WIPEONFORK),
        (b"dd", vma::DONTDUMP),
        (b"mg", vma::MERGEABLE),
        (b"sr", vma::SEQUENTIAL),
        (b"rr", vma::RANDOM),
        (b"lf", vma::LOCK_ON_FAULT),
        (b"mw", vma::MAY_WRITE),
    ];
    let set = table.iter().filter(|(word, _)| flags.has(word)).fold(0, |bits, (_, bit)| bits | bit);
    if mapping.shared { set | vma::SHARED } else { set }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_sys::pagemap::Region;

    #[test]
    fn content_is_cut_at_the_borders_of_mappings() {
        let region = |start, end| Region { start, end, categories: 0 };
        let ranges = intersect(
            &[region(0x1000, 0x5000), region(0x8000, 0x9000), region(0xa000, 0xc000)],
            &[(0x2000, 0x3000), (0x4000, 0x8000), (0xb000, 0xf000)],
        );
        let wanted = [(0x2000, 0x1000), (0x4000, 0x1000), (0xb000, 0x1000)];
        assert_eq!(ranges.iter().map(|range| (range.start, range.len)).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_hole_is_free_in_every_space() {
        let mapping = |start: u64, end: u64| Mapping { start, end, ..Mapping::default() };
        let one = [mapping(0x100_0000_0000, 0x100_0100_0000)];
        let two = [mapping(0x100_0300_0000, 0x100_0301_0000)];
        let at = hole(&[&one, &two], 1 << 20).unwrap();
        let free = |space: &[Mapping]| space.iter().all(|m| m.end <= at || m.start >= at + (1 << 20));
        assert!(free(&one) && free(&two));
    }
}
