//! A task most of whose memory is to follow later: what is sent before, and what is told to be missing.

use super::child::{MADVISE, PAGE, PRIVATE, pages};
use super::{start, within};
use ferry_transfer::engine::{RangeSet, TrackedSpace};
use ferry_transfer::linux::{FollowedTask, Later};
use ferry_transfer::space::SpaceId;

/// Pages of a block.
const BLOCK: u64 = 512;

#[test]
fn what_follows_is_all_that_is_mapped_but_for_empty_blocks_and_the_rest_is_exact() {
    let (_file, mut child) = start();
    let file = child.map_file(16, PRIVATE);
    let at = child.map(None, 4 * BLOCK, PRIVATE);
    let first = at.next_multiple_of(BLOCK * PAGE);
    // MADV_NOHUGEPAGE: where the kernel gives a huge page, all of it is there.
    child.call(MADVISE, &[at as i64, (4 * BLOCK * PAGE) as i64, 15]);
    child.write(file, [4], 1);
    child.write(first, [2, 5], 1);
    let later = Later::default();
    let mut task = FollowedTask::new(child.tracker_of(3), &later);
    let found = task.scan().unwrap();
    assert_eq!(within(&found.content, first, 3 * BLOCK), [0_u64; 0], "it waits");
    assert_eq!(within(&found.dirty, file, 16), [4]);

    child.write(file, [8], 2);
    child.write(first, [2 * BLOCK + 6], 2);
    let may = RangeSet::new(vec![pages(first, 6..3 * BLOCK)]);
    later.lock().unwrap().insert(SpaceId(3), may);
    let found = task.scan_still().unwrap();
    assert_eq!(within(&found.dirty, file, 16), [8]);
    assert_eq!(within(&found.content, file, 16), [4, 8]);
    // Block 0 is in use, block 1 empty, and block 2 was empty before.
    let expected: Vec<u64> = [2, 5].into_iter().chain(6..BLOCK).chain(2 * BLOCK..3 * BLOCK).collect();
    assert_eq!(within(&found.content, first, 3 * BLOCK), expected);
}
