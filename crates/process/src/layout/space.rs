//! One address space: the calls that make the mappings of a later moment out of those of an earlier one.
//!
//! A page stays when the mapping that it is in is the same thing before and after: private anonymous memory, or a private mapping of
//! the same position of the same file. Then at most its protection and the advice on it change. Everything else goes and is mapped.

use crate::records::memory::{Backing, Space, Vma, vma};
use ferry_transfer::engine::RangeSet;
use ferry_transfer::space::Range;

/// One thing to do in an address space.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Everything goes, the kernel's pages and the executable too: another program.
    Empty,
    /// A range goes. There may be holes in it.
    Unmap {
        /// First byte.
        start: u64,
        /// First byte after it.
        end: u64,
    },
    /// A part of a new mapping, or the whole of it, where nothing is. With [`filled_prot`], and no advice yet.
    Map(Vma),
    /// Another protection.
    Protect {
        /// First byte.
        start: u64,
        /// First byte after it.
        end: u64,
        /// `PROT_*`.
        prot: u32,
    },
    /// Advice by `madvise`.
    Advise {
        /// First byte.
        start: u64,
        /// First byte after it.
        end: u64,
        /// `MADV_*`.
        advice: i32,
    },
}

/// The protection of a mapping while it is filled. Private memory that was writable once is so until the end, which is also faster.
#[must_use]
pub fn filled_prot(vma: &Vma) -> u32 {
    if protected_later(vma) { vma.prot | libc::PROT_WRITE as u32 } else { vma.prot }
}

/// Whether a mapping gets its own protection only when its memory is in.
#[must_use]
pub fn protected_later(vma: &Vma) -> bool {
    let private = vma.flags & (vma::ACCOUNTED | vma::SHARED) == vma::ACCOUNTED;
    private && vma.prot & libc::PROT_WRITE as u32 == 0
}

/// All that has to be done to get from `old` to `new`, in an order in which it is possible.
#[must_use]
pub fn changes(old: &Space, new: &Space) -> Vec<Change> {
    let same = same_program(old, new);
    let before: &[Vma] = if same { &old.vmas } else { &[] };
    let mut list = Lists::default();
    for part in parts(before, &new.vmas) {
        match (part.old, part.new) {
            (Some(_), None) => list.unmap(part.start, part.end),
            (None, Some(new)) => list.map(&part, new),
            (Some(old), Some(new)) if stays(old, new) => list.adjust(&part, old, new),
            (Some(_), Some(new)) => {
                list.unmap(part.start, part.end);
                list.map(&part, new);
            }
            (None, None) => {}
        }
    }
    let begin = if same { Vec::new() } else { vec![Change::Empty] };
    [begin, list.unmaps, list.maps, list.protects, list.taken_back, list.given].concat()
}

/// What stays of the private memory of `old` when [`changes`] are made.
#[must_use]
pub fn kept_of_space(old: &Space, new: &Space) -> RangeSet {
    if !same_program(old, new) {
        return RangeSet::default();
    }
    let private = |vma: &Vma| vma.flags & vma::SHARED == 0 && !matches!(vma.backing, Backing::Kernel { .. });
    let part = |part: Part<'_>| {
        let (old, new) = (part.old?, part.new?);
        let range = Range { start: part.start, len: part.end - part.start };
        (private(new) && stays(old, new)).then_some(range)
    };
    parts(&old.vmas, &new.vmas).into_iter().filter_map(part).collect()
}

/// Whether both are the same program's: after execve nothing stays. The kernel's pages cannot be moved, and the executable cannot be
/// exchanged, while the rest stays.
fn same_program(old: &Space, new: &Space) -> bool {
    fn kernel(space: &Space) -> impl Iterator<Item = &Vma> {
        space.vmas.iter().filter(|vma| matches!(vma.backing, Backing::Kernel { .. }))
    }
    (old.id, &old.exe, old.vdso_hash) == (new.id, &new.exe, new.vdso_hash) && kernel(old).eq(kernel(new))
}

/// Whether a page of `old` stays when it becomes one of `new` at the same address.
fn stays(old: &Vma, new: &Vma) -> bool {
    // What no call changes of a mapping that is there; and no call takes advice on huge pages back.
    let fixed = vma::SHARED | vma::GROWSDOWN | vma::NORESERVE;
    let huge = vma::HUGEPAGE | vma::NOHUGEPAGE;
    let shared = new.flags & vma::SHARED != 0;
    let fixed = if shared { fixed | vma::MAY_WRITE } else { fixed };
    if old.flags & fixed != new.flags & fixed || (old.flags & huge != 0 && new.flags & huge == 0) {
        return false;
    }
    match (&old.backing, &new.backing) {
        (Backing::Anonymous, Backing::Anonymous) => true,
        (
            Backing::File { path, offset, inode },
            Backing::File { path: new_path, offset: new_offset, inode: new_inode },
        ) => {
            (path, inode) == (new_path, new_inode)
                && begin(*offset, old.start) == begin(*new_offset, new.start)
        }
        (Backing::Object { id, offset }, Backing::Object { id: new_id, offset: new_offset }) => {
            id == new_id && begin(*offset, old.start) == begin(*new_offset, new.start)
        }
        (Backing::Kernel { .. }, Backing::Kernel { .. }) => old == new,
        _ => false,
    }
}

/// Where the file's first byte would be mapped: the same for all parts of one mapping.
fn begin(offset: u64, start: u64) -> u64 {
    start.wrapping_sub(offset)
}

/// A range in which nothing changes from page to page, in neither layout.
struct Part<'a> {
    start: u64,
    end: u64,
    old: Option<&'a Vma>,
    new: Option<&'a Vma>,
}

/// Cuts both layouts at the borders of both; ranges that are in neither are left out.
fn parts<'a>(old: &'a [Vma], new: &'a [Vma]) -> Vec<Part<'a>> {
    let mut borders: Vec<u64> = old.iter().chain(new).flat_map(|vma| [vma.start, vma.end]).collect();
    borders.sort_unstable();
    borders.dedup();
    let (mut i, mut j) = (0, 0);
    let mut parts = Vec::with_capacity(borders.len());
    for pair in borders.windows(2) {
        let &[start, end] = pair else { continue };
        let at = |vmas: &'a [Vma], next: &mut usize| {
            while vmas.get(*next).is_some_and(|vma| vma.end <= start) {
                *next += 1;
            }
            vmas.get(*next).filter(|vma| vma.start <= start)
        };
        let (old, new) = (at(old, &mut i), at(new, &mut j));
        if old.is_some() || new.is_some() {
            parts.push(Part { start, end, old, new });
        }
    }
    parts
}

/// Advice by its bit in the record: how it is given and how it is taken back. Locks come at the end, when the pages are in.
const ADVICE: [(u32, i32, Option<i32>); 8] = [
    (vma::SEQUENTIAL, libc::MADV_SEQUENTIAL, Some(libc::MADV_NORMAL)),
    (vma::RANDOM, libc::MADV_RANDOM, Some(libc::MADV_NORMAL)),
    (vma::HUGEPAGE, libc::MADV_HUGEPAGE, None),
    (vma::NOHUGEPAGE, libc::MADV_NOHUGEPAGE, None),
    (vma::DONTFORK, libc::MADV_DONTFORK, Some(libc::MADV_DOFORK)),
    (vma::WIPEONFORK, libc::MADV_WIPEONFORK, Some(libc::MADV_KEEPONFORK)),
    (vma::DONTDUMP, libc::MADV_DONTDUMP, Some(libc::MADV_DODUMP)),
    (vma::MERGEABLE, libc::MADV_MERGEABLE, Some(libc::MADV_UNMERGEABLE)),
];

/// The changes by their kind. Neighbours become one where that makes no difference.
#[derive(Default)]
struct Lists {
    unmaps: Vec<Change>,
    maps: Vec<Change>,
    protects: Vec<Change>,
    /// Comes first: MADV_NORMAL takes two kinds of advice back.
    taken_back: Vec<Change>,
    given: Vec<Change>,
}

impl Lists {
    fn unmap(&mut self, from: u64, to: u64) {
        match self.unmaps.last_mut() {
            Some(Change::Unmap { end, .. }) if *end == from => *end = to,
            _ => self.unmaps.push(Change::Unmap { start: from, end: to }),
        }
    }

    /// What is to be one mapping is mapped by one call as far as it is new.
    fn map(&mut self, part: &Part<'_>, new: &Vma) {
        match self.maps.last_mut() {
            Some(Change::Map(last)) if last.end == part.start && part.start > new.start => {
                last.end = part.end
            }
            _ => self.maps.push(Change::Map(piece(new, part.start, part.end))),
        }
        self.advise(part, 0, new.flags, new);
    }

    fn adjust(&mut self, part: &Part<'_>, old: &Vma, new: &Vma) {
        let wanted = filled_prot(new);
        if filled_prot(old) != wanted {
            match self.protects.last_mut() {
                Some(Change::Protect { end, prot, .. }) if *end == part.start && *prot == wanted => {
                    *end = part.end
                }
                _ => self.protects.push(Change::Protect { start: part.start, end: part.end, prot: wanted }),
            }
        }
        self.advise(part, old.flags, new.flags, new);
    }

    fn advise(&mut self, part: &Part<'_>, old: u32, new: u32, vma: &Vma) {
        if matches!(vma.backing, Backing::Kernel { .. }) {
            return;
        }
        for (bit, on, off) in ADVICE {
            match (old & bit != 0, new & bit != 0, off) {
                (false, true, _) => advise(&mut self.given, part, on),
                (true, false, Some(off)) => advise(&mut self.taken_back, part, off),
                _ => {}
            }
        }
    }
}

/// Thousands of small neighbours often have the same advice.
fn advise(list: &mut Vec<Change>, part: &Part<'_>, wanted: i32) {
    let joins = |change: &Change| matches!(change, Change::Advise { end, advice, .. } if *end == part.start && *advice == wanted);
    // Only the last few can touch this part: at most one for each kind of advice.
    let recent = list.len().saturating_sub(ADVICE.len());
    match list[recent..].iter_mut().find(|change| joins(change)) {
        Some(Change::Advise { end, .. }) => *end = part.end,
        _ => list.push(Change::Advise { start: part.start, end: part.end, advice: wanted }),
    }
}

/// A part of a mapping as a mapping.
fn piece(vma: &Vma, start: u64, end: u64) -> Vma {
    let moved = start - vma.start;
    let backing = match &vma.backing {
        Backing::File { path, offset, inode } => {
            Backing::File { path: path.clone(), offset: offset + moved, inode: *inode }
        }
        Backing::Object { id, offset } => Backing::Object { id: *id, offset: offset + moved },
        other => other.clone(),
    };
    Vma { start, end, backing, ..vma.clone() }
}

#[cfg(test)]
mod tests;
