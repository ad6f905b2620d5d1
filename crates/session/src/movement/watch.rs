//! Hears the other side and the user while pages are on their way, and tells the other side that this one lives.
//!
//! A round takes as long as memory is large. Whoever gives up in it must be heard between two batches, a target that hears nothing for
//! minutes would give up by itself, and a person wants to see how far it is.

use super::ground::gives_up;
use super::link::{Heard, Link};
use super::planning;
use super::recorder::Recorder;
use ferry_model::error::{Error, Kind};
use ferry_model::event::{Event, What};
use ferry_transfer::engine::BATCH_BYTES;
use ferry_transfer::wire::control::Message;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

/// How often the other side hears that this one lives.
const SIGN_EVERY: Duration = Duration::from_secs(5);

/// How long the other side's reason is waited for when a page stream broke.
const REASON_MAX: Duration = Duration::from_secs(2);

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The ear of a round.
pub(super) struct Watch<'a> {
    link: RefCell<&'a mut Link>,
    recorder: &'a Recorder,
    stop: RefCell<Option<Error>>,
    said: Cell<Instant>,
    told: Cell<Instant>,
    batches: Cell<u64>,
    /// Bytes that the round is expected to send.
    bytes_total: u64,
    /// The other side has said that it is ready for what comes after.
    ready: Cell<bool>,
}

/// A round on a thread of its own, as whoever watches it sees it.
#[derive(Default)]
pub(super) struct Beside {
    stop: AtomicBool,
    ended: AtomicBool,
    batches: AtomicU64,
}

impl Beside {
    /// Nobody wants it any more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Asked by the round before each batch.
    pub fn stopped(&self) -> bool {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.stop.load(Ordering::Relaxed)
    }

    /// Whoever waits for what `link` hears is told that it is over when this is dropped, whatever came of it, even a panic.
    pub fn until_dropped<'a>(&'a self, link: &'a SyncSender<Heard>) -> Ending<'a> {
        Ending(self, link)
    }
}

/// A round that has not ended.
pub(super) struct Ending<'a>(&'a Beside, &'a SyncSender<Heard>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        // Where no more fits there is something else to be heard.
        let _ = self.1.try_send(Heard::Nothing);
    }
}

impl<'a> Watch<'a> {
    pub fn new(link: &'a mut Link, recorder: &'a Recorder, bytes_total: u64) -> Self {
        let now = Instant::now();
        Self {
            link: RefCell::new(link),
            recorder,
            stop: RefCell::default(),
            said: Cell::new(now),
            told: Cell::new(now),
            batches: Cell::new(0),
            bytes_total,
            ready: Cell::default(),
        }
    }

    /// Whether somebody gave up. Asked before each batch; never waits.
    pub fn stopped(&self) -> bool {
        self.batches.set(self.batches.get() + 1);
        self.tell();
        while self.stop.borrow().is_none() && self.hear(Duration::ZERO) {}
        self.stop.borrow().is_some()
    }

    /// Hears until a round on another thread has ended, and ends it early if somebody gives up.
    pub fn until_ended(&self, round: &Beside) {
        while !round.ended.load(Ordering::Acquire) {
            self.batches.set(round.batches.load(Ordering::Relaxed));
            self.tell();
            if self.stop.borrow().is_some() {
                round.stop();
            }
            self.hear(PROGRESS_EVERY);
        }
    }

    /// Why somebody gave up, if that was heard.
    pub fn heard(self) -> Option<Error> {
        self.stop.into_inner()
    }

    /// Whether the other side has said meanwhile that it is ready for what comes after.
    pub fn is_ready(&self) -> bool {
        self.ready.get()
    }

    /// Progress for whoever follows, and a sign of life for the other side.
    fn tell(&self) {
        if self.told.get().elapsed() > PROGRESS_EVERY {
            self.told.set(Instant::now());
            let bytes = self.batches.get() * BATCH_BYTES;
            self.recorder.progress(bytes, self.bytes_total.max(bytes));
        }
        if self.said.get().elapsed() > SIGN_EVERY {
            self.said.set(Instant::now());
            let what = What::Note { text: "Pages are on their way".into() };
            // A link that is gone is heard of next time.
            let _ = self.link.borrow_mut().send(&Message::Event { event: Event { at_us: 0, what } });
        }
    }

    /// Why the round ended: what was heard, waiting a moment for it, else `error`.
    pub fn reason(self, error: Error) -> Error {
        let began = Instant::now();
        while self.stop.borrow().is_none() && began.elapsed() < REASON_MAX {
            self.hear(REASON_MAX.saturating_sub(began.elapsed()));
        }
        self.stop.into_inner().unwrap_or(error)
    }

    /// Hears one thing; whether there was one.
    fn hear(&self, time_max: Duration) -> bool {
        let heard = self.link.borrow_mut().hear(time_max);
        let stop = match heard {
            Heard::Nothing => return false,
            Heard::Message(Message::Event { event }) => {
                self.recorder.note(event.what);
                None
            }
            Heard::Message(Message::Ready) => {
                self.ready.set(true);
                None
            }
            Heard::Message(Message::Failed { error }) => Some(error),
            Heard::Message(message) => gives_up(&message)
                .map(|reason| Error::new(Kind::RolledBack, format!("The target gave up: {reason}"))),
            Heard::Gone(error) => {
                Some(planning::link_error(&error).context("The connection to the other node is lost"))
            }
            Heard::Cancel(why) => Some(Error::new(Kind::RolledBack, why)),
            Heard::Attached(_) | Heard::Order(_) => None,
        };
        *self.stop.borrow_mut() = stop;
        true
    }
}
