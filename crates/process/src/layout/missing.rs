//! Which pages of a captured tree may follow after it runs again: all others must be in their places before.
//!
//! A page that is missing is asked for when something touches it. That is possible for private anonymous memory only, and not where
//! somebody touches it who cannot wait: the kernel on its way out of a system call (restartable sequences), locked memory, and what
//! the restore itself goes through while the workload is not complete yet: a wait that is begun again reads its arguments. Nor in memory
//! that is empty in a child: what is missing is given to both. Where threads stand is left out, too; each would ask for it at once.

use crate::records::task::Thread;
use crate::records::{Backing, Space, State, memory::vma};
use ferry_transfer::engine::RangeSet;
use ferry_transfer::space::{PAGE_SIZE, Range, SpaceId};
use std::collections::BTreeMap;

/// Pages behind a thread's stack pointer that it is likely to return through.
const STACK_PAGES: u64 = 2;

/// Places of registers in `user_regs_struct`.
const RSI: usize = 13;
const RDI: usize = 14;
const RSP: usize = 19;

/// Where pages of `state` may be missing, by space. A space that is not named must be whole.
#[must_use]
pub fn may_be_missing(state: &State) -> BTreeMap<SpaceId, RangeSet> {
    let mut all: BTreeMap<SpaceId, RangeSet> =
        state.spaces.iter().map(|space| (SpaceId(space.id), waiting(space))).collect();
    for task in &state.tasks {
        let Some(may) = task.space.and_then(|space| all.get_mut(&SpaceId(space))) else { continue };
        let touched: RangeSet = task.threads.iter().flat_map(touched).collect();
        *may = may.difference(&touched);
    }
    all.retain(|_, ranges| !ranges.is_empty());
    all
}

/// What of a space is memory that whoever touches it can wait for.
fn waiting(space: &Space) -> RangeSet {
    let can = space.vmas.iter().filter(|vma| {
        // The kernel no longer counts memory that is made read-only while it is empty: it would not be the same afterwards.
        matches!(vma.backing, Backing::Anonymous)
            && !super::protected_later(vma)
            && vma.flags & (vma::SHARED | vma::LOCKED | vma::WIPEONFORK | vma::UNKNOWN) == 0
    });
    let can: RangeSet = can.map(|vma| Range { start: vma.start, len: vma.end - vma.start }).collect();
    // A guard has no content: nobody could answer with it.
    let can =
        can.difference(&space.guards.iter().map(|(start, len)| Range { start: *start, len: *len }).collect());
    // Arguments, environment: others read them by /proc, and cannot wait either.
    let words = [(space.layout[7], space.layout[8]), (space.layout[9], space.layout[10])];
    can.difference(
        &words.into_iter().filter_map(|(start, end)| pages(start, end.checked_sub(start)?)).collect(),
    )
}

/// What a thread, or the kernel for it, touches before it has run a single instruction, and directly after.
fn touched(thread: &Thread) -> Vec<Range> {
    // Any register may point to what its system call reads or writes.
    let mut all: Vec<Range> = thread.registers.iter().filter_map(|word| pages(*word, 1)).collect();
    if let Some(rsp) = thread.registers.get(RSP) {
        all.extend(pages(*rsp, STACK_PAGES * PAGE_SIZE));
    }
    if let Some(rseq) = thread.rseq {
        all.extend(pages(rseq.address, u64::from(rseq.size)));
    }
    if let (Some(wait), Some(count), Some(list)) =
        (thread.wait, thread.registers.get(RSI), thread.registers.get(RDI))
        && wait.call == libc::SYS_poll
    {
        all.extend(pages(*list, count.saturating_mul(8)));
    }
    all
}

/// The pages that `len` bytes at `start` lie in. None where there are no such addresses.
fn pages(start: u64, len: u64) -> Option<Range> {
    let first = start & !(PAGE_SIZE - 1);
    let end = start.checked_add(len)?.checked_next_multiple_of(PAGE_SIZE)?;
    (end > first).then(|| Range { start: first, len: end - first })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::memory::Vma;
    use crate::records::task::{Rseq, Task, Wait};

    fn at(start: u64, end: u64, flags: u32, backing: Backing) -> Vma {
        Vma { start: start * PAGE_SIZE, end: end * PAGE_SIZE, flags, backing, ..Vma::default() }
    }

    fn set(pages: &[std::ops::Range<u64>]) -> RangeSet {
        let range = |pages: &std::ops::Range<u64>| Range {
            start: pages.start * PAGE_SIZE,
            len: (pages.end - pages.start) * PAGE_SIZE,
        };
        pages.iter().map(range).collect()
    }

    fn state(vmas: Vec<Vma>, threads: Vec<Thread>) -> State {
        let space = Space { id: 3, vmas, ..Space::default() };
        let task = Task { pid: 1, space: Some(3), threads, ..Task::default() };
        State { spaces: vec![space], tasks: vec![task], ..State::default() }
    }

    #[test]
    fn only_memory_that_can_be_waited_for_may_be_missing() {
        let file = Backing::File { path: b"/lib".to_vec(), offset: 0, inode: 1 };
        let state = state(
            vec![
                at(10, 20, 0, Backing::Anonymous),
                at(5, 9, vma::ACCOUNTED, Backing::Anonymous),
                at(20, 30, vma::LOCKED, Backing::Anonymous),
                at(30, 40, 0, file),
                at(40, 50, vma::SHARED, Backing::Object { id: 9, offset: 0 }),
                at(50, 60, 0, Backing::Object { id: 9, offset: 0 }),
                at(60, 70, vma::GROWSDOWN, Backing::Anonymous),
                at(70, 72, 0, Backing::Kernel { name: "[vdso]".into() }),
            ],
            vec![],
        );
        assert_eq!(may_be_missing(&state), BTreeMap::from([(SpaceId(3), set(&[10..20, 60..70]))]));
    }

    #[test]
    fn where_threads_stand_and_the_kernel_reads_is_there_before_they_run() {
        let mut registers = vec![0; 27];
        registers[RSP] = 15 * PAGE_SIZE + 8;
        registers[RDI] = 30 * PAGE_SIZE - 8;
        registers[RSI] = 600;
        let rseq = Some(Rseq { address: 41 * PAGE_SIZE - 16, size: 32, ..Rseq::default() });
        let wait = Some(Wait { call: libc::SYS_poll, left_ns: None });
        let state = state(
            vec![at(10, 50, 0, Backing::Anonymous)],
            vec![Thread { registers, rseq, wait, ..Thread::default() }],
        );
        let wanted = set(&[10..15, 18..29, 32..40, 42..50]);
        assert_eq!(may_be_missing(&state), BTreeMap::from([(SpaceId(3), wanted)]));
    }

    #[test]
    fn addresses_that_do_not_exist_are_nothing() {
        let thread = Thread { registers: vec![u64::MAX; 27], ..Thread::default() };
        let state = state(vec![at(10, 12, 0, Backing::Anonymous)], vec![thread]);
        assert_eq!(may_be_missing(&state)[&SpaceId(3)].bytes(), 2 * PAGE_SIZE);
    }
}
