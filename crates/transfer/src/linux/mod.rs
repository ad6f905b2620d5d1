//! The spaces of processes, by pid and by descriptor: what [`crate::access`] describes, opened.
//!
//! Used by mover threads: source and sink while the tasks stand still, the tracker while they run. Nothing here stops or attaches to
//! anything.

mod opened;
mod sink;
mod source;
mod still;
mod tracker;

pub use sink::LinuxSink;
pub use source::LinuxSource;
pub use still::StillSpace;
pub use tracker::{TaskTracker, TrackError};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{SpaceAccess, Via};
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
}
