//! The tracker over a real process: what it writes is found, all of it and nothing else, whatever it does to its mappings.

mod child;
mod followed;
mod live;
mod shared;

use child::{
    BRK, DONTNEED, GROWSDOWN, MADVISE, MPROTECT, MREMAP, MUNMAP, PAGE, PRIVATE, SHARED, Tracked, pages,
};
use ferry_transfer::engine::{Found, RangeSet, TrackedSpace};
use ferry_transfer::linux::TaskTracker;
use ferry_transfer::space::Range;
use tempfile::NamedTempFile;

fn start() -> (NamedTempFile, Tracked) {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(16 * PAGE).unwrap();
    let child = Tracked::start(file.path());
    (file, child)
}

/// Numbers of the pages of `set` within the `count` pages at `at`.
fn within(set: &RangeSet, at: u64, count: u64) -> Vec<u64> {
    let part = set.intersection(&RangeSet::new(vec![pages(at, 0..count)]));
    part.ranges()
        .iter()
        .flat_map(|range| (range.start..range.end()).step_by(4096))
        .map(|a| (a - at) / PAGE)
        .collect()
}

fn scan(tracker: &mut TaskTracker) -> Found {
    tracker.scan().unwrap()
}

#[test]
fn writes_are_found_exactly_once() {
    let (_file, mut child) = start();
    let at = child.map(None, 600, PRIVATE);
    child.write(at, [0, 5, 6, 599], 1);
    let mut tracker = child.tracker();
    tracker.arm().unwrap();
    let found = scan(&mut tracker);
    assert_eq!(within(&found.dirty, at, 600), [0, 5, 6, 599]);
    assert_eq!(within(&scan(&mut tracker).dirty, at, 600), [0_u64; 0]);
    for round in 0..5_u64 {
        let written: Vec<u64> = (0..600).filter(|page| page * 7 % (11 + round) == 3).collect();
        child.write(at, written.iter().copied(), round as u8);
        assert_eq!(within(&scan(&mut tracker).dirty, at, 600), written);
    }
    // By the kernel, into the middle of pages.
    child.read_into(at + 20 * PAGE + 100, 2 * PAGE);
    assert_eq!(within(&scan(&mut tracker).dirty, at, 600), [20, 21, 22]);
    // Reading is not writing, and makes no content.
    let mut byte = vec![0; PAGE as usize];
    tracker.read(&[pages(at, 20..21)], &mut byte).unwrap();
    tracker.read(&[pages(at, 300..301)], &mut byte).unwrap();
    let found = scan(&mut tracker);
    assert_eq!(within(&found.dirty, at, 600), [0_u64; 0]);
    assert!(!within(&found.content, at, 600).contains(&301));
    // A second beginning reports everything, and an end leaves nothing.
    let content = within(&found.content, at, 600);
    tracker.arm().unwrap();
    assert_eq!(within(&scan(&mut tracker).dirty, at, 600), content);
    tracker.disarm().unwrap();
    child.write(at, [1], 1);
}

#[test]
fn what_is_given_back_has_no_content_any_more() {
    let (_file, mut child) = start();
    // More than a whole page table: the kernel may free that, too.
    let at = child.map(None, 1536, PRIVATE);
    let small = child.map(None, 8, PRIVATE);
    child.write(at, 0..1536, 1);
    child.write(small, 0..8, 1);
    let mut tracker = child.tracker();
    assert_eq!(within(&scan(&mut tracker).dirty, at, 1536).len(), 1536);
    child.call(MADVISE, &[at as i64, 1536 * PAGE as i64, DONTNEED]);
    child.call(MADVISE, &[small as i64, 4 * PAGE as i64, DONTNEED]);
    child.write(at, [700], 2);
    let found = scan(&mut tracker);
    assert_eq!(within(&found.dirty, at, 1536), [700]);
    assert_eq!(within(&found.content, at, 1536), [700]);
    assert_eq!(within(&found.content, small, 8), [4, 5, 6, 7]);
    child.write(at, [3, 900], 3);
    child.write(small, [2], 3);
    let found = scan(&mut tracker);
    assert_eq!(within(&found.dirty, at, 1536), [3, 900]);
    assert_eq!(within(&found.dirty, small, 8), [2]);
    child.call(MUNMAP, &[small as i64, 8 * PAGE as i64]);
    assert_eq!(within(&scan(&mut tracker).content, small, 8), [0_u64; 0]);
}

#[test]
fn a_new_mapping_at_an_old_place_is_found_whole() {
    let (_file, mut child) = start();
    let at = child.map(None, 16, PRIVATE);
    child.write(at, 0..16, 1);
    let mut tracker = child.tracker();
    scan(&mut tracker);
    child.map(Some(at), 16, PRIVATE);
    child.write(at, [2, 9], 2);
    let found = scan(&mut tracker);
    assert_eq!((within(&found.dirty, at, 16), within(&found.content, at, 16)), (vec![2, 9], vec![2, 9]));
    child.write(at, [9, 10], 3);
    assert_eq!(within(&scan(&mut tracker).dirty, at, 16), [9, 10]);
}

#[test]
fn what_mremap_moves_is_found_whole() {
    let (_file, mut child) = start();
    let at = child.map(None, 16, PRIVATE);
    let to = child.map(None, 32, PRIVATE);
    child.write(at, 0..8, 1);
    let mut tracker = child.tracker();
    scan(&mut tracker);
    let len = 16 * PAGE as i64;
    // MREMAP_MAYMOVE and MREMAP_FIXED.
    child.call(MREMAP, &[at as i64, len, 2 * len, 3, to as i64]);
    child.write(to, [20], 1);
    let found = scan(&mut tracker);
    assert_eq!(within(&found.dirty, to, 32), [0, 1, 2, 3, 4, 5, 6, 7, 20]);
    assert_eq!(within(&found.content, at, 16), [0_u64; 0]);
    child.write(to, [7, 21], 2);
    assert_eq!(within(&scan(&mut tracker).dirty, to, 32), [7, 21]);
}

#[test]
fn a_fork_loses_nothing_and_adds_nothing() {
    let (_file, mut child) = start();
    let at = child.map(None, 16, PRIVATE);
    child.write(at, 0..16, 1);
    let mut tracker = child.tracker();
    scan(&mut tracker);
    child.write(at, [1], 2);
    let grandchild = child.tell(&format!("fork {}", at + 3 * PAGE));
    child.write(at, [5, 6], 2);
    assert_eq!(within(&scan(&mut tracker).dirty, at, 16), [1, 5, 6]);
    child.write(at, [3, 6], 2);
    assert_eq!(within(&scan(&mut tracker).dirty, at, 16), [3, 6]);
    let pid = rustix::process::Pid::from_raw(grandchild as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn growth_is_found() {
    let (_file, mut child) = start();
    let stack = child.map(None, 64, PRIVATE);
    child.call(MUNMAP, &[stack as i64, 56 * PAGE as i64]);
    child.map(Some(stack + 56 * PAGE), 8, PRIVATE | GROWSDOWN);
    let heap = child.call(BRK, &[0]).cast_unsigned();
    child.call(BRK, &[(heap + 8 * PAGE) as i64]);
    let heap = heap.next_multiple_of(PAGE);
    child.write(stack, 56..64, 1);
    child.write(heap, 0..7, 1);
    let mut tracker = child.tracker();
    scan(&mut tracker);
    child.write(stack, [55, 54], 2);
    child.call(BRK, &[(heap + 20 * PAGE) as i64]);
    child.write(heap, [3, 15], 2);
    let found = scan(&mut tracker);
    assert_eq!(within(&found.dirty, stack, 64), [54, 55]);
    let dirty = within(&found.dirty, heap, 20);
    assert!(dirty.contains(&3) && dirty.contains(&15), "{dirty:?}");
    child.write(heap, [16], 3);
    assert_eq!(within(&scan(&mut tracker).dirty, heap + 9 * PAGE, 11), [7]);
    // Protection changed in the middle: three mappings of what was one.
    child.call(MPROTECT, &[(stack + 58 * PAGE) as i64, PAGE as i64, 1]);
    child.write(stack, [57, 59], 4);
    assert_eq!(within(&scan(&mut tracker).dirty, stack, 64), [57, 59]);
}

#[test]
fn private_pages_of_files_are_tracked_and_the_files_own_are_not_content() {
    let (_file, mut child) = start();
    let at = child.map_file(16, PRIVATE);
    child.write(at, [4], 1);
    let mut tracker = child.tracker();
    assert_eq!(within(&scan(&mut tracker).dirty, at, 16), [4]);
    child.write(at, [4, 8], 2);
    let found = scan(&mut tracker);
    assert_eq!((within(&found.dirty, at, 16), within(&found.content, at, 16)), (vec![4, 8], vec![4, 8]));
    // Given back, a page is the file's own again. The kernel hides that behind a marker: such a page is looked at.
    child.call(MADVISE, &[at as i64, 16 * PAGE as i64, DONTNEED]);
    assert_eq!(within(&scan(&mut tracker).dirty, at, 16), [4, 8]);
    let mut content = vec![1; 2 * PAGE as usize];
    tracker.read(&[pages(at, 4..5), pages(at, 8..9)], &mut content).unwrap();
    assert!(content.iter().all(|byte| *byte == 0), "the file holds zeros only");
    assert_eq!(within(&scan(&mut tracker).content, at, 16), [0_u64; 0]);
    child.write(at, [8], 3);
    assert_eq!(within(&scan(&mut tracker).dirty, at, 16), [8]);
}

/// A huge page is found as a whole: more than was written, never less, and nothing of the next one.
#[test]
fn huge_pages_lose_nothing() {
    let (_file, mut child) = start();
    let at = child.map(None, 4 * 512, PRIVATE);
    // MADV_HUGEPAGE. Where the kernel has none to give, the pages are small, and all of this holds, too.
    child.call(MADVISE, &[at as i64, 4 * 512 * PAGE as i64, 14]);
    let first = at.next_multiple_of(512 * PAGE);
    child.write(first, [0, 700, 1100], 1);
    let mut tracker = child.tracker();
    scan(&mut tracker);
    assert_eq!(within(&scan(&mut tracker).dirty, first, 3 * 512), [0_u64; 0]);
    child.write(first, [700], 2);
    let dirty = within(&scan(&mut tracker).dirty, first, 3 * 512);
    // The kernel splits a protected huge page at the first store: what else is in it is not sent again.
    assert_eq!(dirty, [700]);
    // Given back in part: the rest of the huge page stays what it is, and is still tracked.
    child.call(MADVISE, &[(first + 600 * PAGE) as i64, 50 * PAGE as i64, DONTNEED]);
    child.write(first, [701], 3);
    let found = scan(&mut tracker);
    assert!(within(&found.dirty, first, 3 * 512).contains(&701));
    let content = within(&found.content, first, 3 * 512);
    assert!(content.contains(&700) && !content.iter().any(|page| (600..650).contains(page)), "{content:?}");
}

#[test]
fn guards_are_no_content() {
    let (_file, mut child) = start();
    let at = child.map(None, 8, PRIVATE);
    child.write(at, 0..8, 1);
    let mut tracker = child.tracker();
    scan(&mut tracker);
    // MADV_GUARD_INSTALL, Linux 6.13: older kernels know nothing of it and there is nothing to test.
    let installed = child.tell(&format!("call {MADVISE} {} {} 102", at + 2 * PAGE, 3 * PAGE));
    assert!(installed == 0 || installed == -22, "{installed}");
    if installed == 0 {
        assert_eq!(within(&scan(&mut tracker).content, at, 8), [0, 1, 5, 6, 7]);
    }
}

/// Whatever way the kernel is asked over page tables: much memory, of which little was written, some given back, a whole page table of
/// it, too, and some made into guards; and a mapping that is far away.
#[test]
fn what_stands_still_is_told_with_its_guards() {
    let (_file, mut child) = start();
    let at = child.map(None, 4096, PRIVATE);
    let far = child.map(Some(0x10_0000_0000), 2048, PRIVATE);
    child.write(at, 0..4096, 1);
    child.write(far, 0..2048, 1);
    let mut tracker = child.tracker();
    scan(&mut tracker);
    assert!(tracker.guards().is_none(), "it was not looked for them");
    child.write(at, [5, 3000], 2);
    child.write(far, [7], 2);
    child.call(MADVISE, &[(at + 1024 * PAGE) as i64, 1024 * PAGE as i64, DONTNEED]);
    child.call(MADVISE, &[(at + 9 * PAGE) as i64, PAGE as i64, DONTNEED]);
    let guarded = child.tell(&format!("call {MADVISE} {} {} 102", at + 20 * PAGE, 2 * PAGE)) == 0
        && child.tell(&format!("call {MADVISE} {} {} 102", far + 2047 * PAGE, PAGE)) == 0;
    let found = tracker.scan_still().unwrap();
    assert_eq!(within(&found.dirty, at, 4096), [5, 3000]);
    assert_eq!(within(&found.dirty, far, 2048), [7]);
    let gone = |page: &u64| *page == 9 || (1024..2048).contains(page) || (guarded && (20..22).contains(page));
    assert_eq!(within(&found.content, at, 4096), (0..4096).filter(|page| !gone(page)).collect::<Vec<_>>());
    assert_eq!(within(&found.content, far, 2048).len(), 2048 - usize::from(guarded));
    let guards = tracker.guards().unwrap();
    let (near, away) = if guarded { (vec![20, 21], vec![2047]) } else { (Vec::new(), Vec::new()) };
    assert_eq!((within(guards, at, 4096), within(guards, far, 2048)), (near, away));
}

#[test]
fn what_cannot_be_tracked_is_named() {
    let (file, mut child) = start();
    let shared = child.map_file(16, SHARED);
    child.write(shared, [4], 1);
    let scratch = child.map(None, 1, PRIVATE);
    let own = child.map(None, 16, PRIVATE);
    child.write(own, [1, 2], 1);
    child.register_own(own, 16, scratch);
    let mut tracker = child.tracker();
    for _ in 0..2 {
        let found = scan(&mut tracker);
        let why = |range: Range| {
            let mut all = found.untracked.iter().filter(|each| each.range == range);
            all.next().map_or(String::new(), |each| each.why.clone())
        };
        let named = why(pages(shared, 0..16));
        assert!(named.contains("shared memory") && named.contains(file.path().to_str().unwrap()), "{named}");
        let named = why(pages(own, 0..16));
        assert!(named.contains("a userfaultfd of its own"), "{named}");
        assert_eq!(within(&found.content, own, 16), [1, 2]);
        assert_eq!(within(&found.dirty, own, 16), [0_u64; 0]);
    }
}

#[test]
fn another_program_or_none_is_an_error_and_not_an_empty_space() {
    let (_file, mut child) = start();
    let mut tracker = child.tracker();
    scan(&mut tracker);
    child.send("exec");
    child.ready();
    let error = tracker.scan().unwrap_err();
    assert!(error.to_string().contains("executes another program"), "{error}");
    tracker.disarm().unwrap();
    let at = child.map(None, 4, PRIVATE);
    child.write(at, [2], 1);
    let mut tracker = child.tracker();
    assert_eq!(within(&scan(&mut tracker).dirty, at, 4), [2]);
    drop(child);
    assert!(tracker.scan().unwrap_err().to_string().contains("has ended"));
}
