//! Packets that the source has kept for the workload: at the target they wait until it runs here, and are delivered once; what still
//! comes to the source after that is passed on too, for as long as senders learn by and by where the workload is.

use super::source::SourceRole;
use crate::shim::Client;
use ferry_network::hold::FRAMES_MAX;
use ferry_transfer::wire::control;
use minicbor::bytes::ByteVec;
use std::time::{Duration, Instant};

/// When the source passes on what has come, after it has heard that the workload runs, ms.
const AFTER_MS: [u64; 6] = [10, 30, 100, 300, 1000, 3000];

/// How exactly.
const LOOK_EVERY: Duration = Duration::from_millis(10);

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

/// What still comes to a source that serves pages.
#[derive(Debug, Default)]
pub(super) struct Stragglers {
    since: Option<Instant>,
    passed: usize,
}

impl Stragglers {
    /// The workload runs at the target from now on.
    pub(super) fn begin(&mut self) {
        *self = Self { since: Some(Instant::now()), passed: 0 };
    }

    /// Whether it is time to pass on what has come.
    pub(super) fn is_due(&mut self) -> bool {
        let Some(since) = self.since else { return false };
        let due = self.next().is_some_and(|after| since.elapsed() >= after);
        self.passed += usize::from(due);
        due
    }

    fn next(&self) -> Option<Duration> {
        AFTER_MS.get(self.passed).map(|ms| Duration::from_millis(*ms))
    }

    /// How soon to look again, while more is expected.
    pub(super) fn pace(&self) -> Option<Duration> {
        let next = self.next()?.saturating_sub(self.since?.elapsed());
        Some(next.max(LOOK_EVERY))
    }
}

impl SourceRole {
    /// What came for the workload since its network was locked goes after it. Lost, it is sent again by whoever sent it.
    pub(super) fn pass_packets(&mut self) {
        if self.clone {
            return;
        }
        if let Ok(frames) = self.ask(Client::held)
            && !frames.is_empty()
        {
            let _ = self.ground.link.send(&control::Message::Frames { frames });
        }
    }

    /// The workload runs at the target by now, and its copy stays here until all pages are there: with it what comes here for it.
    pub(super) fn pass_stragglers(&mut self) {
        self.pass_packets();
        self.stragglers.begin();
    }

    /// Passes on what has come since, if it is time for that.
    pub(super) fn pass_due(&mut self) {
        if self.stragglers.is_due() {
            self.pass_packets();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stragglers_are_passed_on_a_few_times_and_then_no_more() {
        let mut stragglers = Stragglers::default();
        assert!(!stragglers.is_due() && stragglers.pace().is_none());
        stragglers.begin();
        let begun = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        stragglers.since = Some(begun);
        assert_eq!(stragglers.pace(), Some(LOOK_EVERY));
        let passed = std::iter::repeat_with(|| stragglers.is_due()).take_while(|due| *due).count();
        assert_eq!((passed, stragglers.pace()), (AFTER_MS.len(), None));
    }

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
