//! Packets that the source has kept for the workload, at the target: they wait until it runs here, and are delivered once.

use ferry_network::hold::FRAMES_MAX;
use minicbor::bytes::ByteVec;

/// Those of one move.
#[derive(Debug, Default)]
pub(super) struct Packets {
    waiting: Vec<ByteVec>,
    runs: bool,
}

impl Packets {
    /// These came. What is too much is dropped, as on a line that is too narrow.
    pub(super) fn add(&mut self, frames: Vec<ByteVec>) {
        let room = FRAMES_MAX.saturating_sub(self.waiting.len());
        self.waiting.extend(frames.into_iter().take(room));
    }

    /// The workload runs from now on.
    pub(super) fn runs(&mut self) {
        self.runs = true;
    }

    /// Those that can be delivered now, if there are any.
    pub(super) fn due(&mut self) -> Option<Vec<ByteVec>> {
        (self.runs && !self.waiting.is_empty()).then(|| std::mem::take(&mut self.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_wait_until_the_workload_runs_and_are_bounded() {
        let mut packets = Packets::default();
        packets.add(vec![vec![1].into(); FRAMES_MAX + 5]);
        assert!(packets.due().is_none());
        packets.runs();
        assert_eq!(packets.due().unwrap().len(), FRAMES_MAX);
        assert!(packets.due().is_none());
        packets.add(vec![vec![2].into()]);
        assert_eq!(packets.due().unwrap().len(), 1);
    }
}
