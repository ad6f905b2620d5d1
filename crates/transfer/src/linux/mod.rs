//! The spaces of processes, by pid and by descriptor: what [`crate::access`] describes, opened.
//!
//! Used by mover threads: source and sink while the tasks stand still, the tracker while they run. Nothing here stops or attaches to
//! anything.

mod followed;
mod look;
mod object;
mod opened;
mod resident;
mod shared;
mod sink;
mod source;
mod still;
mod tracker;

pub use followed::{FollowedTask, Later};
pub use look::guards;
pub use object::ObjectSpace;
pub use resident::MissingMemory;
pub use shared::SharedObjects;
pub use sink::LinuxSink;
pub use source::LinuxSource;
pub use still::StillSpace;
pub use tracker::{TaskTracker, TrackError};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{SpaceAccess, Via};
    use crate::engine::{Engine, Filler, Local};
    use crate::space::{PageSink, PageSource, Range, SpaceId};

    #[test]
    fn scattered_ranges_are_written_and_read_back() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut memory = vec![0_u8; 3000 * 16];
        let base = memory.as_mut_ptr() as u64;
        // More ranges than the kernel takes at once.
        let ranges: Vec<Range> = (0..2500).map(|n| Range { start: base + n * 16, len: 9 }).collect();
        let access = |ranges: &[Range]| {
            vec![SpaceAccess { space: SpaceId(1), via: Via::Task { pid }, ranges: ranges.to_vec() }]
        };
        let sent: Vec<u8> = (0..2500 * 9_u32).map(|n| (n % 251) as u8).collect();
        LinuxSink::open(access(&ranges)).unwrap().write_ranges(SpaceId(1), &ranges, &sent).unwrap();
        assert_eq!(std::hint::black_box(&memory)[16 + 8], sent[17]);
        let mut back = vec![0; sent.len()];
        LinuxSource::open(access(&ranges)).unwrap().read_ranges(SpaceId(1), &ranges, &mut back).unwrap();
        assert_eq!(back, sent);
        // Outside of what was prepared, nothing is written at all.
        let sink = LinuxSink::open(access(&ranges[1..])).unwrap();
        assert!(sink.write_ranges(SpaceId(1), &ranges, &sent).is_err());
        assert!(sink.write_ranges(SpaceId(2), &ranges[1..], &sent[9..]).is_err());
    }

    #[test]
    fn what_is_held_back_travels_in_the_last_round_and_zeros_are_written() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let object = |content: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content).unwrap();
            let via = Via::File { path: format!("/proc/self/fd/{}", file.as_raw_fd()) };
            let ranges = vec![Range { start: 0, len: 3 * 4096 }];
            (file, SpaceAccess { space: SpaceId(4), via, ranges })
        };
        // Its last page has an end.
        let mut content = vec![7; 3 * 4096 - 100];
        content[4096..8192].fill(0);
        let (_source, from) = object(&content);
        let (target, to) = object(&vec![9; 3 * 4096 - 100]);
        let mut carrier = Local(LinuxSink::open(vec![to]).unwrap());
        let shared = StillSpace::open(from).unwrap();
        let mut engine = Engine::arm(vec![shared]).unwrap();
        let first = engine.round(&mut carrier, &|| false).unwrap();
        assert_eq!((first.sent_bytes, first.held_back_bytes), (0, 3 * 4096));
        let last = engine.last_round(&mut carrier, &|| false).unwrap();
        assert_eq!((last.sent_bytes, last.zero_bytes), (2 * 4096, 4096));
        let path = format!("/proc/self/fd/{}", target.as_raw_fd());
        assert_eq!(std::fs::read(path).unwrap(), content);
        assert!(carrier.0.zero(SpaceId(4), &[Range { start: 8192, len: 8192 }]).is_err());
    }
}
