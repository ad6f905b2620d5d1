//! A target whose workload runs while pages are still at the source: the ways to them, and how far its pager is.

use super::recorder::Recorder;
use crate::shim::protocol::{PagerStatus, STREAMS_MAX};
use ferry_model::error::Result;
use ferry_model::event::{PagesFollow, Phase, What};
use ferry_model::handover::Input;
use ferry_transfer::wire::Stream;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How often the pager is asked how far it is.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often the other side and whoever follows hear of it.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// One stream of a set, as it was greeted.
pub(super) struct Way {
    pub generation: u32,
    pub index: u32,
    pub count: u32,
    pub stream: Box<dyn Stream>,
}

/// Where streams of missing pages come in.
pub(super) struct Ways {
    incoming: Receiver<Way>,
    generation: u32,
    streams: Vec<Option<Box<dyn Stream>>>,
}

impl Ways {
    /// The door, and what it leads to.
    pub fn new() -> (SyncSender<Way>, Self) {
        let (door, incoming) = sync_channel(2 * STREAMS_MAX as usize);
        (door, Self { incoming, generation: 0, streams: Vec::new() })
    }

    /// As [`Self::newest`], and waits for one: whoever connects may be ahead of the thread here that takes the connection.
    pub fn wait(&mut self, time_max: Duration) -> Option<Vec<OwnedFd>> {
        let end = Instant::now() + time_max;
        loop {
            if let Some(streams) = self.newest() {
                return Some(streams);
            }
            let way = self.incoming.recv_timeout(end.saturating_duration_since(Instant::now())).ok()?;
            self.take(way);
        }
    }

    /// A whole set that has come since the last time, in its order. Of several the newest.
    pub fn newest(&mut self) -> Option<Vec<OwnedFd>> {
        while let Ok(way) = self.incoming.try_recv() {
            self.take(way);
        }
        if self.streams.is_empty() || self.streams.iter().any(Option::is_none) {
            return None;
        }
        let whole = std::mem::take(&mut self.streams).into_iter().flatten();
        // Somebody waits for what comes over the first.
        whole.enumerate().map(|(at, stream)| stream.into_socket(at == 0).ok()).collect()
    }

    fn take(&mut self, way: Way) {
        let count = way.count as usize;
        if way.generation < self.generation || way.count > STREAMS_MAX || way.index >= way.count {
            return;
        }
        if way.generation > self.generation || self.streams.len() != count {
            self.generation = way.generation;
            self.streams = std::iter::repeat_with(|| None).take(count).collect();
        }
        self.streams[way.index as usize] = Some(way.stream);
    }
}

/// A workload that runs while pages of it are missing.
pub(super) struct Drain {
    connected: Option<bool>,
    looked: Instant,
    told: Option<Instant>,
    last: Option<PagesFollow>,
    failed: Option<String>,
}

impl Drain {
    pub fn begin(recorder: &Recorder) -> Self {
        recorder.phase(Phase::PostCopy);
        Self { connected: None, looked: Instant::now(), told: None, last: None, failed: None }
    }

    /// Whether it is time to ask the pager again.
    pub fn is_due(&mut self) -> bool {
        let due = self.looked.elapsed() >= LOOK_EVERY;
        if due {
            self.looked = Instant::now();
        }
        due
    }

    /// What the pager has said: what the handover is to be told of that, and what everybody else.
    pub fn take(&mut self, status: Result<PagerStatus>) -> (Option<Input>, Vec<What>) {
        // A shim that does not answer is started anew by whoever asks next.
        let Ok(status) = status else {
            let told =
                self.last.filter(|last| last.connected).map(|last| PagesFollow { connected: false, ..last });
            self.last = told.or(self.last);
            return (self.link(false), told.map(What::Follow).into_iter().collect());
        };
        let mut told = self.tell(&status);
        if self.failed != status.failed {
            self.failed.clone_from(&status.failed);
            told.extend(status.failed.map(|text| What::Note { text }));
        }
        match status.complete {
            Some(hash) => (Some(Input::PagesIn(hash)), told),
            None => (self.link(status.connected), told),
        }
    }

    fn link(&mut self, connected: bool) -> Option<Input> {
        let changed = self.connected != Some(connected);
        self.connected = Some(connected);
        changed.then_some(Input::Link(connected))
    }

    /// What is new since it was told last, not too often.
    fn tell(&mut self, status: &PagerStatus) -> Vec<What> {
        let now = PagesFollow {
            missing_bytes: status.missing_bytes,
            placed_bytes: status.placed_bytes,
            faults: status.faults,
            fault_us_median: status.fault_us_median,
            fault_us_p99: status.fault_us_p99,
            connected: status.connected,
        };
        let over = status.complete.is_some();
        let early = self.told.is_some_and(|told| told.elapsed() < TELL_EVERY);
        let same = self.last.as_ref() == Some(&now);
        let turned = self.last.as_ref().is_some_and(|last| last.connected != now.connected);
        if !over && !turned && (early || same) {
            return Vec::new();
        }
        (self.told, self.last) = (Some(Instant::now()), Some(now));
        let bytes_total = now.missing_bytes.saturating_add(now.placed_bytes);
        let progress = What::Progress { phase: Phase::PostCopy, bytes: now.placed_bytes, bytes_total };
        vec![progress, What::Follow(now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn way(generation: u32, index: u32, count: u32) -> Way {
        Way { generation, index, count, stream: Box::new(UnixStream::pair().unwrap().0) }
    }

    #[test]
    fn only_a_whole_set_is_taken_and_the_newest_counts() {
        let (door, mut ways) = Ways::new();
        door.send(way(1, 0, 2)).unwrap();
        assert!(ways.newest().is_none());
        door.send(way(2, 1, 2)).unwrap();
        door.send(way(1, 1, 2)).unwrap();
        assert!(ways.newest().is_none(), "half of one set and half of another");
        door.send(way(2, 0, 2)).unwrap();
        assert_eq!(ways.newest().unwrap().len(), 2);
        assert!(ways.newest().is_none(), "it was taken");
        for wrong in [way(3, 2, 2), way(3, 0, 1000), way(1, 0, 1)] {
            door.send(wrong).unwrap();
        }
        assert!(ways.newest().is_none());
    }
}
