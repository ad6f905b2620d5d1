//! Whether packing pays: decided by measuring what it costs and what the link takes for the bytes that it saves.
//!
//! On a fast link hardly anything pays; over 100 Mbit/s nearly everything does. The first frames go as they are and show what a byte
//! costs on the link (encryption included); then a few are packed and timed. While it is off, a few are tried now and then, and while it is
//! on every frame is a sample: memory and links change during a move.

use std::fmt;
use std::time::Duration;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As the measurement says.
    #[default]
    Measured,
    /// Never.
    Never,
    /// Every frame that becomes shorter by it.
    Always,
}

/// Frames that show the link's speed before anything is tried: more than the buffers of a connection swallow at once.
const PLAIN_FRAMES: u64 = 16;

/// Frames of one trial.
const TRIAL_FRAMES: u64 = 4;

/// Frames from one trial to the next.
const TRIAL_EVERY: u64 = 256;

/// How much a new sample counts, in parts of one.
const WEIGHT: f64 = 0.125;

/// What was decided last, with its figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Frames are packed.
    pub on: bool,
    /// Frames that were packed to find out; 0: it was not tried.
    pub tried: u64,
    /// What packing takes, nanoseconds for each byte.
    pub packing_ns: f64,
    /// What it saves, of one byte.
    pub saved: f64,
    /// What the link takes for a byte, nanoseconds.
    pub link_ns: f64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tried == 0 {
            return write!(f, "{}", if self.on { "packed as asked for" } else { "not packed" });
        }
        write!(
            f,
            "{}: lz4 takes {:.2} ns for a byte and saves {:.0} %, the link takes {:.2} ns",
            if self.on { "packed" } else { "not packed" },
            self.packing_ns,
            self.saved * 100.0,
            self.link_ns
        )
    }
}

/// Measures and decides, for all streams together.
#[derive(Debug)]
pub(in crate::wire) struct Decider {
    asked: Compression,
    frames: u64,
    verdict: Verdict,
}

impl Decider {
    pub(in crate::wire) fn new(asked: Compression) -> Self {
        let verdict = Verdict { on: asked == Compression::Always, ..Verdict::default() };
        Self { asked, frames: 0, verdict }
    }

    /// Whether to pack the next frame, for good or to find out.
    pub(in crate::wire) fn next(&mut self) -> bool {
        let frame = self.frames;
        self.frames += 1;
        match self.asked {
            Compression::Never => false,
            Compression::Always => true,
            Compression::Measured => {
                let trial = frame >= PLAIN_FRAMES && (frame - PLAIN_FRAMES) % TRIAL_EVERY < TRIAL_FRAMES;
                self.verdict.on || trial
            }
        }
    }

    /// A frame of `bytes` was packed to `packed` of them.
    pub(in crate::wire) fn packed(&mut self, bytes: usize, packed: usize, took: Duration) {
        let first = self.verdict.tried == 0;
        self.verdict.tried += 1;
        let bytes = bytes.max(1) as f64;
        mix(&mut self.verdict.packing_ns, took.as_nanos() as f64 / bytes, first);
        mix(&mut self.verdict.saved, 1.0 - (packed as f64 / bytes).min(1.0), first);
        if self.asked == Compression::Measured && self.verdict.tried >= TRIAL_FRAMES {
            self.verdict.on = self.verdict.saved * self.verdict.link_ns > self.verdict.packing_ns;
        }
    }

    /// `bytes` went onto the link, which took so long, waiting for it included.
    pub(in crate::wire) fn wrote(&mut self, bytes: usize, took: Duration) {
        let first = self.verdict.link_ns == 0.0;
        mix(&mut self.verdict.link_ns, took.as_nanos() as f64 / bytes.max(1) as f64, first);
    }

    pub(in crate::wire) fn verdict(&self) -> Verdict {
        self.verdict
    }
}

fn mix(mean: &mut f64, sample: f64, first: bool) {
    *mean = if first { sample } else { *mean + (sample - *mean) * WEIGHT };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `frames` of 1 MiB that pack to `packed` bytes in a millisecond, over a link that takes `link` for 1 MiB.
    fn after(frames: u64, packed: usize, link: Duration) -> Verdict {
        let mut decider = Decider::new(Compression::Measured);
        for _ in 0..frames {
            let pack = decider.next();
            if pack {
                decider.packed(1 << 20, packed, Duration::from_millis(1));
            }
            let bytes = if pack { packed } else { 1 << 20 };
            decider.wrote(bytes, link.mul_f64(bytes as f64 / f64::from(1 << 20)));
        }
        decider.verdict()
    }

    #[test]
    fn it_pays_on_a_slow_link_and_not_on_a_fast_one_nor_for_noise() {
        assert!(!after(PLAIN_FRAMES, 1 << 18, Duration::from_millis(80)).on, "nothing was tried yet");
        assert!(after(100, 1 << 18, Duration::from_millis(80)).on);
        assert!(!after(100, 1 << 18, Duration::from_millis(1)).on);
        assert!(!after(100, 1 << 20, Duration::from_millis(80)).on);
        let text = after(100, 1 << 18, Duration::from_millis(80)).to_string();
        assert!(text.starts_with("packed: lz4 takes 0.95 ns for a byte and saves 75 %"), "{text}");
    }

    #[test]
    fn it_is_tried_again_now_and_then() {
        let tried = after(PLAIN_FRAMES + 3 * TRIAL_EVERY, 1 << 20, Duration::from_millis(1)).tried;
        assert_eq!(tried, 3 * TRIAL_FRAMES);
    }
}
