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
        }
    }

    /// Whether somebody gave up. Asked before each batch; never waits.
    pub fn stopped(&self) -> bool {
        if self.told.get().elapsed() > PROGRESS_EVERY {
            self.told.set(Instant::now());
            let bytes = self.batches.get() * BATCH_BYTES;
            self.recorder.progress(bytes, self.bytes_total.max(bytes));
        }
        self.batches.set(self.batches.get() + 1);
        while self.stop.borrow().is_none() && self.hear(Duration::ZERO) {}
        if self.said.get().elapsed() > SIGN_EVERY {
            self.said.set(Instant::now());
            let what = What::Note { text: "Pages are on their way".into() };
            // A link that is gone is heard of next time.
            let _ = self.link.borrow_mut().send(&Message::Event { event: Event { at_us: 0, what } });
        }
        self.stop.borrow().is_some()
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
