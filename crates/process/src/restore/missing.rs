//! Pages that follow when the tree runs already: the puppets' userfaultfds, and what is missing under them.
//!
//! Each address space opens its own, by a remote call, as a draft's already where that is wished for; from then on everything is done from
//! outside. What is missing is registered last of all, when nothing runs in a puppet any more: from that moment whoever touches such a page waits, and nobody of Ferry's may read the
//! memory of these processes before all of it is there.

use super::grow::Family;
use super::puppets::Puppets;
use super::turns::Turns;
use super::{Error, passing};
use crate::layout::{kept, may_be_missing};
use crate::records::State;
use crate::records::memory::Space;
use ferry_sys::pagemap::{IS_GUARD, IS_PRESENT, IS_SWAPPED, Pagemap, Query};
use ferry_sys::remote::Program;
use ferry_sys::userfaultfd::{self, MissingPages};
use ferry_transfer::access::Missing;
use ferry_transfer::engine::RangeSet;
use ferry_transfer::space::{Range, SpaceId, covers};
use std::collections::BTreeMap;

/// Calls in one batch: far fewer than fit.
const CALLS_MAX: usize = 512;

/// Userfaultfds that are opened after one draft, the most: each is a descriptor here.
const EARLY_MAX: usize = 256;

/// So few pieces are given back without a look at which of them are there: a call for nothing costs less than the page tables of a large
/// memory, of which a look is 4 ms for each GiB.
const UNSEEN_MAX: usize = 4096;

/// Whatever is mapped, the zero page too: a page that was only looked at would keep the one that follows away.
const ANYTHING: Query =
    Query { required: 0, refused: IS_GUARD, any: IS_PRESENT | IS_SWAPPED, told: 0, protect: false };

/// An address space that begins to run without all of its pages.
#[derive(Debug)]
pub struct Held {
    /// Its number.
    pub space: SpaceId,
    /// By which it is served. When the last copy of it is closed, what is missing becomes zero.
    pub pages: MissingPages,
    /// What is missing.
    pub missing: Vec<Range>,
}

/// One that is still to be registered.
pub(super) struct Opened {
    pid: i32,
    held: Held,
}

/// A userfaultfd of every puppet that pages are missing of: the one that was opened early, or one that is opened now.
pub(super) fn open(puppets: &mut Puppets, missing: &[Missing]) -> Result<Vec<Opened>, Error> {
    check(puppets, missing)?;
    let mut opened = Vec::new();
    for each in missing.iter().filter(|each| !each.ranges.is_empty()) {
        let pid = whose(puppets, each.space)?;
        let early = puppets.family.puppets.get_mut(&pid).and_then(|puppet| puppet.pages.take());
        let pages = early.map_or_else(|| open_one(&mut puppets.family, pid), Ok)?;
        opened.push(Opened { pid, held: Held { space: each.space, pages, missing: each.ranges.clone() } });
    }
    Ok(opened)
}

fn open_one(family: &mut Family, pid: i32) -> Result<MissingPages, Error> {
    let args = [userfaultfd::FLAGS as u64];
    let fd = family.call(pid, "open a userfaultfd", userfaultfd::SYSCALL, &args)?;
    let host_pid = family.actor(pid)?.0.tid;
    let taken = passing::take(host_pid, i32::try_from(fd).unwrap_or(-1));
    family.call(pid, "close the userfaultfd", libc::SYS_close, &[fd])?;
    MissingPages::begin(taken?).map_err(Error::host("use a userfaultfd"))
}

/// Exactly what is asked for can be missing, or nothing is.
fn check(puppets: &Puppets, missing: &[Missing]) -> Result<(), Error> {
    let may = may_be_missing(&puppets.state);
    for (at, each) in missing.iter().enumerate() {
        let ascends = each.ranges.windows(2).all(|pair| match pair {
            [one, next] => one.start.saturating_add(one.len) <= next.start,
            _ => true,
        });
        if !ascends || missing[..at].iter().any(|other| other.space == each.space) {
            return Err(Error::Damaged(format!("the missing pages of space {}", each.space.0)));
        }
        let may = may.get(&each.space).map(RangeSet::ranges).unwrap_or_default();
        if let Some(Range { start, len }) = each.ranges.iter().find(|each| !covers(may, each.start, each.len))
        {
            let (space, what) = (each.space.0, "cannot follow later");
            return Err(Error::Damaged(format!("{len} bytes at {start:#x} of space {space} {what}")));
        }
    }
    Ok(())
}

/// The process with this address space.
fn whose(puppets: &Puppets, space: SpaceId) -> Result<i32, Error> {
    let task = puppets.state.tasks.iter().find(|task| task.space == Some(space.0));
    task.map(|task| task.pid).ok_or_else(|| unknown(space))
}

impl Puppets {
    /// Opens the userfaultfds of a draft by which pages may follow later, where there is none yet: none is opened in the pause then. As
    /// long as nothing is registered with them they do nothing. Repeatable; to be called after each draft that may come to that. What cannot
    /// be opened now is tried again at the end, which then says why.
    pub fn expect_missing(&mut self) {
        let may = may_be_missing(&self.state);
        let spaces = self.state.tasks.iter().filter_map(|task| Some((task.pid, SpaceId(task.space?))));
        let without = |pid: &i32| {
            self.family.puppets.get(pid).is_some_and(|puppet| !puppet.dead && puppet.pages.is_none())
        };
        let wanted = spaces.filter(|(_, space)| may.contains_key(space)).map(|(pid, _)| pid).filter(without);
        let wanted: Vec<i32> = wanted.take(EARLY_MAX).collect();
        if wanted.is_empty() {
            return;
        }
        let _turns = Turns::begin(&self.family);
        for pid in wanted {
            let Ok(pages) = open_one(&mut self.family, pid) else { return };
            self.family.puppets.entry(pid).and_modify(|puppet| puppet.pages = Some(pages));
        }
    }

    /// Gives back what was filled already and will be missing: what is done now need not be done when the workload stands still. Nothing is
    /// to be filled there from now on but by a draft's round.
    ///
    /// # Errors
    /// Something of it cannot follow later; or the kernel refuses. Then they are to be dropped.
    pub fn give_back(&mut self, missing: &[Missing]) -> Result<(), Error> {
        check(self, missing)?;
        let _turns = Turns::begin(&self.family);
        empty(self, missing)?;
        for each in missing {
            let given = self.given.entry(each.space).or_default();
            *given = given.union(&RangeSet::new(each.ranges.clone()));
        }
        Ok(())
    }

    /// The puppets were `old` until now: what was given back is still empty where nothing has changed. After a draft there may be another round.
    pub(super) fn keep_given(&mut self, old: &State, last: bool) {
        let kept = if last && !self.given.is_empty() { kept(old, &self.state) } else { BTreeMap::new() };
        self.given.retain(|space, given| {
            *given = kept.get(space).map(|kept| given.intersection(kept)).unwrap_or_default();
            !given.is_empty()
        });
    }
}

/// Gives back what the puppets have already of pages that are missing again.
pub(super) fn empty(puppets: &mut Puppets, missing: &[Missing]) -> Result<(), Error> {
    for each in missing {
        let pid = whose(puppets, each.space)?;
        let wanted = RangeSet::new(each.ranges.clone());
        let wanted = match puppets.given.get(&each.space) {
            Some(given) => wanted.difference(given),
            None => wanted,
        };
        let family = &mut puppets.family;
        if wanted.ranges().len() <= UNSEEN_MAX {
            give_back(family, pid, &wanted)?;
            continue;
        }
        let host_pid = family.actor(pid)?.0.tid;
        let failed = || Error::host(format!("look for pages of process {pid}"));
        let pagemap = Pagemap::open(host_pid).map_err(failed())?;
        let Some((first, last)) = wanted.ranges().first().zip(wanted.ranges().last()) else { continue };
        let there = pagemap.scan(first.start, last.end(), &ANYTHING).map_err(failed())?;
        let there = there
            .iter()
            .map(|region| Range { start: region.start, len: region.end - region.start })
            .collect();
        give_back(family, pid, &wanted.intersection(&there))?;
    }
    Ok(())
}

fn give_back(family: &mut Family, pid: i32, pages: &RangeSet) -> Result<(), Error> {
    for part in pages.ranges().chunks(CALLS_MAX) {
        let mut program = Program::new(family.layout());
        for Range { start, len } in part {
            let args = [*start, *len, libc::MADV_DONTNEED as u64];
            program.call("give back pages that are missing again", libc::SYS_madvise, &args);
        }
        family.run(pid, &mut program)?;
        program.check(0..program.len())?;
    }
    Ok(())
}

/// From now on whoever touches a missing page waits.
pub(super) fn register(puppets: &Puppets, opened: Vec<Opened>) -> Result<Vec<Held>, Error> {
    let mut all = Vec::new();
    for Opened { pid, held } in opened {
        let space = puppets.state.spaces.iter().find(|space| space.id == held.space.0);
        let space = space.ok_or_else(|| unknown(held.space))?;
        for mapping in whole(space, &held.missing) {
            let what = format!("hold back pages of process {pid} at {:#x}", mapping.start);
            held.pages.expect(mapping.start, mapping.len).map_err(Error::host(what))?;
        }
        all.push(held);
    }
    Ok(all)
}

/// Every mapping of which a page is missing, whole: registered in part it would be cut, and the program could no longer move or resize
/// it in one call.
///
/// `missing` ascends. It may be in very many pieces, and this is done in the pause.
fn whole(space: &Space, missing: &[Range]) -> Vec<Range> {
    let all = space.vmas.iter().map(|vma| Range { start: vma.start, len: vma.end - vma.start });
    let first_behind = |at: u64| missing.get(missing.partition_point(|range| range.end() <= at));
    all.filter(|vma| first_behind(vma.start).is_some_and(|range| range.start < vma.end())).collect()
}

fn unknown(space: SpaceId) -> Error {
    Error::Damaged(format!("pages are missing of space {}, which nobody has", space.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::memory::Vma;

    #[test]
    fn each_mapping_with_a_missing_page_is_registered_whole() {
        let vma = |start: u64, end: u64| Vma { start, end, ..Vma::default() };
        let space = Space {
            vmas: vec![vma(0x1000, 0x9000), vma(0x9000, 0xa000), vma(0xc000, 0xf000)],
            ..Space::default()
        };
        let range = |start: u64, end: u64| Range { start, len: end - start };
        let missing = [range(0x2000, 0x3000), range(0x5000, 0x6000), range(0x8000, 0xa000)];
        assert_eq!(whole(&space, &missing), [range(0x1000, 0x9000), range(0x9000, 0xa000)]);
        assert_eq!(whole(&space, &[]), []);
    }
}
